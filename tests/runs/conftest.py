"""A recipe of both stages on the tiny world, with tasks to measure on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_recipe import with_tasks

from proclip.config import AdapterConfig, DataConfig, DistillConfig, EmbedderConfig, Recipe, TuneConfig


@pytest.fixture
def recipe(tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> Recipe:
    world = with_tasks(tiny_world, tmp_path / "world")
    return Recipe(
        name="tiny",
        clip=str(tiny_clip_path),
        embedder=EmbedderConfig(model=str(tiny_llm_path), dtype="float32", layer=1, class_instruction="Name a thing: "),
        adapter=AdapterConfig(num_blocks=1, input_norm="standardize"),
        data=DataConfig(dataset=str(world), store=str(tmp_path / "store")),
        distill=DistillConfig(epochs=1, batch_size=4),
        tune=TuneConfig(epochs=1, batch_size=4),
    )
