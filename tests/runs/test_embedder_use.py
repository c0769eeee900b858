"""How runs use the LLM: class names with their own prompt and cache, and no LLM in memory when training starts."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_embedders import qwen3_embedding
from tiny_llms import llama3

from proclip.config import EmbedderConfig, Recipe
from proclip.config.embedder import LLAMA3_CHAT
from proclip.data.store import EmbeddingStore
from proclip.errors import ProclipError
from proclip.evaluate import open_model
from proclip.evaluate.benchmark import Benchmark
from proclip.evaluate.benchmarks import tasks_folder
from proclip.evaluate.encoding import open_encoders
from proclip.evaluate.run import run_benchmark
from proclip.models import embedder as embedder_module
from proclip.models.clip import Clip
from proclip.models.embedder import Encoded
from proclip.models.proclip import ProCLIP
from proclip.runs import quickstart as quickstart_module
from proclip.runs.embed import embed_recipes
from proclip.runs.evaluate import evaluate_path
from proclip.runs.train import train_recipe


def world_of(recipe: Recipe) -> Benchmark:
    return tasks_folder(Path(recipe.data.dataset))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """References to every LLM that is loaded."""
    refs: list[weakref.ref[Any]] = []
    load = embedder_module.load_embedder

    def loading(config: EmbedderConfig, device: str = "cpu") -> Any:
        embedder = load(config, device)
        refs.append(weakref.ref(embedder.model))
        return embedder

    monkeypatch.setattr(embedder_module, "load_embedder", loading)
    return refs


def test_class_names_go_through_their_prompt_and_their_cache(recipe: Recipe, tmp_path: Path) -> None:
    embed_recipes([recipe])
    model_path = train_recipe(recipe, tmp_path / "run")
    cache, run = tmp_path / "cache", open_model(str(tmp_path / "run"))
    encoders, _ = open_encoders(run, world_of(recipe).images, cache)
    run_benchmark(world_of(recipe), run, cache)
    stores = [EmbeddingStore.open(folder) for folder in (cache / "texts").iterdir()]
    assert {store.identity["instruction"]: len(store) for store in stores} == {"": 3, "Name a thing: ": 3}

    model = ProCLIP.from_pretrained(model_path)
    assert encoders.encode_class is not None
    as_class, as_caption = encoders.encode_class(["a red thing"]), encoders.encode_text(["a red thing"])
    assert not torch.allclose(as_class, as_caption, atol=1e-4)
    torch.testing.assert_close(model.encode_text(["a red thing"]), as_caption, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.zero_shot_classifier(["red"], ["a {} thing"]).T, as_class, rtol=1e-4, atol=1e-5)
    plain = ProCLIP.from_pretrained(model_path)
    assert plain.embedder_config is not None
    plain.embedder_config = replace(plain.embedder_config, class_instruction=None)
    torch.testing.assert_close(plain.zero_shot_classifier(["red"], ["a {} thing"]).T, as_caption, rtol=1e-4, atol=1e-5)


def test_one_prompt_needs_one_cache(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, embedder=replace(recipe.embedder, class_instruction=None))
    embed_recipes([recipe])
    train_recipe(recipe, tmp_path / "run")
    run_benchmark(world_of(recipe), open_model(str(tmp_path / "run")), tmp_path / "cache")
    (folder,) = (tmp_path / "cache" / "texts").iterdir()
    assert len(EmbeddingStore.open(folder)) == 5


def causal_lm(folder: Path, tiny_llm_path: Path) -> EmbedderConfig:
    return EmbedderConfig(model=str(tiny_llm_path), dtype="float32", layer=1)


def sentence_transformers(folder: Path, tiny_llm_path: Path) -> EmbedderConfig:
    return EmbedderConfig(model=str(qwen3_embedding(folder)), dtype="float32", backend="sentence-transformers")


def llm2vec(folder: Path, tiny_llm_path: Path) -> EmbedderConfig:
    return EmbedderConfig(model=str(llama3(folder)), dtype="float32", backend="llm2vec", chat=LLAMA3_CHAT)


@pytest.mark.parametrize("backend", [causal_lm, sentence_transformers, llm2vec])
def test_the_llm_and_the_teacher_are_never_in_memory_together(
    backend: Callable[[Path, Path], EmbedderConfig],
    recipe: Recipe,
    tmp_path: Path,
    tiny_llm_path: Path,
    loaded: list[weakref.ref[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "llm").mkdir()
    teachers: list[weakref.ref[Clip]] = []
    encode, load = Clip.encode, embedder_module.load_embedder

    def encoding(clip: Clip, texts: Sequence[str]) -> Encoded:
        assert not loaded
        teachers.append(weakref.ref(clip))
        return encode(clip, texts)

    def loading(config: EmbedderConfig, device: str = "cpu") -> Any:
        assert [ref() for ref in teachers] == [None]
        return load(config, device)

    monkeypatch.setattr(Clip, "encode", encoding)
    monkeypatch.setattr(embedder_module, "load_embedder", loading)
    gc.disable()  # nothing but the run itself may collect what libraries leave in cycles
    try:
        embed_recipes([replace(recipe, embedder=backend(tmp_path / "llm", tiny_llm_path))])
    finally:
        gc.enable()
    assert teachers and [ref() for ref in loaded] == [None]


def test_no_llm_stays_after_evaluation(
    recipe: Recipe, tmp_path: Path, loaded: list[weakref.ref[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_recipes([recipe])
    train_recipe(recipe, tmp_path / "run")
    assert len(loaded) == 1  # training reads the store alone
    original = open_model(recipe.clip)
    monkeypatch.setattr("proclip.runs.evaluate.CACHE", tmp_path / "cache")
    evaluate_path(str(tmp_path / "run"), [world_of(recipe)], tmp_path / "results.json", original)
    assert len(loaded) == 2 and [ref() for ref in loaded] == [None, None]


def test_the_quickstart_frees_the_llm_before_it_trains(
    recipe: Recipe, tmp_path: Path, loaded: list[weakref.ref[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trains(Exception):
        pass

    def train(recipe: Recipe, out: Path) -> Path:
        assert len(loaded) == 1
        assert loaded[0]() is None
        raise Trains

    benchmark = json.loads((Path(recipe.data.dataset) / "manifest.json").read_text())
    monkeypatch.setattr(quickstart_module, "build", lambda folder: benchmark)
    monkeypatch.setattr(quickstart_module, "mini_recipe", lambda method, seed, short: replace(recipe, name=method))
    monkeypatch.setattr(quickstart_module, "SHORT_TASKS", ("zero_shot/tiny", "retrieval_short"))
    monkeypatch.setattr(quickstart_module, "train_recipe", train)
    with pytest.raises(Trains):
        quickstart_module.quickstart(tmp_path / "out", short=True)


def test_a_store_of_other_weights_is_refused_though_the_recipe_names_none(recipe: Recipe, tmp_path: Path) -> None:
    embed_recipes([recipe])
    manifest = tmp_path / "store" / "llm" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["identity"]["quantization"] = "int8"
    manifest.write_text(json.dumps(values))
    with pytest.raises(ProclipError, match="quantization: want None, have 'int8'"):
        train_recipe(recipe, tmp_path / "run")


@pytest.mark.parametrize(("layer", "norm", "warned"), [(-1, "l2", True), (-1, "standardize", False), (1, "l2", False)])
def test_raw_last_states_with_l2_are_warned_of(
    recipe: Recipe, layer: int, norm: Any, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    changed = replace(
        recipe, embedder=replace(recipe.embedder, layer=layer), adapter=replace(recipe.adapter, input_norm=norm)
    )
    embed_recipes([changed])
    assert ("adapter.input_norm = 'standardize'" in caplog.text) == warned
