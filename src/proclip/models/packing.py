"""Short texts side by side in one row of a batch, each with positions of its own, where that costs less than padding.

transformers keeps texts in one row apart where their positions begin anew and no attention mask is given. It pays for
a few texts of unlike lengths: in batches of like length there are many batches, each of which reads all of the model's
weights, and in one batch much padding. A long list has texts of every length, and is as cheap in padded batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .token_rows import TokenRow, batches

WIDTH = 64
"""Tokens of a row, for attention costs the square of them; longer texts have rows of their own."""
BATCH_COST = 40
"""What a batch costs beside its tokens, in tokens (SmolLM2 on two cores, docs/lab_log.md)."""
ROW_COST = 1.1
"""What a token of such a row costs, in padded ones: it is compared with the whole row, under a mask."""


class Packed(NamedTuple):
    """Texts as a decoder reads them side by side, [r, w] int64 each, and where the tokens of each are."""

    input_ids: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    """From 0 for each text, and for what is left of a row; below the longest text's length."""
    places: npt.NDArray[np.int64]
    """[b, t] for b texts of at most t tokens: places of a text's tokens in the rows one after the other, then zeros."""


class Batch(NamedTuple):
    """Texts that are encoded together."""

    places: list[int]
    side_by_side: bool
    """Whether in rows of `WIDTH` tokens, else padded to the longest."""


def pack_rows(rows: Sequence[TokenRow], fill: int, width: int = WIDTH) -> Packed:
    """Texts as one batch, each put where it first fits, the longest first.

    Args:
        rows: b texts.
        fill: token that stands at what is left of a row.
        width: tokens of a row; no text is longer.
    """
    lengths = [len(row.ids) for row in rows]
    longest, starts, used = max(lengths), [0] * len(rows), list[int]()
    for line, members in enumerate(_lines(lengths, range(len(rows)), width)):
        used.append(0)
        for place in members:
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


def plan(lengths: Sequence[int], batch_tokens: int) -> list[Batch]:
    """Batches of texts: all of like length and padded, or those that fit a row side by side, whatever costs less.

    Args:
        lengths: of the texts, in tokens.
        batch_tokens: most tokens of a batch of more than one text, filling included.
    """
    padded = list(batches(lengths, batch_tokens))
    short = [place for place in range(len(lengths)) if lengths[place] <= WIDTH]
    lines = _lines(lengths, short, WIDTH)
    count = max(1, batch_tokens // WIDTH)
    packed = [list(chain(*lines[start : start + count])) for start in range(0, len(lines), count)]
    long = [place for place in range(len(lengths)) if lengths[place] > WIDTH]
    rest = [[long[place] for place in batch] for batch in batches([lengths[place] for place in long], batch_tokens)]

    def cost(groups: Sequence[Sequence[int]]) -> int:
        return sum(lengths[group[0]] * len(group) + BATCH_COST for group in groups)  # the first is the longest

    if len(lines) * WIDTH * ROW_COST + len(packed) * BATCH_COST + cost(rest) >= cost(padded):
        return [Batch(places, False) for places in padded]
    return [*(Batch(places, False) for places in rest), *(Batch(places, True) for places in packed)]


def _lines(lengths: Sequence[int], places: Iterable[int], width: int) -> list[list[int]]:
    """Places of texts by the row in which each first fits, the longest first.

    Some of these rows alone would be filled just so again: no text of theirs was put with regard to another row.
    """
    lines, left = list[list[int]](), list[int]()
    for place in sorted(places, key=lambda place: -lengths[place]):
        line = next((line for line, room in enumerate(left) if lengths[place] <= room), len(lines))
        if line == len(lines):
            lines.append([])
            left.append(width)
        lines[line].append(place)
        left[line] -= lengths[place]
    return lines
