"""LLM2Vec as LLM2CLIP uses it: a decoder whose attention goes both ways; its texts are tokenized in `chat_rows`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from ..config import EmbedderConfig
from ..errors import ProclipError
from .embedder_source import chat_frame

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
