"""LLM2CLIP's way of embedding, against a slow computation written from the facts: one text at a time, no padding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from slow_llm2vec import HEADER, slow_embed
from tiny_llms import llama3, qwen3

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models.embedder import embedder_identity, load_embedder
from proclip.models.embedder_source import settings_of

TEXTS = [
    "two birds",
    "a red car beside a tall tree",
    "A drawing.\nIt shows a house.\n\n\nAnd a tree.",
    "trailing white space \t\n ",
    "\n  leading white space",
    "赤い家と青い車が並んでいる。",
    "красный дом и синяя машина",
    "emoji 🦊 and <|eot_id|> in the text",
    "a red fox, mostly orange, jumps over the lazy dog. " * 40,  # over 512 tokens
    "word " * 300 + "\n\nmore words " * 30,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama3(tmp_path_factory.mktemp("models") / "tiny-Llama-3-8B-Instruct-CC")


@pytest.fixture
def config(folder: Path) -> EmbedderConfig:
    return EmbedderConfig(model=str(folder), backend="llm2vec", dtype="float32")


def test_golden_vectors(config: EmbedderConfig, folder: Path) -> None:
    encoded = load_embedder(config).encode(TEXTS)
    cut = 0
    for text, embed in zip(TEXTS, encoded.embeds, strict=True):
        wanted, truncated = slow_embed(folder, text)
        cut += truncated
        torch.testing.assert_close(embed, wanted, rtol=1e-4, atol=1e-4, msg=lambda m, text=text: f"{text[:40]!r}: {m}")
    assert encoded.truncated == cut == 2


def test_a_batch_of_mixed_lengths_equals_one_by_one(config: EmbedderConfig) -> None:
    embedder = load_embedder(config)
    alone = torch.cat([embedder.encode([text]).embeds for text in TEXTS])
    for batch_tokens in (64, 4096, 100_000):
        torch.testing.assert_close(embedder.encode(TEXTS, batch_tokens).embeds, alone, rtol=1e-4, atol=1e-4)
    right = embedder.other_padding().encode(TEXTS).embeds
    torch.testing.assert_close(right, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_token_sees_every_other_whatever_the_kernel(config: EmbedderConfig, folder: Path, attention: str) -> None:
    embedder = load_embedder(config)
    embedder.model.set_attn_implementation(attention)
    for texts in (TEXTS[:1], TEXTS[:3]):  # without and with padding
        wanted = torch.stack([slow_embed(folder, text)[0] for text in texts])
        torch.testing.assert_close(embedder.encode(texts).embeds, wanted, rtol=1e-4, atol=1e-4)


def test_the_instruction_is_read_and_not_pooled(config: EmbedderConfig, folder: Path) -> None:
    prompted = replace(config, instruction="Retrieve a picture: ", class_instruction="Name a thing:")
    embedder = load_embedder(prompted)
    got = embedder.encode(TEXTS[:3]).embeds
    wanted = torch.stack([slow_embed(folder, text, "Retrieve a picture:")[0] for text in TEXTS[:3]])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    of_class = embedder.for_classes().encode(["two birds"]).embeds[0]
    torch.testing.assert_close(of_class, slow_embed(folder, "two birds", "Name a thing:")[0], rtol=1e-4, atol=1e-4)


def test_the_limit_holds_for_other_lengths(config: EmbedderConfig, folder: Path) -> None:
    short = replace(config, max_length=24)
    encoded = load_embedder(short).encode(TEXTS[:3])
    wanted = [slow_embed(folder, text, limit=24) for text in TEXTS[:3]]
    torch.testing.assert_close(encoded.embeds, torch.stack([w for w, _ in wanted]), rtol=1e-4, atol=1e-4)
    assert encoded.truncated == sum(cut for _, cut in wanted) >= 1


def test_long_text_without_spaces_keeps_its_start(config: EmbedderConfig) -> None:
    """LLM2Vec cuts whole words: of a text of one long word it would keep nothing."""
    long = "赤い家と青い車が並んでいる。" * 60
    encoded = load_embedder(config).encode([long, "犬" * 2000])
    assert encoded.truncated == 2
    kept = encoded.embeds
    assert not torch.allclose(kept[0], kept[1], atol=1e-2)
    near = torch.cosine_similarity(kept, load_embedder(config).encode(["赤い家と青い車が並んでいる。" * 8]).embeds)
    assert near[0] > near[1]


def test_code_of_the_checkpoint_is_not_run(config: EmbedderConfig) -> None:
    assert type(load_embedder(config).model).__module__ == "transformers.models.llama.modeling_llama"


def test_other_decoders_with_their_own_frame(tmp_path: Path) -> None:
    qwen3(tmp_path)
    frame = "<|im_end|>user\n{}<|im_end|>\n"
    config = EmbedderConfig(model=str(tmp_path), backend="llm2vec", dtype="float32", chat=frame)
    embedder = load_embedder(config)
    embedder.encode(["two birds"])
    states = embedder.model(
        input_ids=torch.tensor([embedder.tokenizer("<|im_end|>user\na red car<|im_end|>\n")["input_ids"]]),
        attention_mask=torch.ones(1, len(embedder.tokenizer("<|im_end|>user\na red car<|im_end|>\n")["input_ids"])),
    ).last_hidden_state[0]
    tail = len(embedder.tokenizer("a red car<|im_end|>\n", add_special_tokens=False)["input_ids"])
    torch.testing.assert_close(embedder.encode(["a red car"]).embeds[0], states[-tail:].mean(0), rtol=1e-4, atol=1e-4)


def test_what_the_frame_must_be(folder: Path, tmp_path: Path) -> None:
    qwen3(tmp_path)
    unnamed = EmbedderConfig(model=str(tmp_path), backend="llm2vec")
    with pytest.raises(ProclipError, match=r"embedder\.chat: the name .* does not tell the chat frame"):
        load_embedder(unnamed)
    foreign = replace(unnamed, chat="<|start_header_id|>{}")
    with pytest.raises(ProclipError, match=r"<\|start_header_id\|> is no token"):
        load_embedder(foreign)
    with pytest.raises(ProclipError, match=r"embedder\.chat must be a text with one \{\}"):
        replace(unnamed, chat="no place")
    with pytest.raises(ProclipError, match="left alone: llm2vec has its own"):
        replace(unnamed, chat="{}", pooling="last_token")
    named = embedder_identity(EmbedderConfig(model=str(folder), backend="llm2vec"))
    assert named["chat"] == HEADER + "{}<|eot_id|>"
    hub = EmbedderConfig(model="org/Llama-3.2-1B-Instruct-CC", backend="llm2vec")
    assert settings_of(hub)["chat"] == named["chat"]


def test_a_model_that_stays_causal_is_refused(config: EmbedderConfig, tmp_path: Path) -> None:
    from test_embedder import WORDS, make_tokenizer
    from transformers import OpenAIGPTConfig, OpenAIGPTModel  # has a causal mask of its own

    sizes = {"vocab_size": len(WORDS) + 3, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    OpenAIGPTModel(OpenAIGPTConfig(**sizes)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    causal = EmbedderConfig(model=str(tmp_path), backend="llm2vec", chat="{}", dtype="float32")
    with pytest.raises(ProclipError, match=r"the attention of .* \(OpenAIGPTModel\) stays causal"):
        load_embedder(causal)
