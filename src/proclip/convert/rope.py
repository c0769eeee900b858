"""EVA02-CLIP's rotary tables, which its checkpoints carry as buffers and timm computes."""

from __future__ import annotations

import torch
from torch import Tensor

REFERENCE_GRID = 16
"""Patches a side that EVA02-CLIP's positions are scaled to, whatever the image's size (``pt_hw_seq_len``)."""


def rope_tables(grid: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every patch's angles, rows first, each frequency for a pair of neighbouring dimensions.

    Args:
        grid: patches a side.
        head_width: h, a multiple of 4: the first half turns with the row, the second with the column.

    Returns:
        two tensors [grid * grid, h] float32: ``freqs_cos`` and ``freqs_sin``.
    """
    half = head_width // 2
    frequencies = 10000.0 ** -(torch.arange(0, half, 2).float() / half)
    places = torch.arange(grid).float() / grid * REFERENCE_GRID
    angles = (places[:, None] * frequencies).repeat_interleave(2, dim=1)
    rows = angles[:, None, :].expand(grid, grid, half)
    columns = angles[None, :, :].expand(grid, grid, half)
    both = torch.cat([rows, columns], dim=2).reshape(grid * grid, head_width)
    return both.cos(), both.sin()
