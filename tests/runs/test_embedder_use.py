"""How runs use the LLM: class names with their own prompt and cache, and no LLM in memory when training starts."""

from __future__ import annotations

import json
import logging
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from proclip.config import AdapterConfig, DataConfig, DistillConfig, EmbedderConfig, Recipe, TuneConfig
from proclip.data.store import EmbeddingStore
from proclip.errors import ProclipError
from proclip.models import embedder as embedder_module
from proclip.models.proclip import ProCLIP
from proclip.runs import quickstart as quickstart_module
from proclip.runs.embed import embed_recipes
from proclip.runs.evaluate import World
from proclip.runs.train import train_recipe

TASKS = {
    "zero_shot_tiny": {
        "task": "classification",
        "items": [["red-square", 0], ["green-bar", 1], ["blue-column", 2], ["red-bar", 0]],
        "classnames": ["red", "green", "blue"],
        "templates": ["a {} thing"],
        "chance": 1 / 3,
    },
    "retrieval_short": {
        "task": "retrieval",
        "items": [["red-square", ["a red square on white"]], ["green-bar", ["a green bar", "a red thing"]]],
        "chance": {"r@1": 0.5, "r@5": 1.0, "r@10": 1.0},
    },
}


@pytest.fixture
def recipe(tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> Recipe:
    world = tmp_path / "world"
    shutil.copytree(tiny_world, world, ignore=shutil.ignore_patterns("tasks", "manifest.json"))
    (world / "tasks" / "test").mkdir(parents=True)
    for name, task in TASKS.items():
        (world / "tasks" / "test" / f"{name}.json").write_text(json.dumps({"name": name, **task}))
    benchmark = {"name": "tiny", "version": "1", "checksum": "0" * 64}
    (world / "manifest.json").write_text(json.dumps({"benchmark": benchmark}))
    return Recipe(
        name="tiny",
        clip=str(tiny_clip_path),
        embedder=EmbedderConfig(model=str(tiny_llm_path), dtype="float32", layer=1, class_instruction="Name a thing: "),
        adapter=AdapterConfig(num_blocks=1, input_norm="standardize"),
        data=DataConfig(dataset=str(world), store=str(tmp_path / "store")),
        distill=DistillConfig(epochs=1, batch_size=4),
        tune=TuneConfig(epochs=1, batch_size=4),
    )


def world_of(recipe: Recipe) -> World:
    return World(Path(recipe.data.dataset), Path(recipe.data.store), "test", recipe.clip)


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
    world = world_of(recipe)
    assert set(world.evaluate(tmp_path / "run")) >= {"zero_shot/tiny", "retrieval_short/i2t_r@1"}
    captions, classes = (EmbeddingStore.open(tmp_path / "store" / name) for name in ("texts", "class_texts"))
    assert captions.identity["instruction"] == "" and len(captions) == 3
    assert classes.identity["instruction"] == "Name a thing: " and len(classes) == 3

    model = ProCLIP.from_pretrained(model_path)
    encoders = world.encoders(tmp_path / "run")
    assert encoders.encode_class is not None
    as_class, as_caption = encoders.encode_class(["a red thing"]), encoders.encode_text(["a red thing"])
    assert not torch.allclose(as_class, as_caption, atol=1e-4)
    torch.testing.assert_close(model.encode_text(["a red thing"]), as_caption, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.zero_shot_classifier(["red"], ["a {} thing"]).T, as_class, rtol=1e-4, atol=1e-5)
    plain = ProCLIP.from_pretrained(model_path)
    assert plain.embedder_config is not None
    plain.embedder_config = replace(plain.embedder_config, class_instruction=None)
    torch.testing.assert_close(plain.zero_shot_classifier(["red"], ["a {} thing"]).T, as_caption, rtol=1e-4, atol=1e-5)


def test_one_prompt_needs_one_cache(recipe: Recipe) -> None:
    world = world_of(recipe)
    embedder = embedder_module.LazyEmbedder(replace(recipe.embedder, class_instruction=None))
    world.embed_tasks(embedder, list(TASKS))
    assert not (world.store / "class_texts").exists()
    assert len(EmbeddingStore.open(world.store / "texts")) == 5


def test_no_llm_stays_after_embedding_and_after_evaluation(
    recipe: Recipe, tmp_path: Path, loaded: list[weakref.ref[Any]]
) -> None:
    embed_recipes([recipe])
    assert [ref() for ref in loaded] == [None]
    train_recipe(recipe, tmp_path / "run")
    assert len(loaded) == 1  # training reads the store alone
    world_of(recipe).evaluate(tmp_path / "run")
    assert len(loaded) == 2 and [ref() for ref in loaded] == [None, None]


def test_the_quickstart_frees_the_llm_before_it_trains(
    recipe: Recipe, tmp_path: Path, loaded: list[weakref.ref[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trains(Exception):
        pass

    def train(recipe: Recipe, out: Path) -> Path:
        assert len(loaded) == 1
        assert loaded[0]() is None
        assert (Path(recipe.data.store) / "class_texts").is_dir()
        raise Trains

    benchmark = json.loads((Path(recipe.data.dataset) / "manifest.json").read_text())
    monkeypatch.setattr(quickstart_module, "build", lambda folder: benchmark)
    monkeypatch.setattr(quickstart_module, "mini_recipe", lambda method, seed, short: replace(recipe, name=method))
    monkeypatch.setattr(quickstart_module, "SHORT_TASKS", tuple(TASKS))
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
