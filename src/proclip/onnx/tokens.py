"""Texts to the inputs of the exported LLM: the rules are those of the torch side (`token_rows`, `chat_rows`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ProclipError, one_line
from ..models.chat_rows import chat_rows
from ..models.token_rows import Tokenize as AnyTokenizer
from ..models.token_rows import TokenRow, check_texts, plain_rows
from .manifest import EmbedderPart

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        ProclipError: it is not one.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ProclipError(f"{path} is not a tokenizer: {one_line(error)}") from None


class Tokenize:
    """A tokenizer that takes what the rules ask of transformers' tokenizers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(
        self,
        texts: str | list[str],
        *,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int = 0,
        verbose: bool = False,
    ) -> dict[str, Any]:
        """``input_ids`` of a text, or of each of a list; `verbose` says nothing here."""
        if truncation:
            self.tokenizer.enable_truncation(max_length)
        else:
            self.tokenizer.no_truncation()
        listed = [texts] if isinstance(texts, str) else texts
        found = self.tokenizer.encode_batch(listed, add_special_tokens=add_special_tokens)
        ids = [encoding.ids for encoding in found]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}


def token_rows(texts: Sequence[str], tokenize: AnyTokenizer, part: EmbedderPart, instruction: str) -> list[TokenRow]:
    """Texts to rows of tokens, cut to the longest length allowed.

    Raises:
        ProclipError: a text is empty.
    """
    check_texts(texts)
    read = plain_rows if part.chat is None else chat_rows
    return read(texts, tokenize, part.rows_config(instruction)).rows
