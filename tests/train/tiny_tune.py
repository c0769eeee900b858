"""A stage 2 small enough to train in a second, with dropout and augmentation; also a script that a test kills.

``python tiny_tune.py RUN_DIR SECONDS_PER_BATCH [kill-in-checkpoint STEP]``
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from proclip.config import AdapterConfig, DistillLossConfig, LogConfig, OptimConfig, ParameterRule, TuneConfig
from proclip.data.batches import TuneBatch
from proclip.models.adapter import Adapter
from proclip.seeding import generator, seed_all
from proclip.train import checkpoint
from proclip.train.loop import FitResult, Hook, fit
from proclip.train.metric_log import MetricLogger
from proclip.train.stages import ImageTextTuning

SIDE, LLM_DIM, EMBED_DIM, BATCH, STEPS_PER_EPOCH, EPOCHS = 4, 6, 5, 6, 8, 3
LOG = LogConfig(every_steps=1, checkpoint_every_steps=5)


class TinyTower(nn.Module):
    """Pixels -> features, with dropout."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * SIDE * SIDE, 12)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(12, EMBED_DIM)

    def forward(self, pixel_values: Tensor) -> Tensor:
        features: Tensor = self.project(self.dropout(torch.tanh(self.hidden(pixel_values.flatten(1)))))
        return features


class TinyPairs:
    """Noise for images and captions; the augmentation is more noise, drawn anew each epoch."""

    batch_size, steps_per_epoch = BATCH, STEPS_PER_EPOCH

    def __init__(self, seconds_per_batch: float = 0.0) -> None:
        self.seconds_per_batch = seconds_per_batch
        self.llm_embeds = torch.randn(BATCH * STEPS_PER_EPOCH, LLM_DIM, generator=generator(0, "captions"))
        self.images = torch.randn(BATCH * STEPS_PER_EPOCH, 3, SIDE, SIDE, generator=generator(0, "images"))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch]:
        order = torch.randperm(len(self.images), generator=generator(0, "order", epoch))
        for index in range(start, STEPS_PER_EPOCH):
            time.sleep(self.seconds_per_batch)
            ids = order[index * BATCH : (index + 1) * BATCH]
            noise = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator(0, "augment", epoch, index))
            yield TuneBatch(
                pixel_values=self.images[ids] + 0.1 * noise,
                llm_embeds=self.llm_embeds[ids],
                image_ids=ids,
                text_ids=ids,
            )


class Share(TinyPairs):
    """One process's part of each batch, of several processes."""

    def __init__(self, rank: int, processes: int, seconds_per_batch: float = 0.0) -> None:
        super().__init__(seconds_per_batch)
        self.batch_size = BATCH // processes
        self.part = slice(rank * self.batch_size, (rank + 1) * self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch]:
        for batch in super().epoch(epoch, start):
            tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
            yield TuneBatch(**{name: t[self.part] for name, t in tensors.items() if t is not None})


def tune_config(**changes: object) -> TuneConfig:
    optim = OptimConfig(lr=3e-2, warmup_steps=3, grad_clip=5.0, rules=(ParameterRule(match="^adapter", lr=1e-2),))
    config = TuneConfig(
        epochs=EPOCHS, batch_size=BATCH, ema_decay=0.9, distillation_weight=0.05, optim=optim,
        loss=DistillLossConfig(reference_batch=BATCH),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def tiny_stage(dropout: float = 0.2, **changes: object) -> ImageTextTuning:
    seed_all(0)
    adapter = Adapter(LLM_DIM, EMBED_DIM, AdapterConfig(num_blocks=1, dropout=dropout))
    return ImageTextTuning(TinyTower(dropout), adapter, nn.Parameter(torch.tensor(2.0)), tune_config(**changes))


def train(
    run_dir: Path, source: TinyPairs | None = None, stage: ImageTextTuning | None = None, *,
    epochs: int | None = None, log: LogConfig = LOG, hooks: Sequence[Hook] = (),
) -> FitResult:  # fmt: skip
    stage = stage if stage is not None else tiny_stage()
    with MetricLogger(run_dir, log) as logger:
        return fit(
            stage, source if source is not None else TinyPairs(), name="tune", epochs=epochs or EPOCHS,
            optim=stage.config.optim, log=log, run_dir=run_dir, logger=logger, hooks=hooks,
        )  # fmt: skip


def kill_in_checkpoint(step: int) -> None:
    """Die, as a power cut would have it, when the checkpoint of `step` has its weights but not its moments."""
    save = checkpoint._save

    def save_or_die(path: Path, tensors: dict[str, Tensor]) -> None:
        if path.parent.name.endswith(f"{step:08d}") and path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        save(path, tensors)

    checkpoint._save = save_or_die  # type: ignore[assignment]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[3:4] == ["kill-in-checkpoint"]:
        kill_in_checkpoint(int(sys.argv[4]))
    train(Path(sys.argv[1]), TinyPairs(float(sys.argv[2])))
