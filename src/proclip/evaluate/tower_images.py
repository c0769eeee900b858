"""The image side of a CLIP, whoever trained its tower last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from PIL.Image import Image
from torch import Tensor, nn

from ..models.preprocess import ImagePreprocess
from ..models.towers import ImageTower

NO_MATTER = ("architectures", "dtype", "model_type", "torch_dtype", "transformers_version", "_name_or_path")
"""Entries of a tower's config that say nothing of what it computes."""


def weights_digest(module: nn.Module) -> str:
    """Hash of a module's parameters and buffers, by name: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


@final
class TowerImages:
    """An image tower with its preprocessing.

    Its identity is that of the weights, the architecture and the preprocessing, not of a name: a tower that training
    left as it was shares the features of the CLIP that it comes from.

    Args:
        tower: pixel values to image features; where it computes is where its weights are.
        preprocess: of the tower.
        kept: whether a cache may keep the features; not of weights that the next step changes.
    """

    def __init__(self, tower: ImageTower, preprocess: ImagePreprocess, kept: bool = True) -> None:
        self.tower, self.preprocess = tower.eval(), preprocess
        self.identity: Mapping[str, Any] = self._identity() if kept else {}

    def _identity(self) -> dict[str, Any]:
        tower, preprocess = self.tower, self.preprocess
        config = {key: value for key, value in tower.config.items() if key not in NO_MATTER}
        described = json.dumps([config, preprocess.to_config()], sort_keys=True, default=str)
        return {
            "kind": "image-tower",
            "family": tower.family,
            "weights": weights_digest(tower),
            "settings": hashlib.sha256(described.encode()).hexdigest()[:16],
        }

    def prepare(self, image: Image) -> Tensor:
        """A picture to what the tower takes, stacked."""
        return self.preprocess(image)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Tensor]) -> Tensor:
        """Prepared pictures to image features, [b, d] float32 on the CPU."""
        device = next(self.tower.parameters()).device
        features: Tensor = self.tower(torch.stack(list(prepared)).to(device))
        return features.float().cpu()
