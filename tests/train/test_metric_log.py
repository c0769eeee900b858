"""metrics.jsonl and the optional writers."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from proclip.config import LogConfig
from proclip.errors import ProclipError
from proclip.train.metric_log import MetricLogger


def steps(folder: Path) -> list[tuple[str, int]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(r["stage"], r["step"]) for r in records]


def test_a_line_is_on_disk_at_once(tmp_path: Path) -> None:
    with MetricLogger(tmp_path / "run", LogConfig()) as logger:
        logger.start_stage("tune", 0)
        logger.log("tune", 3, 0.5, {"loss": 1.25})
        line = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert json.loads(line) == {"stage": "tune", "step": 3, "epoch": 0.5, "loss": 1.25}


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    with MetricLogger(tmp_path, LogConfig()) as logger:
        for stage, last in (("distill", 4), ("tune", 6)):
            for step in range(2, last + 1, 2):
                logger.log(stage, step, 0.0, {"loss": 0.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "distill", "st')  # the kill came here
    with MetricLogger(tmp_path, LogConfig()) as logger:
        logger.start_stage("tune", 3)
        assert steps(tmp_path) == [("distill", 2), ("distill", 4), ("tune", 2)]
        logger.log("tune", 4, 0.0, {"loss": 0.0})
        logger.start_stage("tune", 0)  # no checkpoint: from the beginning
    assert steps(tmp_path) == [("distill", 2), ("distill", 4)]


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.split(".")[0] == package or n == "torch.utils.tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(("package", "extra"), [("tensorboard", "train"), ("wandb", "wandb")])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    without(monkeypatch, package)
    with pytest.raises(ProclipError, match=rf"log\.{package} is on.*proclip-align\[{extra}\]"):
        MetricLogger(tmp_path, LogConfig(**{package: True}))


def test_tensorboard_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with MetricLogger(tmp_path, LogConfig(tensorboard=True)) as logger:
        logger.start_stage("tune", 0)
        logger.log("tune", 1, 0.0, {"loss": 0.5})
    assert list((tmp_path / "tensorboard" / "tune").glob("events*"))


def test_wandb_gets_a_step_axis_for_each_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        define_metric=lambda name, step_metric: calls.append((name, step_metric)),
        log=calls.append,
        finish=lambda: calls.append("finish"),
    )
    wandb = ModuleType("wandb")
    wandb.init = lambda **settings: calls.append(settings["resume"]) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with MetricLogger(tmp_path, LogConfig(wandb=True)) as logger:
        logger.start_stage("tune", 0)
        logger.log("tune", 1, 0.0, {"loss": 0.5})
    assert calls == ["allow", ("tune/*", "tune/step"), {"tune/step": 1, "tune/loss": 0.5}, "finish"]
