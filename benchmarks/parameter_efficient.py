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
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from proclip.config import ImageTuningConfig, ParameterRule, Recipe, TuneConfig, config_hash
from proclip.data.batches import TuneBatch
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
from proclip.runs.embed import embed_recipes, of_clip
from proclip.runs.evaluate import evaluate_path, values
from proclip.runs.recipes import environment, find_recipe
from proclip.runs.train import train_recipe
from proclip.runs.tuning import open_tuning, trained_parameters
from proclip.train.optim import build_optimizer, clip_gradients
from proclip.train.stages import ImageTextTuning

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
STEPS_A_TURN, WARM_UP_STEPS, MEMORY_STEPS = 3, 2, 3
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
    return tasks_folder(Path(recipe.data.dataset), split).only(bench.tasks)


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


def ready(bench: Bench, mode: str, rate: float, batches: int) -> tuple[ImageTextTuning, ProCLIP, list[TuneBatch]]:
    """A mode's stage, its model and some of its batches."""
    recipe = bench.recipe(mode, rate, 0)
    assert recipe.tune is not None and recipe.init is not None
    torch.manual_seed(0)
    model, clip = ProCLIP.from_pretrained(recipe.init), load_clip(recipe.clip)
    store = Path(recipe.data.store)
    samples, llm = ImageCaptions(recipe.data.dataset).select(recipe.tune.split), EmbeddingStore.open(store / "llm")
    cached = of_clip(store / "image_teacher", recipe.clip)
    source, stage = open_tuning(recipe.tune, samples, model, clip, llm, cached, recipe.seed)
    taken = [batch for _, batch in zip(range(batches), source.epoch(0), strict=False)]
    stage.train()
    return stage, model, taken


class Steps:
    """A mode's training steps as `fit` does them, without reading pictures, checkpoints and logs."""

    def __init__(self, bench: Bench, mode: str, rate: float) -> None:
        self.stage, self.model, batches = ready(bench, mode, rate, 3)
        self.optimizer, self.batches = build_optimizer(self.stage.groups(), self.stage.config.optim), cycle(batches)

    def run(self, steps: int) -> float:
        """Seconds a step."""
        start = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            self.stage.loss(next(self.batches))["loss"].backward()  # type: ignore[no-untyped-call]
            clip_gradients(self.optimizer, self.stage.config.optim.grad_clip)
            self.optimizer.step()
            self.stage.after_step()
        return (time.perf_counter() - start) / steps


def step_times(bench: Bench, rates: Mapping[str, float], rounds: int) -> dict[str, Any]:
    """Every mode in turn, again and again, in one process: each round's time over that round's of the recipe."""
    steps = {mode: Steps(bench, mode, rates[mode]) for mode in MODES}
    for one in steps.values():
        one.run(WARM_UP_STEPS)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    order = list(MODES)
    for number in range(rounds):
        for mode in order[number % len(order) :] + order[: number % len(order)]:
            seconds[mode].append(steps[mode].run(STEPS_A_TURN))
    found = {}
    for mode in MODES:
        ratios = sorted(own / full for own, full in zip(seconds[mode], seconds[FULL], strict=True))
        quarter = len(ratios) // 4
        found[mode] = {
            "seconds": statistics.median(seconds[mode]),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [ratios[quarter], ratios[-1 - quarter]],
            "parameters": parameters(steps[mode]),
        }
    return found


def parameters(steps: Steps) -> dict[str, Any]:
    groups = {name: sum(p.numel() for _, p in named) for name, named in steps.stage.groups().items()}
    return {
        "image_tower": groups.get("image_tower", 0),
        "trained": sum(groups.values()),
        "total": sum(p.numel() for p in steps.model.parameters()),
        "line": trained_parameters(steps.stage, steps.model),
    }


def status_kib(field: str) -> int:
    """A field of Linux's /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def measure_memory(bench: Bench, mode: str, rate: float) -> None:
    """Print the peak of this process, and what of it stage 2 added to the loaded model and data, in MiB."""
    before: list[int] = []
    made = ImageTextTuning.__init__

    def note(*arguments: Any, **named: Any) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of loading, is forgotten
        before.append(status_kib("VmRSS"))
        made(*arguments, **named)

    ImageTextTuning.__init__ = note  # type: ignore[method-assign]
    Steps(bench, mode, rate).run(MEMORY_STEPS)
    peak = status_kib("VmHWM")
    print(json.dumps({"peak_mib": peak / 1024, "added_mib": (peak - before[0]) / 1024}))


def memory(bench: Bench, rates: Mapping[str, float], repeats: int) -> dict[str, Any]:
    """Each mode in processes of its own: medians."""
    found: dict[str, Any] = {}
    for mode in MODES:
        measured = []
        for _ in range(repeats):
            command = [sys.executable, __file__, "--memory-of", mode, str(rates[mode]), "--runs", str(bench.runs)]
            command += ["--stage1", str(bench.stage1), *(["--smoke"] if bench.smoke else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
        found[mode] = {key: statistics.median(m[key] for m in measured) for key in measured[0]}
        found[mode]["all"] = measured
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
        "choice": choice, "rows": rows, "environment": environment() | {"threads": torch.get_num_threads()},
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
    found = read_json(costs)
    for mode in MODES:
        rows[mode] |= {"cost": found["times"][mode], "memory": found["memory"][mode]}
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
    parser.add_argument("--memory-of", nargs=2, metavar=("MODE", "RATE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    bench = Bench(arguments.runs, arguments.stage1, arguments.smoke)
    if arguments.memory_of:
        mode, rate = arguments.memory_of
        measure_memory(bench, mode, float(rate))
        return
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
