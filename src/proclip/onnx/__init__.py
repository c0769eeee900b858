"""Exported models in ONNX Runtime, with numpy, Pillow and tokenizers beside it; torch is never imported.

model = proclip.onnx.load("fox.onnx-model")
images = model.encode_image(["fox.png"])
texts = model.encode_text(["ein Fuchs", "a fire engine"])
print(model.similarity(images, texts))
"""

from __future__ import annotations

from .manifest import Manifest, read_manifest
from .model import OnnxModel, load

__all__ = ["Manifest", "OnnxModel", "load", "read_manifest"]
