"""LLM2Vec as LLM2CLIP uses it: a decoder whose attention goes both ways, text in a chat frame, mean of its own tokens.

The facts are those of the public LLM2CLIP code (``llm2vec/llm2vec.py``). The order of its steps decides which positions
are pooled, so the steps are kept: instruction, separator and text are joined and stripped, which takes white space off
the text's end only; the frame is put around; the string is split at the separator again; its parts together are what
the model reads, cut to the limit; the part after the separator, which ends with the frame's end, is tokenized alone,
and as many of the last positions as it has tokens are pooled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..config import EmbedderConfig
from ..errors import ProclipError
from .embedder_source import chat_frame
from .token_rows import TokenRow, TokenRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEPARATOR = "!@#$%^&*()"


def chat_rows(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, config: EmbedderConfig) -> TokenRows:
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


def _cut_words(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[str]:
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


def check_frame(tokenizer: PreTrainedTokenizerBase, config: EmbedderConfig) -> None:
    """Refuse a chat frame that is not the tokenizer's: its marks would be read as plain text.

    Raises:
        ProclipError: a mark such as ``<|eot_id|>`` is no token.
    """
    vocabulary = tokenizer.get_vocab()
    for mark in re.findall(r"<\|[^|]+\|>", chat_frame(config)):
        if mark not in vocabulary:
            raise ProclipError(f"embedder.chat: {mark} is no token of {config.model!r}: give the frame of its own chat")


@torch.inference_mode()
def attend_both_ways(model: PreTrainedModel, config: EmbedderConfig) -> None:
    """Let every token see every other, through transformers' own masks (its models ask ``config.is_causal``).

    Where no row of a batch is padded no mask is made at all, and attention kernels go by the module's own flag: both
    are set.

    Raises:
        ProclipError: the model's first token does not see its last one even so.
    """
    model.config.is_causal = model.config.get_text_config().is_causal = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False  # type: ignore[assignment]
    ids = torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.device)
    first = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    if torch.equal(first[0], first[1]):
        raise ProclipError(
            f"embedder.backend 'llm2vec': the attention of {config.model!r} ({type(model).__name__}) stays causal"
        )
