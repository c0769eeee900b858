"""An export against torch: the same pictures and texts through both, in batches and alone, and what they may differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ProclipError
from ..models.adapter import Adapter
from ..onnx.manifest import Precision
from ..onnx.model import OnnxModel

TOLERANCE = 1e-4
"""Largest difference of an entry of an L2-normalised vector in float32."""
LEAST_COSINE: Mapping[Precision, float] = {"float16": 0.999, "int8": 0.8}
"""Of a vector with torch's in float32: below it something is broken, and not only rounded."""
CHECK_TEXTS = (
    "A red car",
    "  two   birds,\nand a third one ",
    "赤い家と青い車 🏠",
    "ein roter Fuchs springt über den Zaun, während es regnet; красный дом и синяя машина, يا مرحبا",
    "A drawing on a white background. It shows a small house with a blue door, three windows and a round roof. " * 2,
)
"""Texts of several lengths and scripts."""
Vectors = npt.NDArray[np.float32]


def check_pictures() -> list[Image.Image]:
    """Pictures of three aspects, smooth and rough, RGB and with transparency."""
    random, pictures = np.random.default_rng(0), []
    for (width, height), channels in (((300, 200), 3), ((90, 160), 4), ((120, 120), 3)):
        coarse = random.integers(0, 256, (height // 10, width // 10, channels), dtype=np.uint8)
        pictures.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return pictures


def llm_like(adapter: Adapter) -> Vectors:
    """Five vectors with the mean and deviation of what the adapter was trained on, [5, h]."""
    noise = np.random.default_rng(0).standard_normal((5, adapter.llm_dim), dtype=np.float32)
    mean, std = (tensor.detach().cpu().float().numpy() for tensor in (adapter.input_mean, adapter.input_std))
    vectors: Vectors = mean + std * noise
    return vectors


def check_part(model: OnnxModel, part: str, wanted: Vectors, llm_embeds: Vectors) -> dict[str, float]:
    """Compare a part of an export with torch, in one batch and one by one.

    Args:
        model: the export.
        part: ``image``, of `check_pictures`; ``adapter``, of `llm_embeds`; ``embedder`` and, through the adapter,
            ``text``, of `CHECK_TEXTS`.
        wanted: what torch gives in float32.
        llm_embeds: [n, h].

    Returns:
        what `compare` gives.

    Raises:
        ProclipError: the export is not right.
    """
    encoders: dict[str, tuple[Callable[[Any], Vectors], Sequence[Any]]] = {
        "image": (model.encode_image, check_pictures()),
        "adapter": (lambda rows: model.project_text(np.stack(rows)), list(llm_embeds)),
        "embedder": (model.embed_text, CHECK_TEXTS),
        "text": (model.encode_text, CHECK_TEXTS),
    }
    encode, items = encoders[part]
    both = np.concatenate([encode(items), *(encode([item]) for item in items)])
    return compare(both, np.tile(wanted, (2, 1)), model.manifest.precision, part, unit=part != "embedder")


def compare(found: Vectors, wanted: Vectors, precision: Precision, what: str, unit: bool = True) -> dict[str, float]:
    """How far an export is from torch.

    Args:
        found: of the export, [n, d].
        wanted: of torch in float32, [n, d].
        precision: of the export.
        what: is compared, for the message.
        unit: whether both are L2-normalised; else differences are shares of each wanted vector's largest entry.

    Returns:
        ``largest_difference`` of an entry, and ``least_cosine`` of a vector.

    Raises:
        ProclipError: a value is not finite, or they differ by more than the precision allows.
    """
    if not np.isfinite(found).all():
        raise ProclipError(
            f"{what}: the export in {precision} gives values that are not finite; "
            + ("its numbers leave float16's range: use float32" if precision == "float16" else "the export is broken")
        )
    scale = 1.0 if unit else np.abs(wanted).max(axis=1, keepdims=True)
    largest = float((np.abs(found - wanted) / scale).max())
    wide, other = found.astype(np.float64), wanted.astype(np.float64)
    cosines = (wide * other).sum(axis=1) / (np.linalg.norm(wide, axis=1) * np.linalg.norm(other, axis=1))
    least = float(cosines.min())
    if precision == "float32" and largest > TOLERANCE:
        raise ProclipError(f"{what}: the export differs from torch by {largest:.2g}, at most {TOLERANCE:g} is right")
    if precision != "float32" and least < LEAST_COSINE[precision]:
        raise ProclipError(
            f"{what}: a vector of the export in {precision} has a cosine of {least:.3f} with torch's, at least "
            f"{LEAST_COSINE[precision]} is expected: use another precision"
        )
    return {"largest_difference": float(f"{largest:.3g}"), "least_cosine": float(f"{least:.6g}")}
