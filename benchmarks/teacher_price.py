"""The price of stage 2's self-distillation: time of a step with each teacher over one without any.

    python benchmarks/teacher_price.py                # step times, ViT-B/32 at 224 pixels; six minutes on two cores
    python benchmarks/teacher_price.py --quality 3    # and what each is worth, mini world, development concepts

One stage with random weights does all the steps, with its teacher, stride and weight changed from turn to turn. A step
has everything but reading pictures: forward and backward pass, the optimiser, the teacher's update.
``every other step`` is an alternative that was tried, and lives here alone: L_reg, doubled, at every second step. Its
time is the mean of two steps.
``--quality`` trains the recipe mini/proclip with each teacher from the stage 1 of ``proclip ablate`` (made in
runs/ablate where it is missing), and prints its figures beside the price. Runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import command_line, figure, in_turn, write
from parameter_efficient import FULL, RATES, Bench, columns, figures_of, open_world, slug
from torch import Tensor, nn
from training import CLIPS, LOGIT_SCALE, Steps, random_tune_batch

from proclip.config import AdapterConfig, OptimConfig, TuneConfig
from proclip.models.adapter import Adapter
from proclip.models.clip_transformers import ClipImageTower
from proclip.train.stages import Embeds, ImageTextTuning, Stage

NONE, ALTERNATING = "no teacher", "EMA, every other step"
TEACHERS: dict[str, dict[str, Any]] = {
    NONE: {"distillation_weight": 0.0},
    "EMA (the paper)": {},
    "EMA, stride 2": {"teacher_stride": 2},
    "EMA, stride 4": {"teacher_stride": 4},
    ALTERNATING: {},
    "cached": {"teacher": "cached"},
}
"""What differs from the recipe."""
AIMS = {"EMA, stride 2": "at most 1.20", "EMA, stride 4": "at most 1.20", "cached": "at most 1.03"}
LLM_DIM = 1024


@contextmanager
def every_other_step() -> Iterator[None]:
    """L_reg, twice as heavy, in steps 0, 2, 4, ... of every stage 2 meanwhile."""
    loss, done = ImageTextTuning.loss, [0]

    def alternating(self: Stage, batch: Any, encode: Callable[[Any], Embeds] | None = None) -> dict[str, Tensor]:
        assert isinstance(self, ImageTextTuning)
        plain, self.regularised = self.config, done[0] % 2 == 0
        self.config = dataclasses.replace(plain, distillation_weight=2 * plain.distillation_weight)
        done[0] += 1
        try:
            return loss(self, batch, encode)
        finally:
            self.config, self.regularised = plain, True

    ImageTextTuning.loss = alternating  # type: ignore[method-assign]
    try:
        yield
    finally:
        ImageTextTuning.loss = loss  # type: ignore[method-assign]


def turns_of(
    name: str, side: int, count: int, llm_dim: int, autocast: Any, device: str
) -> dict[str, Callable[[], object]]:
    """Two steps with each teacher."""
    torch.manual_seed(0)
    tower = ClipImageTower.from_config(CLIPS[name]["vision_config"], CLIPS[name]["projection_dim"])
    adapter, optim = Adapter(llm_dim, tower.embed_dim, AdapterConfig()), OptimConfig(autocast=autocast)
    config = TuneConfig(batch_size=count, optim=optim)
    stage = ImageTextTuning(tower, adapter, nn.Parameter(torch.tensor(LOGIT_SCALE)), config).to(device)
    batch = random_tune_batch(count, side, llm_dim, device)
    stored = F.normalize(torch.randn(count, tower.embed_dim), dim=-1).to(device)
    batch, teacher = dataclasses.replace(batch, teacher_embeds=stored), stage.teacher
    steps = Steps(stage, optim, [batch])

    def two(label: str) -> None:
        stage.config = dataclasses.replace(config, **TEACHERS[label])
        stage.regularised = label != NONE
        stage.teacher = teacher if label.startswith("EMA") else None
        if label == ALTERNATING:
            with every_other_step():
                steps.run(2)
        else:
            steps.run(2)

    return {label: partial(two, label) for label in TEACHERS}


def quality(bench: Bench, seeds: int) -> dict[str, Any]:
    """Figures of the recipe with each teacher on the development concepts: mean and deviation over seeds."""
    world, rows = open_world(bench, "dev"), {}
    for label, changes in TEACHERS.items():
        found = []
        for seed in range(seeds):
            base = bench.recipe(FULL, RATES[1], seed)
            assert base.tune is not None
            recipe = dataclasses.replace(base, tune=dataclasses.replace(base.tune, **changes))
            run = bench.runs / f"seed{seed}" / slug(label)
            with every_other_step() if label == ALTERNATING else nullcontext():
                found.append(figures_of(bench, world, recipe, run))
        rows[label] = columns(found)
        print(label, {name: f"{mean:.2f} ± {spread:.2f}" for name, (mean, spread) in rows[label].items()}, flush=True)
    return {"split": "dev", "seeds": seeds, "rows": rows}


def options_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quality", type=int, default=0, metavar="SEEDS", help="train the mini world with so many")
    parser.add_argument("--runs", type=Path, default=Path("runs/teacher_price"))
    parser.add_argument("--stage1", type=Path, default=Path("runs/ablate"), help="folder of proclip ablate's runs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--autocast", choices=["none", "bfloat16", "float16"], default="none")


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=7, extend=options_of)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name, side, llm_dim = ("tiny", 32, 32) if options.small else ("ViT-B/32", 224, LLM_DIM)
    turns = in_turn(turns_of(name, side, options.batch, llm_dim, options.autocast, device), options.repeats)
    prices = {label: turns.ratio(label, NONE) for label in TEACHERS if label != NONE}
    figures = [
        figure(f"{label}: step over one without teacher", ratios, "x", aim=AIMS.get(label, ""))
        for label, ratios in prices.items()
    ]
    details: dict[str, Any] = {"clip": name, "side": side, "batch": options.batch, "turns": turns.values()}
    if options.quality:
        details["quality"] = quality(Bench(options.runs, options.stage1, options.small), options.quality)
        for label, cells in details["quality"]["rows"].items():
            price = f"{statistics.median(prices[label]):.2f}" if label in prices else "1"
            print(f"{label}: price {price}; " + ", ".join(f"{n} {m:.1f} ± {s:.1f}" for n, (m, s) in cells.items()))
    write(options, __doc__, figures, details)


if __name__ == "__main__":
    main()
