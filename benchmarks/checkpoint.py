"""What do checkpoints cost a training: written while it goes on, written at once, and none?

    python benchmarks/checkpoint.py

Stage 2 of the paper on noise. Each measurement is a number of steps, the first followed by a checkpoint of weights,
EMA teacher and moments; it ends when the checkpoint is on disk. ``--folder`` is where: a disk's own speed matters.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from measure import command_line, figure, in_turn, spread, write
from torch import nn, tensor
from training import LOGIT_SCALE, Steps, random_clip, random_tune_batch

from proclip.config import AdapterConfig, OptimConfig, TuneConfig
from proclip.models.adapter import Adapter
from proclip.models.clip_transformers import ClipImageTower
from proclip.train.checkpoint import Checkpoints
from proclip.train.stages import ImageTextTuning

LLM_DIM = 512


def options_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clip", help="ViT-B/32, ViT-B/16, ViT-L/14, tiny (default: ViT-B/32; tiny with --small)")
    parser.add_argument("--batch", type=int, default=4, help="pairs a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="steps to a checkpoint (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="of the checkpoints (default: a temporary one)")


class Run:
    """A stage 2 in training, and its checkpoints.

    Args:
        name: of the CLIP.
        batch: pairs a step.
        steps: of a measurement.
        folder: of the checkpoints.
    """

    def __init__(self, name: str, batch: int, steps: int, folder: Path) -> None:
        clip = random_clip(name)
        side = clip.vision_model.config.image_size
        assert isinstance(side, int)
        tower = ClipImageTower(clip.vision_model, clip.visual_projection)
        adapter = Adapter(LLM_DIM, tower.embed_dim, AdapterConfig())
        config = TuneConfig(optim=OptimConfig(lr=1e-6))
        stage = ImageTextTuning(tower, adapter, nn.Parameter(tensor(LOGIT_SCALE)), config)
        self.training = Steps(stage, config.optim, [random_tune_batch(batch, side, LLM_DIM)])
        self.steps, self.folder, self.checkpoints = steps, folder, Checkpoints(folder, keep=1)
        self.pauses: list[float] = []

    def none(self) -> None:
        """Steps alone."""
        self.training.run(self.steps)

    def meanwhile(self) -> None:
        """Written while the steps go on."""
        self._save()
        self.training.run(self.steps - 1)
        self.checkpoints.wait()

    def at_once(self) -> None:
        """Written before the steps go on."""
        self._save()
        self.checkpoints.wait()
        self.training.run(self.steps - 1)

    def _save(self) -> None:
        self.training.run(1)
        start = time.perf_counter()
        self.checkpoints.save(self.training.done, self.training.stage, self.training.optimizer, {})
        self.pauses.append(time.perf_counter() - start)

    def mebibytes(self) -> float:
        """Size of a checkpoint."""
        return sum(file.stat().st_size for file in self.folder.rglob("*.safetensors")) / 2**20


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=5, extend=options_of, threads=1)
    name = options.clip or ("tiny" if options.small else "ViT-B/32")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run = Run(name, options.batch, options.steps, Path(folder))
        with run.checkpoints:
            ways = {"none": run.none, "while training goes on": run.meanwhile, "at once": run.at_once}
            turns = in_turn(ways, options.repeats)
        size = run.mebibytes()
    each = f"one in {options.steps} steps"
    figures = [
        figure(f"time with checkpoints written meanwhile, {each}, over none",
               turns.ratio("while training goes on", "none"), "x"),
        figure(f"time with checkpoints written at once, {each}, over none", turns.ratio("at once", "none"), "x"),
        figure("time with checkpoints written meanwhile over at once",
               turns.ratio("while training goes on", "at once"), "x", aim="below 1"),
        figure("pause of training for a checkpoint", run.pauses, "s"),
    ]  # fmt: skip
    details = {"clip": name, "batch": options.batch, "steps": options.steps, "checkpoint_mib": round(size, 1),
               "step_seconds": spread([s / options.steps for s in turns.seconds["none"]])}  # fmt: skip
    write(options, __doc__, figures, {**details, "times": turns.values()})


if __name__ == "__main__":
    main()
