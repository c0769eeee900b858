"""``proclip quickstart`` and ``proclip ablate`` to their ends on a tiny world, and again on what is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proclip.config import Recipe, config_hash
from proclip.errors import ProclipError
from proclip.runs import ablate as ablate_module
from proclip.runs import quickstart as quickstart_module
from proclip.runs.ablate import CLIP, PROCLIP, STAGE1, ablate
from proclip.runs.quickstart import SHORT_METHODS, Steps, quickstart

TASKS = ("zero_shot/tiny", "retrieval_short")
COLUMNS = {"zero-shot": ("zero_shot/tiny/mean_per_class",), "I2T R@1": ("retrieval_short/i2t_r@1",)}


def method_of(recipe: Recipe, name: str, seed: int = 0) -> Recipe:
    """One of the three methods of the short form."""
    kept = {"llm2clip": {"distill": None}, "stage1": {"tune": None}, "proclip": {}}
    return replace(recipe, name=name, seed=seed, **kept[name])


@pytest.fixture
def tiny(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe, in the place of those of the mini world."""
    manifest = json.loads((Path(recipe.data.dataset) / "manifest.json").read_text())
    for module in (quickstart_module, ablate_module):
        monkeypatch.setattr(module, "build", lambda folder: manifest)
    monkeypatch.setattr(quickstart_module, "mini_recipe", lambda name, seed, short: method_of(recipe, name, seed))
    monkeypatch.setattr(quickstart_module, "SHORT_TASKS", TASKS)
    monkeypatch.setattr(ablate_module, "TASKS", TASKS)
    monkeypatch.setattr(ablate_module, "COLUMNS", COLUMNS)
    monkeypatch.setattr(ablate_module, "_languages", lambda figures: [])
    monkeypatch.chdir(tmp_path)
    return recipe


def written(folder: Path) -> dict[Path, int]:
    """When each model's weights were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("model/*.safetensors")}


def test_the_quickstart_and_again(tiny: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path("quick")
    quickstart(out, short=True)
    first, made = json.loads((out / "results.json").read_text()), written(out)
    assert set(first["methods"]) == {"clip", *SHORT_METHODS} and len(made) == len(SHORT_METHODS)
    assert first["benchmark"] == {"name": "tiny", "version": "1", "checksum": "0" * 64}
    assert {"embed", "train proclip", "evaluate clip"} <= set(first["seconds"])
    assert first["methods"]["proclip"]["cka"] < 1 and first["methods"]["stage1"]["cka"] == pytest.approx(1)
    assert (out / "report.html").read_text().count("<table") > 1
    assert "ProCLIP" in capsys.readouterr().out
    quickstart(out, short=True)
    again = json.loads((out / "results.json").read_text())
    assert written(out) == made and again["methods"] == first["methods"]
    assert {**again["seconds"], "report": 0} == {**first["seconds"], "report": 0}
    with pytest.raises(ProclipError, match=r"llm2clip holds a run of another recipe \(seed: it has 0, now 1\)"):
        quickstart(out, seed=1, short=True)


def test_an_interrupted_step_keeps_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 3.0, 10.0, 10.5, 20.0, 20.1, 30.0, 30.25))
    monkeypatch.setattr("proclip.runs.quickstart.time.perf_counter", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), Steps(tmp_path).step("train"):
        raise KeyboardInterrupt
    assert Steps(tmp_path).seconds == {}
    with Steps(tmp_path).step("train"):
        pass
    with Steps(tmp_path).step("train", reused=True):
        pass
    with Steps(tmp_path).step("embed", reused=True):  # killed after its work was done
        pass
    assert Steps(tmp_path).seconds == {"train": 3.5, "embed": 0.2}


def test_the_ablation_and_again(tiny: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(seed: int, folder: Path) -> dict[str, Recipe]:
        return {STAGE1: method_of(tiny, "stage1", seed), PROCLIP: method_of(tiny, "proclip", seed)}

    def figures_of(result: dict[str, Any]) -> Any:
        return {**result, "environment": None}

    monkeypatch.setattr(ablate_module, "variants", rows)
    out = Path("ablation")
    first = ablate(out, seeds=2)
    made = written(out)
    assert first == json.loads((out / "ablation.json").read_text())
    assert {row: len(seeds) for row, seeds in first["figures"].items()} == {CLIP: 1, STAGE1: 2, PROCLIP: 2}
    assert first["config_hashes"][PROCLIP] == [config_hash(rows(seed, out)[PROCLIP]) for seed in range(2)]
    assert first["figures"][STAGE1][0]["cka"] == pytest.approx(1) and first["figures"][PROCLIP][0]["cka"] < 1
    assert first["figures"][PROCLIP][0] != first["figures"][PROCLIP][1]
    assert first["clip"] and first["embedder"]["layer"] == 1 and first["protocol"]
    assert f"| {PROCLIP} | " in (out / "ablation.md").read_text()
    assert len(made) == 4 and figures_of(ablate(out, seeds=2)) == figures_of(first) and written(out) == made
