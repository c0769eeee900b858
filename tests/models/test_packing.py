"""Texts side by side in one row get the vectors that they get alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_llms import byte_level_tokenizer

from proclip.config import EmbedderConfig
from proclip.models.embedder import load_embedder
from proclip.models.packing import WIDTH, _lines, pack_rows, plan
from proclip.models.token_rows import TokenRow, batches

FILL = -1
lengths_of_texts = st.lists(st.integers(1, WIDTH), min_size=1, max_size=40)


def plan_of_rows(lengths: list[int]) -> list[list[int]]:
    """Rows of texts side by side, whatever they cost."""
    return _lines(lengths, range(len(lengths)))


def in_lines(rows: list[TokenRow], lines: list[list[int]]) -> list[list[TokenRow]]:
    left = iter(rows)
    return [[next(left) for _ in line] for line in lines]


@given(lengths_of_texts)
def test_each_token_has_its_place_and_its_position(lengths: list[int]) -> None:
    rows = [TokenRow([1000 * number + place for place in range(count)], count) for number, count in enumerate(lengths)]
    lines = plan_of_rows(lengths)
    rows = [rows[place] for line in lines for place in line]
    packed = pack_rows(in_lines(rows, lines), FILL)
    count, width = packed.input_ids.shape
    assert width == WIDTH and count <= min(len(rows), 1 + sum(lengths) // (WIDTH // 2))
    flat = packed.input_ids.reshape(-1)
    for row, places in zip(rows, packed.places, strict=True):
        own, rest = np.split(places, [len(row.ids)])
        assert flat[own].tolist() == row.ids and not rest.any()
        assert packed.position_ids.reshape(-1)[own].tolist() == list(range(len(row.ids)))
        assert len(set(own // width)) == 1  # in one row
    assert (flat == FILL).sum() == flat.size - sum(lengths)
    assert packed.position_ids.min() >= 0 and packed.position_ids.max() < max(lengths)


@given(lengths_of_texts)
def test_what_is_left_of_a_row_is_no_part_of_its_last_text(lengths: list[int]) -> None:
    lines = plan_of_rows(lengths)
    rows = [TokenRow([1] * lengths[place], 1) for line in lines for place in line]
    packed = pack_rows(in_lines(rows, lines), FILL)
    for ids, positions in zip(packed.input_ids, packed.position_ids, strict=True):
        begins = np.flatnonzero(np.diff(positions, prepend=-2) != 1)  # as transformers tells texts apart
        if (ids == FILL).any():
            assert np.flatnonzero(ids == FILL)[0] in begins


def cost(lengths: list[int], groups: list[list[int]]) -> int:
    return sum(max(lengths[place] for place in group) * len(group) + 40 for group in groups)


@given(st.lists(st.integers(1, 150), max_size=60), st.sampled_from([1, 64, 1024]))
def test_a_plan_holds_each_text_once_within_the_budget_and_costs_no_more_than_padding(
    lengths: list[int], budget: int
) -> None:
    padded, packed = plan(lengths, budget)
    groups = [*padded, *([place for line in lines for place in line] for lines in packed)]
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for lines in packed:
        assert all(sum(lengths[place] for place in line) <= WIDTH for line in lines)
        assert len(lines) * WIDTH <= max(budget, WIDTH)
    total = cost(lengths, padded) + sum(len(lines) * WIDTH + 40 for lines in packed)
    assert total <= cost(lengths, list(batches(lengths, budget)))


def test_a_few_texts_of_unlike_lengths_stand_side_by_side_and_texts_of_one_length_do_not() -> None:
    few = [8 + number % 34 for number in range(64)]
    assert plan(few, 1024).padded == [] and len(plan(few, 1024).packed) == 2
    assert plan([40] * 31, 1024).packed == []
    assert plan([600, 60, 40, 20, 4], 1024) == ([[0]], [[[1], [2, 3, 4]]])  # the long one has its own row


TEXTS = ["red", "two birds", "a red car beside a tall tree", "ein roter Fuchs springt", "red", "a small house, " * 4]
SIZES: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.5,
}  # fmt: skip
GEMMA = {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4, "pad_token_id": 0}
MODELS: dict[str, Any] = {
    "llama": (transformers.LlamaConfig, SIZES),
    "qwen3": (transformers.Qwen3Config, SIZES | {"num_key_value_heads": 1, "head_dim": 8}),
    "mistral, sliding window": (transformers.MistralConfig, SIZES | {"num_key_value_heads": 1, "sliding_window": 4}),
    "gemma3, both windows": (transformers.Gemma3TextConfig, SIZES | GEMMA),
    "gpt2, learnt positions": (
        transformers.GPT2Config,
        {"vocab_size": 400, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 48},
    ),
}


LFM2 = (
    transformers.Lfm2Config,
    SIZES
    | {"layer_types": ["conv", "full_attention", "conv"], "num_key_value_heads": 1, "max_position_embeddings": 256},
)
"""Whose short convolutions read over the border of two texts in a row."""


def saved(name: str, folder: Path) -> EmbedderConfig:
    kind, sizes = (MODELS | {"lfm2": LFM2})[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(kind(**sizes)).save_pretrained(folder)
    byte_level_tokenizer(["<s>"], "<s> $A", bos_token="<s>").save_pretrained(folder)
    return EmbedderConfig(model=str(folder), dtype="float32", max_length=40)


@pytest.mark.parametrize("pooling", ["mean", "last_token"])
@pytest.mark.parametrize("name", MODELS)
def test_side_by_side_as_alone(name: str, pooling: Any, tmp_path: Path) -> None:
    embedder = load_embedder(replace(saved(name, tmp_path), pooling=pooling))
    alone = torch.cat([embedder.encode([text]).embeds for text in TEXTS])
    assert embedder.packs and plan(embedder.prepare(TEXTS).lengths, 1024).packed
    torch.testing.assert_close(embedder.encode(TEXTS).embeds, alone, rtol=1e-4, atol=1e-5)
    padded = embedder.forward(embedder.prepare(TEXTS).rows)
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_a_model_that_does_not_keep_texts_apart_gets_them_in_rows_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = saved("llama", tmp_path)
    wanted = load_embedder(config).encode(TEXTS).embeds
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    embedder = load_embedder(config)
    torch.testing.assert_close(embedder.encode(TEXTS).embeds, wanted, rtol=1e-4, atol=1e-5)
    assert not embedder.packs


@pytest.mark.parametrize("instruction", ["", "Instruct: find pictures that show what the caption says. Query: " * 2])
def test_a_model_whose_convolutions_leak_is_seen_whatever_the_prompt(instruction: str, tmp_path: Path) -> None:
    embedder = load_embedder(replace(saved("lfm2", tmp_path), instruction=instruction, max_length=200))
    alone = torch.cat([embedder.encode([text]).embeds for text in TEXTS])
    assert not embedder.packs
    torch.testing.assert_close(embedder.encode(TEXTS).embeds, alone, rtol=1e-4, atol=1e-5)
