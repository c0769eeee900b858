"""Short texts side by side in one row of a batch, each with positions of its own: less padding, and fewer batches.

A batch of some tokens costs a decoder on a CPU as much as 40 tokens more (it reads all of its weights), so a few texts
of unlike lengths are dear in batches of like lengths, and dear with the padding of one batch. transformers keeps texts
in one row apart where their positions begin anew and no attention mask is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .token_rows import TokenRow

WIDTH = 64
"""Least tokens of a row, for attention costs the square of them; a longer text widens the rows of its batch."""


class Packed(NamedTuple):
    """Texts as a decoder reads them side by side, [r, w] int64 each, and where the tokens of each are."""

    input_ids: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    """From 0 for each text, and for what is left of a row; below the longest text's length."""
    places: npt.NDArray[np.int64]
    """[b, t] for b texts of at most t tokens: places of a text's tokens in the rows one after the other, then zeros."""


def pack_rows(rows: Sequence[TokenRow], fill: int) -> Packed:
    """Texts as one batch, each put where it first fits, the longest first.

    Args:
        rows: b texts.
        fill: token that stands at what is left of a row.
    """
    lengths = [len(row.ids) for row in rows]
    longest = max(lengths)
    width = max(WIDTH, longest)
    starts, used = [0] * len(rows), list[int]()
    for place in sorted(range(len(rows)), key=lambda place: -lengths[place]):
        line = next((line for line, count in enumerate(used) if count + lengths[place] <= width), len(used))
        if line == len(used):
            used.append(0)
        starts[place] = line * width + used[line]
        used[line] += lengths[place]
    input_ids = np.full(len(used) * width, fill, dtype=np.int64)
    position_ids = np.concatenate([(np.arange(width) - count) % longest for count in used])
    places = np.zeros((len(rows), longest), dtype=np.int64)
    for place, (row, start, length) in enumerate(zip(rows, starts, lengths, strict=True)):
        input_ids[start : start + length] = row.ids
        position_ids[start : start + length] = np.arange(length)
        places[place, :length] = np.arange(start, start + length)
    return Packed(input_ids.reshape(len(used), width), position_ids.reshape(len(used), width), places)


def packed_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of texts, longest first; a batch has one text or more.

    Args:
        lengths: of the texts, in tokens.
        batch_tokens: most tokens of the texts of a batch.
    """
    batch: list[int] = []
    count = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and count + lengths[place] > batch_tokens:
            yield batch
            batch, count = [], 0
        batch.append(place)
        count += lengths[place]
    if batch:
        yield batch
