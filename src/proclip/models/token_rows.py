"""Texts to the tokens that a decoder reads, and which of them are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..config import EmbedderConfig
from ..errors import ProclipError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def plain_rows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, config: EmbedderConfig) -> TokenRows:
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
