"""The loop: two steps by hand, the stop on what is not finite, hooks, progress, golden curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import tiny_tune
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_tune import EMBED_DIM, LLM_DIM
from torch import Tensor, nn

from proclip.config import AdapterConfig, DistillConfig, DistillLossConfig, LogConfig, OptimConfig
from proclip.data.batches import DistillBatch
from proclip.errors import ProclipError
from proclip.models.adapter import Adapter
from proclip.seeding import generator, seed_all
from proclip.train.checkpoint import latest_checkpoint
from proclip.train.loop import FitResult, Hook, fit
from proclip.train.metric_log import MetricLogger
from proclip.train.stages import Embeds, Groups, Stage, TextDistillation


class Parabola(Stage):
    """0.5 (w - target)^2; the batch is the target."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((1, 1), start))
        self.steps_followed = 0

    def groups(self) -> Groups:
        return {"adapter": [("w", self.w)]}

    def encode(self, batch: Tensor) -> Embeds:
        return {"w": self.w}

    def objective(self, embeds: Embeds, targets: Embeds, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": 0.5 * (embeds["w"] - batch).square().sum(), "distance": (embeds["w"] - batch).abs().sum()}

    def after_step(self) -> None:
        self.steps_followed += 1


class Targets:
    """One target a batch, the same in every epoch."""

    batch_size = 4

    def __init__(self, *targets: float, announced: int | None = None) -> None:
        self.targets, self.steps_per_epoch = targets, announced or len(targets)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        yield from (torch.tensor(t) for t in self.targets[start:])


def run(
    stage: Stage, source: Targets, folder: Path, *, epochs: int = 1, optim: OptimConfig | None = None,
    log: LogConfig | None = None, hooks: tuple[Hook, ...] = (),
) -> FitResult:  # fmt: skip
    log = log if log is not None else LogConfig(every_steps=1)
    with MetricLogger(folder, log) as logger:
        return fit(
            stage, source, name="toy", epochs=epochs, optim=optim if optim is not None else OptimConfig(lr=0.1),
            log=log, run_dir=folder, logger=logger, hooks=hooks,
        )  # fmt: skip


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_steps_by_hand(tmp_path: Path) -> None:
    """AdamW with decay, warm-up of one step and clipping, in plain numbers."""
    b1, b2, eps, decay, peak, max_norm = 0.9, 0.98, 1e-6, 0.05, 0.1, 1.5
    w, m, v, losses, lrs = 2.0, 0.0, 0.0, [], []
    for step, (target, share) in enumerate([(-1.0, 0.5), (1.0, 1.0)], 1):
        losses.append(0.5 * (w - target) ** 2)
        gradient = w - target
        gradient *= min(1.0, max_norm / abs(gradient))
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        lrs.append(peak * share)
        w -= lrs[-1] * decay * w
        w -= lrs[-1] * (m / (1 - b1**step)) / (math.sqrt(v / (1 - b2**step)) + eps)
    stage = Parabola(2.0)
    optim = OptimConfig(lr=peak, weight_decay=decay, warmup_steps=1, grad_clip=max_norm)
    result = run(stage, Targets(-1.0, 1.0), tmp_path, optim=optim)
    assert stage.w.item() == pytest.approx(w, rel=1e-5)
    lines = lines_of(tmp_path)
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-5)
    assert [line["lr"] for line in lines] == pytest.approx(lrs)
    assert lines[0]["grad_norm"] == pytest.approx(3.0)
    assert lines[0].keys() == {
        "stage", "step", "epoch", "loss", "distance", "grad_norm", "lr", "samples_per_second", "seconds"
    }  # fmt: skip
    assert [(line["stage"], line["step"], line["epoch"]) for line in lines] == [("toy", 1, 0.5), ("toy", 2, 1.0)]
    assert (result.steps, result.resumed_at, stage.steps_followed) == (2, 0, 2)
    assert result.metrics["loss"] == lines[-1]["loss"]


def test_stop_on_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    stage, log = Parabola(2.0), LogConfig(every_steps=1, checkpoint_every_steps=2)
    message = r"toy, step 4 of 5: not finite: loss = nan, distance = nan.*checkpoint is .*step-00000002"
    with pytest.raises(ProclipError, match=message):
        run(stage, Targets(0.0, 0.0, 0.0, math.nan, 0.0), tmp_path, log=log)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]
    path = latest_checkpoint(tmp_path / "checkpoints" / "toy")
    assert path is not None
    assert torch.isfinite(load_file(path / "stage.safetensors")["w"]).all()
    mended = run(Parabola(2.0), Targets(0.0, 0.0, 0.0, 0.0, 0.0), tmp_path, log=log)
    assert (mended.resumed_at, mended.steps) == (2, 5)


class Cliff(Parabola):
    """Its loss is finite where its gradient is not."""

    def objective(self, embeds: Embeds, targets: Embeds, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": (embeds["w"] * 0 + batch).clamp_min(0).sqrt().sum()}


def test_stop_on_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    """The step has spoilt the weights when its scalars are read; no hook sees them, and no checkpoint has them."""
    seen: list[int] = []

    def evaluate(step: int) -> Mapping[str, float]:
        seen.append(step)
        return {}

    with pytest.raises(ProclipError, match=r"step 1 of 1.*loss = 0, grad_norm = nan.*no checkpoint yet"):
        run(Cliff(1.0), Targets(0.0), tmp_path, log=LogConfig(checkpoint_every_steps=1), hooks=(Hook(1, evaluate),))
    assert not seen
    assert latest_checkpoint(tmp_path / "checkpoints" / "toy") is None


def test_a_source_that_breaks_its_word(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="epoch 0 gave 2 batches, not 3"):
        run(Parabola(0.0), Targets(1.0, 1.0, announced=3), tmp_path)


def test_hooks_run_when_due_and_are_logged(tmp_path: Path) -> None:
    stage, modes = Parabola(0.0), []

    def evaluate(step: int) -> Mapping[str, float]:
        modes.append(stage.training)
        stage.eval()
        return {"zero_shot": step / 10}

    run(stage, Targets(1.0, 2.0, 3.0), tmp_path, epochs=2, hooks=(Hook(every_steps=2, run=evaluate),),
        log=LogConfig(every_steps=3))  # fmt: skip
    assert modes == [True, True, True]
    assert [(r["step"], r.get("zero_shot")) for r in lines_of(tmp_path)] == [
        (2, 0.2),
        (3, None),
        (4, 0.4),
        (6, None),
        (6, 0.6),
    ]


def test_plain_progress_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Parabola(0.0), Targets(*[1.0] * 5), tmp_path, log=LogConfig(every_steps=2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["toy", "2/5"], ["toy", "4/5"], ["toy", "5/5"]]
    assert all("loss" in line and "samples/s" in line and "left" in line for line in lines)


def test_bar_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run(Parabola(0.0), Targets(*[1.0] * 3), tmp_path)
    out = capsys.readouterr().out
    assert "toy" in out
    assert "3/3" in out


GOLDEN_TUNE: list[float] = [
    4.0381,
    4.8788,
    3.9113,
    5.0724,
    3.8297,
    4.2644,
    3.5481,
    3.52,
    2.5079,
    2.2099,
    1.7933,
    1.7621,
    2.6596,
    1.9494,
    1.5806,
    2.4981,
    1.6754,
    1.1463,
    1.7071,
    1.4584,
]
GOLDEN_DISTILL: list[float] = [
    17.424,
    19.819,
    26.894,
    16.513,
    12.031,
    12.42,
    15.296,
    13.148,
    9.2631,
    10.175,
    13.915,
    7.8611,
    9.895,
    6.749,
    10.137,
    7.84,
    7.3928,
    5.1025,
    11.059,
    8.9672,
]


def test_golden_curve_of_stage_2(tmp_path: Path) -> None:
    tiny_tune.train(tmp_path, stage=tiny_tune.tiny_stage(dropout=0.0))
    losses = [line["loss"] for line in lines_of(tmp_path)][:20]
    assert losses == pytest.approx(GOLDEN_TUNE, rel=1e-3)


class Texts:
    """Noise for texts; the teacher is a linear map of them."""

    batch_size, steps_per_epoch = 8, 5

    def __init__(self) -> None:
        self.llm_embeds = torch.randn(40, LLM_DIM, generator=generator(1, "texts"))
        mixing = torch.randn(LLM_DIM, EMBED_DIM, generator=generator(1, "teacher"))
        self.teacher_embeds = F.normalize(self.llm_embeds @ mixing, dim=-1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[DistillBatch]:
        order = torch.randperm(40, generator=generator(1, "order", epoch))
        for index in range(start, self.steps_per_epoch):
            ids = order[index * 8 : (index + 1) * 8]
            yield DistillBatch(llm_embeds=self.llm_embeds[ids], teacher_embeds=self.teacher_embeds[ids])


def test_golden_curve_of_stage_1(tmp_path: Path) -> None:
    seed_all(0)
    adapter = Adapter(LLM_DIM, EMBED_DIM, AdapterConfig(num_blocks=1))
    config = DistillConfig(loss=DistillLossConfig(reference_batch=8), optim=OptimConfig(lr=2e-2, warmup_steps=2))
    log = LogConfig(every_steps=1)
    with MetricLogger(tmp_path, log) as logger:
        fit(TextDistillation(adapter, config), Texts(), name="distill", epochs=4, optim=config.optim, log=log,
            run_dir=tmp_path, logger=logger)  # fmt: skip
    losses = [line["loss"] for line in lines_of(tmp_path)]
    assert losses == pytest.approx(GOLDEN_DISTILL, rel=1e-3)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
