"""A recipe of both stages on the tiny world, with tasks to measure on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from proclip.config import AdapterConfig, DataConfig, DistillConfig, EmbedderConfig, Recipe, TuneConfig

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
