"""Small stages and their batches, trained by any number of processes; what `test_processes.py` compares."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from proclip import distributed
from proclip.config import (
    AdapterConfig,
    DistillConfig,
    DistillLossConfig,
    ImageTuningConfig,
    LogConfig,
    OptimConfig,
    ParameterRule,
    PretrainConfig,
    TuneConfig,
)
from proclip.data.batches import DistillBatch, MicroBatches, PretrainBatch, TuneBatch
from proclip.errors import ProclipError
from proclip.models.adapter import Adapter
from proclip.models.towers import ImageTower
from proclip.seeding import generator, seed_all
from proclip.train.loop import FitResult, fit
from proclip.train.metric_log import MetricLogger
from proclip.train.stages import ContrastivePretraining, ImageTextTuning, Stage, TextDistillation

LLM_DIM, DIM, SIDE, BATCH, PARTS, STEPS, EPOCHS = 6, 5, 4, 8, 2, 10, 2
LOG = LogConfig(every_steps=1, checkpoint_every_steps=STEPS, keep_checkpoints=2)
How = Literal["ddp", "fsdp"]
KINDS = ("distill", "tune", "parts", "last block", "sigmoid", "frozen", "pretrain")
"""Stage 1, stage 2, stage 2 with cached gradients, with a shared half of the teacher, with SigLIP's loss, with a frozen
parameter, and pretraining."""


class Tower(ImageTower):
    """Pixels -> features, with two blocks and a parameter without use."""

    family, embed_dim = "clip", DIM

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * SIDE * SIDE, 8)
        self.idle = nn.Parameter(torch.ones(3))
        self._blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2))
        self.project = nn.Linear(8, DIM, bias=False)

    @property
    def blocks(self) -> nn.ModuleList:
        return self._blocks

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Any, embed_dim: int) -> Tower:
        return cls()

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.embed(pixel_values.flatten(1))
        for block in self._blocks:
            x = x + block(x)
        features: Tensor = self.project(x)
        return features


class TextTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(11, DIM, mode="sum")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features: Tensor = self.embed(input_ids, per_sample_weights=attention_mask.float())
        return features


def make_stage(kind: str, how: How = "ddp") -> Stage:
    seed_all(0)
    rules = (ParameterRule(match="embed.bias", freeze=True),) if kind == "frozen" else ()
    optim = OptimConfig(lr=1e-2, warmup_steps=3, grad_clip=1.0, rules=rules, parallel=how)
    loss = DistillLossConfig(reference_batch=BATCH)
    adapter = Adapter(LLM_DIM, DIM, AdapterConfig(num_blocks=2))
    scale = nn.Parameter(torch.tensor(2.0))
    if kind == "distill":
        return TextDistillation(adapter, DistillConfig(loss=loss, optim=optim))
    if kind == "pretrain":
        return ContrastivePretraining(Tower(), TextTower(), scale, PretrainConfig(optim=optim))
    config = TuneConfig(
        ema_decay=0.9, distillation_weight=0.05, loss=loss, optim=optim, batch_size=BATCH,
        contrastive="sigmoid" if kind == "sigmoid" else "infonce", micro_batch_size=2 if kind == "parts" else None,
        image=ImageTuningConfig(mode="last_blocks" if kind == "last block" else "full"),
    )  # fmt: skip
    bias = nn.Parameter(torch.tensor(-2.0)) if kind == "sigmoid" else None
    return ImageTextTuning(Tower(), adapter, scale, config, bias)


class Batches:
    """This process's rows of each global batch of noise."""

    steps_per_epoch = STEPS

    def __init__(self, kind: str) -> None:
        self.kind, self.batch_size = kind, BATCH // distributed.world_size()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for step in range(start, STEPS):
            first = distributed.rank() * self.batch_size
            yield _rows(self._global(generator("batch", epoch, step)), first, first + self.batch_size, self.kind)

    def _global(self, random: torch.Generator) -> Any:
        pixels = torch.randn(BATCH, 3, SIDE, SIDE, generator=random)
        embeds = torch.randn(BATCH, LLM_DIM, generator=random)
        ids = torch.randint(0, BATCH, (2, BATCH), generator=random)  # some are equal, also of two processes
        if self.kind == "distill":
            teacher = nn.functional.normalize(torch.randn(BATCH, DIM, generator=random), dim=-1)
            return DistillBatch(llm_embeds=embeds, teacher_embeds=teacher)
        if self.kind == "pretrain":
            tokens = torch.randint(0, 11, (BATCH, 3), generator=random)
            return PretrainBatch(
                pixel_values=pixels, input_ids=tokens, attention_mask=torch.ones_like(tokens), image_ids=ids[0],
                text_ids=ids[1],
            )  # fmt: skip
        return TuneBatch(pixel_values=pixels, llm_embeds=embeds, image_ids=ids[0], text_ids=ids[1])


def _rows(batch: Any, start: int, stop: int, kind: str) -> Any:
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    own = type(batch)(**{name: t[start:stop] for name, t in tensors.items() if t is not None})
    if kind != "parts" or stop - start < PARTS:
        return own
    size = (stop - start) // PARTS
    parts = [_rows(own, first, first + size, "") for first in range(0, stop - start, size)]
    return MicroBatches(parts=parts)


def run_folder(folder: Path, kind: str, world: int, how: How) -> Path:
    return folder / f"{kind}-{world}-{how}"


def train(run: Path, kind: str, how: How = "ddp", log: LogConfig = LOG) -> tuple[Stage, FitResult]:
    stage = make_stage(kind, how)
    optim = stage.config.optim  # type: ignore[union-attr]
    with MetricLogger(run, log) as logger:
        result = fit(stage, Batches(kind), name=kind, epochs=EPOCHS, optim=optim, log=log, run_dir=run, logger=logger)  # type: ignore[arg-type]
    return stage, result


def first_half(run: Path, kind: str, copy: Path) -> None:
    """Of a run, as if it had been killed after the first of both epochs."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / kind / f"step-{2 * STEPS:08d}")


Plan = Mapping[int, tuple[Sequence[str], Sequence[How]]]
"""What is trained by how many processes, the most first: of these kinds, each in these ways."""


def work(rank: int, folder: Path, plan: Plan) -> None:
    """What each process does: all runs in worlds of several sizes, one after the other."""
    torch.set_num_threads(1)
    for world, (kinds, hows) in plan.items():
        if rank >= world:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{world}", rank=rank, world_size=world)
        try:
            _runs(folder, world, kinds, hows)
            if world == 2:
                _go_on(folder, max(plan))
                _odd(folder)
        finally:
            dist.destroy_process_group()


def _runs(folder: Path, world: int, kinds: Sequence[str], hows: Sequence[How]) -> None:
    for kind in kinds:
        for how in hows:
            run = run_folder(folder, kind, world, how)
            stage, _ = train(run, kind, how)
            if distributed.rank() == world - 1:  # the last one's, as they were given back
                torch.save(stage.state_dict(), run / "given.pt")
    distributed.barrier()


def _go_on(folder: Path, others: int) -> None:
    """From what more processes had done, shared in another way."""
    run = folder / "fewer go on"
    with distributed.main_first():
        if distributed.is_main():
            first_half(run_folder(folder, "tune", others, "ddp"), "tune", run)
    _, result = train(run, "tune", "fsdp")
    assert result.resumed_at == STEPS


def _odd(folder: Path) -> None:
    """Sources that do not fit together."""
    odd = Batches("tune")
    odd.batch_size += distributed.rank()
    stage = make_stage("tune")
    try:
        fit(stage, odd, name="tune", epochs=1, optim=OptimConfig(), log=LOG, run_dir=folder / "odd",
            logger=MetricLogger(folder / "odd", LOG))  # fmt: skip
    except ProclipError as error:
        (folder / f"odd-{distributed.rank()}.txt").write_text(str(error))
