"""Checks of what the figures are computed from.

Input that is not finite is an error: a comparison with NaN is false and would pass as a good rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ProclipError


def shapes(*tensors: Tensor) -> str:
    """Shapes as a message names them."""
    return " and ".join(str(list(tensor.shape)) for tensor in tensors)


def check_finite(values: Tensor, name: str) -> None:
    """Raise `ProclipError` with the first row that is not finite."""
    extremes = torch.stack(values.aminmax()) if values.numel() else values  # NaN is the least and the most of all
    if not bool(torch.isfinite(extremes).all()):
        row = int((~torch.isfinite(values)).nonzero()[0, 0])
        raise ProclipError(f"{name} must be finite; row {row} is not")
