"""Stage 2's batch of 4,096 in the memory of 64 (cached gradients), and what that costs in time.

    python benchmarks/cached_gradients.py             # ViT-B/32 at 224 pixels; an hour on two cores
    python benchmarks/cached_gradients.py --small

Memory: peak resident memory of fresh processes, each with random weights, optimiser and EMA teacher: one plain step of
a batch of the size of a part, accumulation of two such batches (the gradients of the first are there when the second
is computed, as in every step in parts), and one step of the large batch in parts.
The parts are pictures of noise, made anew at each walk as decoding makes them.
Time: a step of a batch in 8 parts over gradient accumulation of the same 8 parts, in turn in one process, with and
without a teacher. Accumulation is cheaper and another loss: every part then has negatives of its own alone. Counted in
forward passes it takes 3 a part (4 with a teacher), cached gradients 4 (5): a third (a quarter) more is what to expect.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from measure import command_line, figure, in_turn, peak_memory, write
from torch import nn
from training import CLIPS, LOGIT_SCALE, Steps, random_tune_batch

from proclip.config import AdapterConfig, ImageTuningConfig, TuneConfig
from proclip.data.batches import MicroBatches, TuneBatch
from proclip.models.adapter import Adapter
from proclip.models.clip_transformers import ClipImageTower
from proclip.seeding import generator
from proclip.train.backward import backward
from proclip.train.stages import ImageTextTuning

PARTS_IN_TIME = 8


class NoiseParts:
    """Parts whose pixels are made when a walk comes to them, the same at each walk."""

    def __init__(self, batch: int, part: int, side: int, llm_dim: int) -> None:
        self.batch, self.part, self.side, self.llm_dim = batch, part, side, llm_dim

    def __iter__(self) -> Iterator[TuneBatch]:
        for start in range(0, self.batch, self.part):
            noise = generator(0, "part", start)
            numbers = torch.arange(start, start + self.part)
            yield TuneBatch(
                pixel_values=torch.randn(self.part, 3, self.side, self.side, generator=noise),
                llm_embeds=torch.randn(self.part, self.llm_dim, generator=noise),
                image_ids=numbers, text_ids=numbers,
            )  # fmt: skip

    def whole(self) -> MicroBatches[TuneBatch]:
        """As a loader gives it."""
        return MicroBatches(parts=self)


def steps_of(
    name: str, llm_dim: int, batches: list[object], batch: int, teacher: bool = True, checkpointing: bool = False
) -> Steps:
    torch.manual_seed(0)
    tower = ClipImageTower.from_config(CLIPS[name]["vision_config"], CLIPS[name]["projection_dim"])
    image = ImageTuningConfig(gradient_checkpointing=checkpointing)
    config = TuneConfig(batch_size=batch, image=image, distillation_weight=4e-4 if teacher else 0.0)
    adapter = Adapter(llm_dim, tower.embed_dim, AdapterConfig())
    stage = ImageTextTuning(tower, adapter, nn.Parameter(torch.tensor(LOGIT_SCALE)), config)
    return Steps(stage, config.optim, batches)


def plain_step(name: str, side: int, llm_dim: int, batch: int, checkpointing: bool = False) -> Callable[[], object]:
    """A step in one piece, its optimiser's moments made before."""

    def run() -> None:
        steps = steps_of(name, llm_dim, [random_tune_batch(batch, side, llm_dim)], batch, checkpointing=checkpointing)
        steps.run(2)  # the second has the moments from its beginning

    return run


def accumulated_step(name: str, side: int, llm_dim: int, part: int) -> Callable[[], object]:
    """Two parts, each with the loss of its own pairs; the second finds the gradients of the first."""

    def run() -> None:
        parts = NoiseParts(2 * part, part, side, llm_dim)
        step = accumulated(steps_of(name, llm_dim, [parts.whole()], parts.batch), parts)
        step()
        step()  # the moments are there from its beginning

    return run


def step_in_parts(name: str, side: int, llm_dim: int, batch: int, part: int) -> Callable[[], object]:
    """A small step that makes the moments, then the large one."""

    def run() -> None:
        small, large = (NoiseParts(count, part, side, llm_dim).whole() for count in (2 * part, batch))
        steps_of(name, llm_dim, [small, large], batch).run(2)

    return run


def accumulated(steps: Steps, parts: NoiseParts) -> Callable[[], object]:
    """The gradients of each part's own loss, added up, and one step of the optimiser."""

    def run() -> None:
        steps.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            backward(steps.spread, part, steps.scaler)
        steps.optimizer.step()
        steps.stage.after_step()

    return run


def options_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--part", type=int, default=64)


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=3, extend=options_of)
    name, side, llm_dim, batch, part, timed = "ViT-B/32", 224, 1024, options.batch, options.part, 16
    if options.small:
        name, side, llm_dim, batch, part, timed = "tiny", 32, 32, 128, 8, 8
    rows: dict[str, tuple[Callable[..., Callable[[], object]], tuple[object, ...]]] = {
        f"plain step of {part}": (plain_step, (name, side, llm_dim, part)),
        f"plain step of {part}, gradient checkpointing": (plain_step, (name, side, llm_dim, part, True)),
        f"accumulation of {part} and {part}": (accumulated_step, (name, side, llm_dim, part)),
        f"step of {batch:,} in parts of {part}": (step_in_parts, (name, side, llm_dim, batch, part)),
    }
    found = {what: peak_memory(make, *of) for what, (make, of) in rows.items()}
    added = {what: row["added"] for what, row in found.items()}
    base, checkpointed, accumulation, large = added.values()
    embeds = 4 * CLIPS[name]["projection_dim"] * batch * 5 / 2**20  # image, text, target and two gradients
    figures = [figure(f"{name}, {what}: peak memory", value, "MiB") for what, value in added.items()]
    figures += [
        figure(f"{batch:,} in parts over a plain step of {part}", large / base, "x", aim="about 1"),
        figure(f"{batch:,} in parts over accumulation of {part} and {part}", large / accumulation, "x", aim="about 1"),
        figure("gradient checkpointing over without", checkpointed / base, "x"),
        figure("embeds, targets and their gradients", embeds, "MiB"),
    ]
    parts = NoiseParts(PARTS_IN_TIME * timed, timed, side, llm_dim)
    ways: dict[str, Callable[[], object]] = {}
    for label, teacher in (("EMA teacher", True), ("no teacher", False)):
        steps = steps_of(name, llm_dim, [parts.whole()], parts.batch, teacher)
        ways |= {f"cached, {label}": steps.run, f"accumulated, {label}": accumulated(steps, parts)}
    turns = in_turn(ways, options.repeats)
    for label, least in (("EMA teacher", "5/4 = 1.25"), ("no teacher", "4/3 = 1.33")):
        ratio = turns.ratio(f"cached, {label}", f"accumulated, {label}")
        figures.append(figure(f"time over accumulation, {label}", ratio, "x", aim=f"{least} in forward passes"))
    write(
        options,
        __doc__,
        figures,
        {
            "clip": name,
            "side": side,
            "batch": batch,
            "part": part,
            "found": found,
            "timed": {"parts": PARTS_IN_TIME, "part": timed},
            "turns": turns.values(),
        },
    )


if __name__ == "__main__":
    main()
