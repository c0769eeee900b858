"""Texts to the tokens that a decoder reads, which of them are pooled, and padded batches of them. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import EmbedderConfig
from ..errors import ProclipError

Tokenize = Callable[..., Any]
"""A tokenizer of transformers, or what takes the same texts and options and gives ``input_ids``."""


def check_texts(texts: Sequence[str]) -> None:
    """Refuse texts that have nothing to embed, or that no tokenizer reads.

    Raises:
        ProclipError: a text is empty or white space, or is no valid Unicode; the message gives its place.
    """
    for place, text in enumerate(texts):
        if not text.strip():
            raise ProclipError(f"text {place} of {len(texts)} is empty: leave it out, or give it words")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X} at {error.start} is half of a character"
            raise ProclipError(f"text {place} of {len(texts)} is no valid Unicode: {half}") from None


class TokenRow(NamedTuple):
    """A text as a decoder reads it."""

    ids: list[int]
    """Token ids, special ones included."""
    pooled: int
    """How many tokens, counted from the last, go into the vector; 1 or more."""


@dataclass(frozen=True)
class TokenRows:
    """Texts as a decoder reads them."""

    rows: list[TokenRow]
    """One for each text."""
    cut: list[bool]
    """Which texts lost their end."""


def plain_rows(texts: Sequence[str], tokenizer: Tokenize, config: EmbedderConfig) -> TokenRows:
    """Instruction and text with the tokenizer's own special tokens; all but the first `skip_tokens` are pooled.

    Raises:
        ProclipError: nothing of a text is left to pool.
    """
    limit, skip = config.max_length, config.skip_tokens
    prompted = [config.instruction + text for text in texts]
    ids: list[list[int]] = tokenizer(prompted, truncation=True, max_length=limit)["input_ids"]
    for text, row in zip(texts, ids, strict=True):
        if len(row) <= skip:
            raise ProclipError(
                f"the tokenizer of {config.model!r} gives {len(row)} tokens for {text!r}, "
                f"embedder.skip_tokens leaves out {skip}"
            )
    # Only a text that fills the limit can have lost its end: those few are counted without the cut.
    full = [place for place, row in enumerate(ids) if len(row) == limit]
    uncut = tokenizer([prompted[place] for place in full], truncation=False, verbose=False)["input_ids"] if full else []
    lost = {place for place, row in zip(full, uncut, strict=True) if len(row) > limit}
    rows = [TokenRow(row, len(row) - skip) for row in ids]
    return TokenRows(rows, [place in lost for place in range(len(rows))])


def pad_rows(
    rows: Sequence[TokenRow], fill: int, side: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of tokens as one batch.

    Args:
        rows: b texts.
        fill: token that stands at padding; masks hide it.
        side: ``left`` or ``right``, where padding stands.

    Returns:
        token ids, attention mask (1 at tokens) and pooling mask (1 at tokens that go into the vector), [b, t] each.
    """
    longest = max(len(row.ids) for row in rows)
    input_ids = np.full((len(rows), longest), fill, dtype=np.int64)
    mask, pooled = np.zeros_like(input_ids), np.zeros_like(input_ids)
    for place, (ids, count) in enumerate(rows):
        start = longest - len(ids) if side == "left" else 0
        end = start + len(ids)
        input_ids[place, start:end], mask[place, start:end], pooled[place, end - count : end] = ids, 1, 1
    return input_ids, mask, pooled


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of texts, longest first (what does not fit in memory fails at once); a batch has one text or more.

    Args:
        lengths: of the texts, in tokens.
        batch_tokens: most tokens of a batch, padding included. A 16th of them may be padding, so that a few texts of
            unlike lengths go in several batches: what a batch costs beside its tokens is less than that.
    """
    batch: list[int] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda r: -lengths[r]):
        if batch:
            longest = lengths[batch[0]]
            padding += longest - lengths[row]
            if longest * (len(batch) + 1) > batch_tokens or padding > batch_tokens // 16:
                yield batch
                batch, padding = [], 0
        batch.append(row)
    if batch:
        yield batch
