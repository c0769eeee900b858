"""The image side of a CLIP, whoever trained its tower last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from PIL.Image import Image
from torch import Tensor

from ..models.preprocess import ImagePreprocess
from ..models.tower_identity import tower_identity
from ..models.towers import ImageTower


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
        self.identity: Mapping[str, Any] = tower_identity(tower, preprocess) if kept else {}

    def prepare(self, image: Image) -> Tensor:
        """A picture to what the tower takes, stacked."""
        return self.preprocess(image)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Tensor]) -> Tensor:
        """Prepared pictures to image features, [b, d] float32 on the CPU."""
        device = next(self.tower.parameters()).device
        features: Tensor = self.tower(torch.stack(list(prepared)).to(device))
        return features.float().cpu()
