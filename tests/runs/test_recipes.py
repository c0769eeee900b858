"""The recipes that ship, and the run folder they are trained in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from proclip.config import Recipe
from proclip.errors import ProclipError
from proclip.runs.quickstart import METHODS
from proclip.runs.recipes import after_stage1, find_recipe, open_run, shipped_recipes


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_every_recipe_parses_and_says_how_to_run_it(name: str) -> None:
    assert find_recipe(name).name == name.split("/")[-1]
    assert shipped_recipes()[name].read_text().startswith(f"# proclip train {name}\n")


def test_baselines_get_the_same_budget() -> None:
    ours = find_recipe("mini/proclip")
    for method in METHODS:
        recipe = find_recipe(f"mini/{method}")
        assert (recipe.embedder, recipe.adapter, recipe.data, recipe.clip) == (
            ours.embedder, ours.adapter, ours.data, ours.clip,
        )  # fmt: skip
        if recipe.tune and ours.tune:
            same = dataclasses.replace(
                recipe.tune,
                image=ours.tune.image,
                distillation_weight=ours.tune.distillation_weight,
                optim=ours.tune.optim,
            )
            assert same == ours.tune, method
        if recipe.distill and ours.distill:
            same_stage1 = dataclasses.replace(recipe.distill, captions=ours.distill.captions, teacher_captions={})
            assert dataclasses.replace(same_stage1, epochs=ours.distill.epochs) == ours.distill, method


def test_baselines_are_what_their_names_say() -> None:
    def stages(name: str) -> tuple[bool, bool]:
        recipe = find_recipe(f"mini/{name}")
        return recipe.distill is not None, recipe.tune is not None

    def tune(name: str) -> tuple[bool, bool]:
        config = find_recipe(f"mini/{name}").tune
        assert config is not None
        return config.distillation_weight > 0, config.image.mode == "locked"

    assert {m: stages(m) for m in METHODS} == {
        "llm2clip": (False, True), "lit": (False, True), "stage1": (True, False), "stage1_contrastive": (True, True),
        "proclip": (True, True), "proclip_multilingual": (True, True),
    }  # fmt: skip
    assert {m: tune(m) for m in METHODS if m != "stage1"} == {
        "llm2clip": (False, False), "lit": (False, True), "stage1_contrastive": (False, False),
        "proclip": (True, False), "proclip_multilingual": (True, False),
    }  # fmt: skip


def test_unknown_recipe() -> None:
    with pytest.raises(ProclipError, match="neither a file nor one of mini/"):
        find_recipe("mini/nothing")


def test_run_folder_is_not_shared(tmp_path: Path) -> None:
    recipe = find_recipe("mini/proclip")
    open_run(dataclasses.replace(recipe, seed=3), tmp_path / "run")
    open_run(recipe, tmp_path / "run")  # nothing was trained there yet: the recipe may be mended
    (tmp_path / "run" / "checkpoints").mkdir()
    open_run(recipe, tmp_path / "run")
    with pytest.raises(ProclipError, match=r"holds a run of another recipe \(seed: it has 0, now 7\)"):
        open_run(dataclasses.replace(recipe, seed=7), tmp_path / "run")
    assert Recipe(**{**vars(recipe)}) == recipe
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["versions"]["torch"]


def test_a_run_goes_on_with_other_processes_and_the_same_global_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(processes: int, batch_size: int) -> None:
        assert recipe.tune is not None
        monkeypatch.setattr("proclip.distributed.world_size", lambda: processes)
        tune = dataclasses.replace(recipe.tune, batch_size=batch_size)
        open_run(dataclasses.replace(recipe, tune=tune), tmp_path)

    recipe = dataclasses.replace(find_recipe("mini/llm2clip"), distill=None)
    on(2, 64)
    (tmp_path / "checkpoints").mkdir()
    on(2, 64)
    on(1, 128)
    on(4, 32)
    with pytest.raises(ProclipError, match="batch_size: it has 128, now 256; batches are those of all processes"):
        on(2, 128)


def test_the_quickstart_trains_each_stage_1_once(tmp_path: Path) -> None:
    recipes = {method: find_recipe(f"mini/{method}") for method in METHODS}
    model = tmp_path / "stage1" / "model"
    shared = {method: after_stage1(recipe, recipes["stage1"], model) for method, recipe in recipes.items()}
    from_stage1 = {method for method, recipe in shared.items() if recipe.init == str(model)}
    assert from_stage1 == {"stage1_contrastive", "proclip"}
    assert all(shared[method].distill is None and shared[method].tune == recipes[method].tune for method in from_stage1)
    assert all(shared[method] == recipes[method] for method in METHODS if method not in from_stage1)
