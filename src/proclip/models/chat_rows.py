"""Texts to tokens as LLM2Vec has it in LLM2CLIP: in a chat frame, pooled over their own tokens and the frame's end.

The facts are those of the public LLM2CLIP code (``llm2vec/llm2vec.py``). The order of its steps decides which positions
are pooled, so the steps are kept: instruction, separator and text are joined and stripped, which takes white space off
the text's end only; the frame is put around; the string is split at the separator again; its parts together are what
the model reads, cut to the limit; the part after the separator, which ends with the frame's end, is tokenized alone,
and as many of the last positions as it has tokens are pooled.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config import EmbedderConfig
from .embedder_source import chat_frame
from .token_rows import Tokenize, TokenRow, TokenRows

SEPARATOR = "!@#$%^&*()"


def chat_rows(texts: Sequence[str], tokenizer: Tokenize, config: EmbedderConfig) -> TokenRows:
    """Texts in the chat frame; pooled are the text's tokens and those of the frame's end."""
    limit = config.max_length
    before, after = chat_frame(config).split("{}")
    head = f"{config.instruction.strip()} " if config.instruction else ""
    kept = _cut_words(texts, tokenizer, limit)
    framed = [before + f"{head}{SEPARATOR}{text}".strip() + after for text in kept]
    parts = [text.split(SEPARATOR) for text in framed]
    joined: list[list[int]] = tokenizer(["".join(part) for part in parts], verbose=False)["input_ids"]
    tails = tokenizer([part[1] for part in parts], add_special_tokens=False, verbose=False)["input_ids"]
    rows = [TokenRow(ids[:limit], min(len(tail), len(ids), limit)) for ids, tail in zip(joined, tails, strict=True)]
    lost = [cut != text or len(ids) > limit for text, cut, ids in zip(texts, kept, joined, strict=True)]
    return TokenRows(rows, lost)


def _cut_words(texts: Sequence[str], tokenizer: Tokenize, limit: int) -> list[str]:
    """Texts of more than `limit` tokens lose words from their end, in proportion to the excess, until they fit.

    Cut text has its words joined by single spaces. Where that would leave no word (scripts without spaces), the text
    loses characters in the same proportion instead: LLM2Vec would embed nothing.
    """

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    kept = list(texts)
    lengths = [len(ids) for ids in tokenizer(kept, add_special_tokens=False, verbose=False)["input_ids"]]
    for place, tokens in enumerate(lengths):
        while tokens > limit:
            words = kept[place].split()
            fewer = int(len(words) * (limit / tokens))
            letters = kept[place].strip()
            kept[place] = " ".join(words[:fewer]) if fewer else letters[: int(len(letters) * (limit / tokens))]
            tokens = count(kept[place])
    return kept
