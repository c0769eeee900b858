"""Stage 2 with fewer parameters and cheaper teachers, on the mini world: quality, step time, memory.

    python benchmarks/parameter_efficient.py --choose     # learning rates, on the development concepts
    python benchmarks/parameter_efficient.py --seeds 3    # the table, on the test concepts

Every mode starts from the same stage 1 (that of `proclip ablate`, made where it is missing) and is the recipe
mini/proclip in all but what its row says. The learning rate of the last blocks and of LoRA is the best of three,
each tried once with seed 0 and judged by the mean of zero-shot and both R@1 on the development concepts; the full and
the locked tower keep the recipe's, chosen on them before. The test concepts choose nothing.
Runs and figures that are there are not made again. ``--smoke`` is a short run of all of it, whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from measure import command, in_turn, peak_memory
from training import Steps

from proclip.config import ImageTuningConfig, ParameterRule, Recipe, TuneConfig, config_hash
from proclip.data.dataset import ImageCaptions
from proclip.data.store import EmbeddingStore
from proclip.evaluate import open_model
from proclip.evaluate.benchmark import Benchmark
from proclip.evaluate.benchmarks import tasks_folder
from proclip.files import read_json, write_atomically, write_json
from proclip.models.clip import load_clip
from proclip.models.proclip import ProCLIP
from proclip.runs.ablate import STAGE1, run_name, variants
from proclip.runs.columns import COLUMNS, TASKS, cell
from proclip.runs.embed import embed_recipes
from proclip.runs.evaluate import evaluate_path, values
from proclip.runs.recipes import environment, find_recipe
from proclip.runs.train import BROKEN, train_recipe
from proclip.runs.tuning import open_tuning, trained_parameters
from proclip.train.stages import ImageTextTuning, Stage

FULL = "full, EMA (the recipe)"
LOCKED = ImageTuningConfig(mode="locked")
MODES: dict[str, dict[str, Any]] = {
    FULL: {},
    "full, frozen teacher": {"teacher": "frozen"},
    "full, cached teacher": {"teacher": "cached"},
    **{f"last {k} blocks, EMA": {"image": ImageTuningConfig(mode="last_blocks", blocks=k)} for k in (1, 2, 4)},
    **{f"LoRA r={r}, EMA": {"image": ImageTuningConfig(mode="lora", rank=r)} for r in (4, 16)},
    "locked": {"image": LOCKED, "distillation_weight": 0.0},
}
"""Rows, and what differs from the recipe."""
RATES = (1e-4, 3e-4, 1e-3)
"""Tried for the last blocks. The middle one is the recipe's, and what the full tower and the locked one train with."""
LORA_RATES = (3e-4, 1e-3, 3e-3)
"""Of LoRA: its B starts at zero and wants larger steps."""
QUALITY = ("zero-shot", "I2T R@1", "T2I R@1", "CKA")
JUDGED_BY = ("zero-shot", "I2T R@1", "T2I R@1")
STEPS_A_TURN, MEMORY_STEPS = 3, 3
SMOKE_TASKS = ("zero_shot/openmoji", "zero_shot/twemoji", "retrieval_short", "retrieval_long")


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where things are and how much of them is done."""

    runs: Path
    stage1: Path
    smoke: bool

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is evaluated."""
        return SMOKE_TASKS if self.smoke else TASKS

    def stage1_model(self, seed: int) -> Path:
        """A trained stage 1, the ablation's; made where it is missing."""
        run = self.stage1 / run_name(seed, STAGE1)
        if not (run / "model" / "config.json").is_file():
            recipe = variants(seed, self.stage1)[STAGE1]
            embed_recipes([recipe])
            train_recipe(recipe, run)
        return run / "model"

    def recipe(self, mode: str, rate: float, seed: int) -> Recipe:
        """The recipe of a row with a learning rate."""
        base = dataclasses.replace(find_recipe("mini/proclip", [f"seed={seed}"]), evaluate=None)
        assert base.tune is not None
        own = base.tune.optim
        if MODES[mode].get("image") == LOCKED:
            optim = dataclasses.replace(own, lr=rate)
        else:
            of_tower = ParameterRule(match="^image_tower", lr=rate)
            optim = dataclasses.replace(own, rules=(of_tower, *own.rules))
        changes: dict[str, Any] = {"optim": optim, **MODES[mode], **({"epochs": 1} if self.smoke else {})}
        tune: TuneConfig = dataclasses.replace(base.tune, **changes)
        return dataclasses.replace(base, distill=None, init=str(self.stage1_model(seed)), tune=tune)


def rates_of(mode: str, smoke: bool) -> tuple[float, ...]:
    image = MODES[mode].get("image")
    rates = LORA_RATES if image is not None and image.mode == "lora" else RATES
    settled = image is None or image == LOCKED  # what the recipe trains with, chosen on dev before
    return rates[1:2] if smoke or settled else rates


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def open_world(bench: Bench, split: str) -> Benchmark:
    recipe = bench.recipe(FULL, RATES[1], 0)
    embed_recipes([recipe])
    (source,) = recipe.data.sources
    return tasks_folder(Path(source.path), split).only(bench.tasks)


def figures_of(bench: Bench, world: Benchmark, recipe: Recipe, run: Path) -> dict[str, float]:
    train_recipe(recipe, run)
    return measured(world, str(run), run / f"results-{world.notes['split']}.json", recipe.clip)


def measured(world: Benchmark, model: str, path: Path, clip: str) -> dict[str, float]:
    return values(evaluate_path(model, [world], path, open_model(clip)))


def columns(per_seed: Sequence[Mapping[str, float]], names: Sequence[str] = QUALITY) -> dict[str, tuple[float, float]]:
    return {name: cell(per_seed, COLUMNS[name]) for name in names}


def choose(bench: Bench) -> dict[str, Any]:
    """Learning rates: of fewer parameters the best of three on dev, one seed; else the recipe's."""
    world, rows = open_world(bench, "dev"), {}
    for mode in MODES:
        tried = {}
        for rate in rates_of(mode, bench.smoke):
            run = bench.runs / "choose" / f"{slug(mode)}-{rate:g}"
            found = columns([figures_of(bench, world, bench.recipe(mode, rate, 0), run)])
            judged = statistics.fmean(found[name][0] for name in JUDGED_BY)
            tried[f"{rate:g}"] = {"judged by": judged, **{name: value for name, (value, _) in found.items()}}
            print(f"{mode}, {rate:g}: {judged:.2f}", flush=True)
        best = max(tried, key=lambda rate: tried[rate]["judged by"])
        rows[mode] = {"rate": float(best), "tried": tried}
    return {"split": "dev", "seed": 0, "judged by": f"mean of {', '.join(JUDGED_BY)}", "rows": rows}


def loaded(bench: Bench, mode: str, rate: float) -> Callable[[], tuple[Steps, ProCLIP]]:
    """Load a mode's model and data; what is returned makes its stage, with some of its batches."""
    recipe = bench.recipe(mode, rate, 0)
    tune = recipe.tune
    assert tune is not None and recipe.init is not None
    torch.manual_seed(0)
    model, clip = ProCLIP.from_pretrained(recipe.init), load_clip(recipe.clip)
    data, llm = ImageCaptions.of(recipe.data), EmbeddingStore.open(Path(recipe.data.store) / "llm")

    def make() -> tuple[Steps, ProCLIP]:
        batches, stage = open_tuning(recipe, tune, data, model, clip, llm, bench.runs / BROKEN)
        return Steps(stage, tune.optim, list(islice(batches.epoch(0), 3))), model

    return make


def step_times(bench: Bench, rates: Mapping[str, float], rounds: int) -> dict[str, Any]:
    """Every mode in turn, again and again, in one process: each round's time over that round's of the recipe."""
    made = {mode: loaded(bench, mode, rates[mode])() for mode in MODES}
    turns = in_turn({mode: partial(steps.run, STEPS_A_TURN) for mode, (steps, _) in made.items()}, rounds)
    found = {}
    for mode, (steps, model) in made.items():
        ratios = sorted(turns.ratio(mode, FULL))
        quarter = len(ratios) // 4
        found[mode] = {
            "seconds": statistics.median(turns.seconds[mode]) / STEPS_A_TURN,
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [ratios[quarter], ratios[-1 - quarter]],
            "parameters": parameters(steps.stage, model),
        }
    return found


def parameters(stage: Stage, model: ProCLIP) -> dict[str, Any]:
    groups = {name: sum(p.numel() for _, p in named) for name, named in stage.groups().items()}
    assert isinstance(stage, ImageTextTuning)
    return {
        "image_tower": groups.get("image_tower", 0),
        "trained": sum(groups.values()),
        "total": sum(p.numel() for p in model.parameters()),
        "line": trained_parameters(stage, model),
    }


def some_steps(bench: Bench, mode: str, rate: float) -> Callable[[], object]:
    """What a fresh process measures: stage 2 beyond the loaded model and data."""
    make = loaded(bench, mode, rate)
    return lambda: make()[0].run(MEMORY_STEPS)


def memory(bench: Bench, rates: Mapping[str, float], repeats: int) -> dict[str, Any]:
    """Each mode in processes of its own: medians, in MiB."""
    found: dict[str, Any] = {}
    for mode in MODES:
        peaks = [peak_memory(some_steps, bench, mode, rates[mode]) for _ in range(repeats)]
        found[mode] = {f"{key}_mib": statistics.median(peak[key] for peak in peaks) for key in ("peak", "added")}
        found[mode]["all"] = peaks
    return found


def markdown(result: Mapping[str, Any]) -> str:
    head = ["", *QUALITY, "trained, image tower", "trained, all", "step time", "memory, MiB", "lr"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---|" * (len(head) - 1)]
    for mode, row in result["rows"].items():
        single = len(row["figures"]) == 1
        cells = [f"{mean:.1f}" if single else f"{mean:.1f} ± {spread:.1f}" for mean, spread in row["cells"].values()]
        cost, used = row.get("cost"), row.get("memory")
        if cost and used:
            low, high = cost["ratio_quartiles"]
            counts = cost["parameters"]
            cells += [
                f"{counts['image_tower']:,}",
                f"{counts['trained']:,}",
                f"{cost['ratio']:.2f} ({low:.2f} to {high:.2f})",
            ]
            cells += [f"{used['added_mib']:.0f}", f"{row['rate']:g}"]
        lines.append(f"| {mode} | " + " | ".join([*cells, *["-"] * (len(head) - 1 - len(cells))]) + " |")
    note = (
        f"{result['split']} concepts, {result['seeds']} seeds: points, mean and standard deviation. "
        f"Step time: over that of the recipe in the same round, median and quartiles of {result['rounds']} rounds in "
        "turn in one process, without reading pictures. "
        "Memory: peak of a process of its own less what it held before stage 2 was made, median. "
        "lr: of the image tower (locked: of the adapter), of the last blocks and LoRA the best of three on the "
        "development concepts, else the recipe's."
    )
    return "\n".join([*lines, "", note, ""])


def table(bench: Bench, seeds: int, rounds: int, choice: Mapping[str, Any], out: Path) -> None:
    """Train, evaluate and measure every mode; the files are written anew as rows come."""
    rates = {mode: float(choice["rows"][mode]["rate"]) for mode in MODES}
    split = "dev" if bench.smoke else "test"
    world = open_world(bench, split)
    rows: dict[str, dict[str, Any]] = {}
    bench.runs.mkdir(parents=True, exist_ok=True)
    clip = bench.recipe(FULL, RATES[1], 0).clip
    original = measured(world, clip, bench.runs / f"clip-{split}.json", clip)
    stage1 = []
    for seed in range(seeds):
        model = bench.stage1_model(seed)
        figures = bench.runs / f"seed{seed}" / f"stage1-{split}.json"
        figures.parent.mkdir(parents=True, exist_ok=True)
        stage1.append(measured(world, str(model), figures, clip))
    rows["CLIP itself"] = {"cells": columns([original]), "figures": [original]}
    rows["stage 1, where all start"] = {"cells": columns(stage1), "figures": stage1}
    result: dict[str, Any] = {
        "benchmark": dict(world.notes), "split": split, "seeds": seeds, "rounds": rounds, "smoke": bench.smoke,
        "choice": choice, "rows": rows,
        "environment": environment() | {"command": command(), "threads": torch.get_num_threads()},
    }  # fmt: skip
    for mode in MODES:
        recipes = [bench.recipe(mode, rates[mode], seed) for seed in range(seeds)]
        runs = [bench.runs / f"seed{seed}" / slug(mode) for seed in range(seeds)]
        found = [figures_of(bench, world, recipe, run) for recipe, run in zip(recipes, runs, strict=True)]
        rows[mode] = {
            "rate": rates[mode], "cells": columns(found), "figures": found,
            "config_hash_seed0": config_hash(recipes[0]),
        }  # fmt: skip
        write(result, out)
    costs = bench.runs / "costs.json"
    key = {"rates": rates, "rounds": rounds, "modes": list(MODES), "versions": environment()["versions"]}
    if not costs.is_file() or read_json(costs)["key"] != json.loads(json.dumps(key)):
        times = step_times(bench, rates, rounds)
        write_json(costs, {"key": key, "times": times, "memory": memory(bench, rates, 1 if bench.smoke else 3)})
    cost = read_json(costs)
    for mode in MODES:
        rows[mode] |= {"cost": cost["times"][mode], "memory": cost["memory"][mode]}
    write(result, out)
    print(markdown(result))


def write(result: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "parameter_efficient.json", result)
    write_atomically(out / "parameter_efficient.md", markdown(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="choose the learning rates instead")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20, help="turns of every mode when steps are timed")
    parser.add_argument("--runs", type=Path, default=Path("runs/parameter_efficient"))
    parser.add_argument("--stage1", type=Path, default=Path("runs/ablate"), help="folder of proclip ablate's runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--smoke", action="store_true", help="one rate, epoch and seed, development concepts")
    arguments = parser.parse_args()
    bench = Bench(arguments.runs, arguments.stage1, arguments.smoke)
    chosen = arguments.out / "parameter_efficient_rates.json"
    if arguments.choose:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(chosen, {**choose(bench), "smoke": bench.smoke, "environment": environment()})
        return
    if not chosen.is_file():
        parser.error(f"{chosen} is missing: run with --choose first")
    choice = read_json(chosen)
    if choice["smoke"] != bench.smoke:
        parser.error(f"{chosen} is of a run {'with' if choice['smoke'] else 'without'} --smoke")
    table(bench, 1 if bench.smoke else arguments.seeds, 3 if bench.smoke else arguments.rounds, choice, arguments.out)


if __name__ == "__main__":
    main()
