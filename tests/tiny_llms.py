"""Tiny language models with random weights, in the layouts that the hub's have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

CORPUS = [
    "A drawing on a white background. It shows a small house with a blue door, three windows and a round roof.",
    "a red car beside a tall tree", "two birds", "the quick brown fox jumps over the lazy dog",
    "ein roter Fuchs springt über den Zaun", "赤い家と青い車", "красный дом и синяя машина",
    "query: passage: Instruct:",
]  # fmt: skip
LLAMA3_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def byte_level_tokenizer(special: list[str], template: str, **names: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Llama 3's split into words; `template` says where special tokens go, as "<s> $A"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    placed = [(token, tokenizer.token_to_id(token)) for token in special if token in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=placed)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


LLAMA31_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
"""Llama 3.1's and 3.2's, of a shorter original context."""


def llama3(folder: Path, **settings: Any) -> Path:
    """A Llama 3 of two blocks with grouped heads, whose config names remote code, as LLM2CLIP's repository does."""
    tokenizer = byte_level_tokenizer(
        LLAMA3_TOKENS, "<|begin_of_text|> $A", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2,
            rms_norm_eps=1e-5, **settings,
        )  # fmt: skip
        LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    names = {"AutoModel": "modeling_llama_encoder.LlamaEncoderModel", "AutoConfig": "modeling_llama_encoder.Config"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": names}))
    (folder / "modeling_llama_encoder.py").write_text("raise SystemExit('code from the checkpoint was run')\n")
    return folder


def qwen3(folder: Path) -> PreTrainedTokenizerFast:
    """A Qwen3 of two blocks whose tokenizer pads on the left and ends each text with <|endoftext|>."""
    tokenizer = byte_level_tokenizer(
        ["<|endoftext|>", "<|im_end|>"], "$A <|endoftext|>", pad_token="<|endoftext|>", eos_token="<|im_end|>",
        padding_side="left",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, initializer_range=0.3,
        )  # fmt: skip
        Qwen3Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
