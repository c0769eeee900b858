"""``proclip embed`` on recipes: columns added later, processes of torchrun, signals, and what is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_recipe import HEAD

from proclip.config import DataConfig, DistillConfig, EmbedderConfig, Recipe, TuneConfig
from proclip.data.store import EmbeddingStore, StoreWriter
from proclip.models.clip import Clip
from proclip.models.embedder import Encoded, LazyEmbedder
from proclip.runs.embed import Rates, embed_recipes, of_clip

RECIPE = (
    HEAD
    + """
[distill]
captions = ["short", "name_de"]
"""
)


@pytest.fixture
def recipe(tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> Recipe:
    return Recipe(
        name="tiny",
        clip=str(tiny_clip_path),
        embedder=EmbedderConfig(model=str(tiny_llm_path), dtype="float32", layer=1),
        data=DataConfig(dataset=str(tiny_world), store=str(tmp_path / "store")),
        distill=DistillConfig(captions=("short",)),
        tune=TuneConfig(captions=("short",)),
    )


def test_a_column_and_a_language_added_later_cost_only_themselves(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[str]] = {"llm": [], "teacher": []}
    for kind, name in ((LazyEmbedder, "llm"), (Clip, "teacher")):

        def encoding(self: object, texts: Sequence[str], name: str = name, encode=kind.encode) -> Encoded:
            seen[name] += texts
            return encode(self, texts)

        monkeypatch.setattr(kind, "encode", encoding)
    embed_recipes([recipe])
    first = {name: set(texts) for name, texts in seen.items()}
    assert first["llm"] == first["teacher"] and len(first["llm"]) == len(seen["llm"])
    assert recipe.distill is not None and recipe.tune is not None
    later = replace(
        recipe,
        distill=replace(recipe.distill, captions=("name_de", "short"), teacher_captions={"name_de": "short"}),
        tune=replace(recipe.tune, captions=("short", "long")),
    )
    for texts in seen.values():
        texts.clear()
    embed_recipes([later])
    assert seen["teacher"] == [] and not set(seen["llm"]) & first["llm"]
    store = EmbeddingStore.open(tmp_path / "store" / "llm")
    assert {key.partition("#")[2] for key in store.keys} == {"short", "name_de", "long"}
    assert store.manifest.rows == len(first["llm"]) + len(seen["llm"])
    seen["llm"].clear()
    embed_recipes([recipe, later])
    assert seen == {"llm": [], "teacher": []}


def test_rates_are_those_of_this_run() -> None:
    rates = Rates()
    assert rates(1000, 5000, 0, 50.0) == ""
    assert rates(1600, 5000, 6000, 52.0) == "300 texts/s, 3,000 tokens/s, 0:00:11 left"
    assert Rates()(10, 20, 0, 0.0) == ""


Torchrun = Callable[[int, Path], subprocess.CompletedProcess[str]]


@pytest.fixture
def torchrun(tmp_path: Path, tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path) -> Torchrun:
    """``proclip embed`` by so many processes into a folder of stores, in small chunks."""
    small = f"import proclip.data.embed_plan as p; p.WINDOW, p.CHUNK = {(4, 2)}"
    command, recipe = tmp_path / "command.py", tmp_path / "tiny.toml"
    command.write_text(f"{small}\nfrom proclip.cli import main\nraise SystemExit(main())\n")

    def run(processes: int, store: Path) -> subprocess.CompletedProcess[str]:
        recipe.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=tiny_world, store=store))
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
        return subprocess.run(
            [*launch, str(command), "embed", str(recipe)],
            capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_torchrun_writes_what_one_process_writes(torchrun: Torchrun, tmp_path: Path) -> None:
    folders = []
    for processes in (1, 2):
        store = tmp_path / f"store-{processes}"
        done = torchrun(processes, store)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("captions embedded from") == 2  # by one process, of each store
        folders.append(store)
    one, two = (
        {str(p.relative_to(f)): p.read_bytes() for p in sorted(f.rglob("*")) if p.is_file() and p.name != ".lock"}
        for f in folders
    )
    assert one == two


def test_a_refusal_is_said_once_by_one_of_two_processes(
    torchrun: Torchrun, tmp_path: Path, tiny_clip_path: Path
) -> None:
    with StoreWriter(of_clip(tmp_path / "teacher", str(tiny_clip_path)), {"kind": "another"}, 32) as writer:
        writer.add(["key"], torch.zeros(1, 32))
    done = torchrun(2, tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("were made otherwise: ") == 1 and "recvValue" not in done.stderr, done.stderr
