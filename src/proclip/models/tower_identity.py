"""What an image tower is, whatever its name: a hash of its weights, its architecture and its preprocessing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from .preprocess import ImagePreprocess
from .towers import ImageTower

NO_MATTER = ("architectures", "dtype", "model_type", "torch_dtype", "transformers_version", "_name_or_path")
"""Entries of a tower's config that say nothing of what it computes."""


def weights_digest(module: nn.Module) -> str:
    """Hash of a module's parameters and buffers, by name: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def tower_identity(tower: ImageTower, preprocess: ImagePreprocess) -> dict[str, Any]:
    """All that shapes a tower's features, JSON values; equal identities give equal features."""
    config = {key: value for key, value in tower.config.items() if key not in NO_MATTER}
    described = json.dumps([config, preprocess.to_config()], sort_keys=True, default=str)
    return {
        "kind": "image-tower",
        "family": tower.family,
        "weights": weights_digest(tower),
        "settings": hashlib.sha256(described.encode()).hexdigest()[:16],
    }
