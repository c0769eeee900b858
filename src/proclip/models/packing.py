"""Short texts side by side in one row of a batch, each with positions of its own, where that costs less than padding.

transformers keeps texts in one row apart where their positions begin anew and no attention mask is given. It pays for
a few texts of unlike lengths: in batches of like length there are many batches, each of which reads all of the model's
weights, and in one batch much padding. A long list has texts of every length, and is as cheap in padded batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class Plan(NamedTuple):
    """Batches of texts, as their places in a list."""

    padded: list[list[int]]
    """Batches of texts of like length, the longest first."""
    packed: list[list[list[int]]]
    """Batches of rows of texts side by side, of `WIDTH` tokens at most."""


def pack_rows(lines: Sequence[Sequence[TokenRow]], fill: int, width: int = WIDTH) -> Packed:
    """Texts side by side as one batch.

    Args:
        lines: texts of each row, b in all.
        fill: token that stands at what is left of a row.
        width: tokens of a row; none has more.
    """
    texts = [row for line in lines for row in line]
    longest = max(len(row.ids) for row in texts)
    input_ids = np.full((len(lines), width), fill, dtype=np.int64)
    position_ids = np.zeros_like(input_ids)
    places = np.zeros((len(texts), longest), dtype=np.int64)
    number = 0
    for line, members in enumerate(lines):
        start = 0
        for row in members:
            end = start + len(row.ids)
            input_ids[line, start:end], position_ids[line, start:end] = row.ids, np.arange(end - start)
            places[number, : end - start] = line * width + np.arange(start, end)
            number, start = number + 1, end
        position_ids[line, start:] = np.arange(width - start) % longest
    return Packed(input_ids, position_ids, places)


def plan(lengths: Sequence[int], batch_tokens: int) -> Plan:
    """Batches of texts: all of like length and padded, or those that fit a row side by side, whatever costs less.

    Args:
        lengths: of the texts, in tokens.
        batch_tokens: most tokens of a batch of more than one text, filling included.
    """
    padded = list(batches(lengths, batch_tokens))
    lines = _lines(lengths, [place for place, length in enumerate(lengths) if length <= WIDTH])
    count = max(1, batch_tokens // WIDTH)
    packed = [lines[start : start + count] for start in range(0, len(lines), count)]
    long = [place for place, length in enumerate(lengths) if length > WIDTH]
    rest = [[long[place] for place in batch] for batch in batches([lengths[place] for place in long], batch_tokens)]

    def cost(groups: Sequence[Sequence[int]]) -> int:
        return sum(lengths[group[0]] * len(group) + BATCH_COST for group in groups)  # the first is the longest

    beside = len(lines) * WIDTH * ROW_COST + len(packed) * BATCH_COST
    return Plan(rest, packed) if beside + cost(rest) < cost(padded) else Plan(padded, [])


def _lines(lengths: Sequence[int], short: Iterable[int]) -> list[list[int]]:
    """Places of texts by row, each where the least room is left that it fits in, the longest first."""
    lines = list[list[int]]()
    with_room: list[list[int]] = [[] for _ in range(WIDTH + 1)]  # rows by the tokens that they have left
    for place in sorted(short, key=lambda place: -lengths[place]):
        length = lengths[place]
        room = next((room for room in range(length, WIDTH) if with_room[room]), WIDTH)
        if room == WIDTH:
            lines.append([])
            with_room[room].append(len(lines) - 1)
        line = with_room[room].pop()
        lines[line].append(place)
        with_room[room - length].append(line)
    return lines
