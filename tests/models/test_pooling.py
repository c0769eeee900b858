from __future__ import annotations

import pytest
import torch
from torch import Tensor

from proclip.models.pooling import last_token_pool, mean_pool

LENGTHS = (1, 5, 3)


def padded(side: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Hidden states whose padding is nan, their mask, and the states without padding."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(length, 4, generator=generator) for length in LENGTHS]
    hidden, mask = torch.full((3, 5, 4), float("nan")), torch.zeros(3, 5, dtype=torch.int64)
    for number, row in enumerate(rows):
        span = slice(5 - len(row), 5) if side == "left" else slice(0, len(row))
        hidden[number, span], mask[number, span] = row, 1
    return hidden, mask, rows


@pytest.mark.parametrize("side", ["left", "right"])
def test_mean_pool_is_the_mean_of_each_rows_tokens(side: str) -> None:
    hidden, mask, rows = padded(side)
    wanted = torch.stack([sum(row, torch.zeros(4)) / len(row) for row in rows])
    torch.testing.assert_close(mean_pool(hidden, mask), wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_last_token_pool_takes_each_rows_last_token(side: str) -> None:
    hidden, mask, rows = padded(side)
    assert torch.equal(last_token_pool(hidden, mask), torch.stack([row[-1] for row in rows]))


@pytest.mark.parametrize("pool", [mean_pool, last_token_pool])
def test_half_precision_is_pooled_in_float32(pool) -> None:
    hidden = torch.full((1, 300, 2), 1.01).bfloat16()
    pooled = pool(hidden, torch.ones(1, 300, dtype=torch.int64))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, hidden[0, :1].float())
