"""A new small CLIP with a tokenizer learnt from captions, and how it is saved."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..config import PretrainConfig
from ..errors import ProclipError
from ..files import write_json
from .clip import Clip
from .clip_transformers import ClipTextTokenizer, take_apart
from .preprocess import ImagePreprocess

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Learn a byte-level BPE vocabulary in CLIP's layout: bytes, bytes that end a word, merges, start, end.

    Every byte is there, so any text of any language can be read, if in many tokens.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    template = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    num_merges = vocab_size - 2 * len(alphabet) - 2
    if num_merges < 0:
        raise ProclipError(f"pretrain.vocab_size must be at least {2 * len(alphabet) + 2}, not {vocab_size}")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in _merges_of(learner)][:num_merges]
    entries = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in merges), BOS, EOS]
    vocab = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    return CLIPTokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]  # pairs, as tokenizers has them


def _merges_of(tokenizer: Any) -> list[Sequence[str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def new_clip(config: PretrainConfig, texts: Iterable[str]) -> tuple[CLIPModel, Clip]:
    """An untrained small CLIP of the recipe's size, with a tokenizer learnt from `texts`.

    Returns:
        the transformers model, for saving, and its parts, which share its weights.
    """
    from transformers import CLIPConfig, CLIPModel

    tokenizer = train_tokenizer(texts, config.vocab_size)
    shared = {"attention_dropout": config.dropout, "projection_dim": config.embed_dim, "hidden_act": "gelu"}
    model = CLIPModel(
        CLIPConfig(
            projection_dim=config.embed_dim,
            vision_config={
                **shared,
                "hidden_size": config.image_width,
                "intermediate_size": 4 * config.image_width,
                "num_hidden_layers": config.image_layers,
                "num_attention_heads": config.image_width // 64,
                "image_size": config.image_size,
                "patch_size": config.patch_size,
            },
            text_config={
                **shared,
                "vocab_size": len(tokenizer),
                "hidden_size": config.text_width,
                "intermediate_size": 4 * config.text_width,
                "num_hidden_layers": config.text_layers,
                "num_attention_heads": config.text_width // 64,
                "max_position_embeddings": config.context_length,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
        )
    )
    preprocess = ImagePreprocess(size=config.image_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return model, take_apart(model, tokenizer, preprocess, "new", "untrained")


def save_clip(model: CLIPModel, clip: Clip, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a checkpoint folder that `load_clip` and transformers read: config, weights, tokenizer, preprocessing."""
    folder = Path(folder)
    stored = copy.deepcopy(model)
    nn.Module.to(stored, dtype)
    stored.save_pretrained(folder)
    assert isinstance(clip.tokenizer, ClipTextTokenizer)
    clip.tokenizer.tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", clip.preprocess.to_config())
