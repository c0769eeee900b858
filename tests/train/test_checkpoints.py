"""Checkpoints are written while training goes on; what is damaged is passed over; the best one stays."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny_tune
import torch
from safetensors.torch import load_file
from tiny_tune import TinyPairs, tiny_stage
from torch import Tensor

from proclip.config import LogConfig
from proclip.errors import ProclipError
from proclip.train import checkpoint
from proclip.train.checkpoint import Best, Checkpoints, checkpoint_path, latest_checkpoint
from proclip.train.loop import Hook
from proclip.train.optim import build_optimizer
from proclip.train.stages import ImageTextTuning


def started() -> tuple[ImageTextTuning, torch.optim.AdamW]:
    """A stage after one step, and its optimiser."""
    stage = tiny_stage()
    optimizer = build_optimizer(stage.groups(), stage.config.optim)
    stage.loss(next(TinyPairs().epoch(0)))["loss"].backward()
    optimizer.step()
    return stage, optimizer


def held_back(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Writing stops at the first file until the second event is set; the first tells that it has begun."""
    begun, go_on, save = threading.Event(), threading.Event(), checkpoint._save

    def slow(path: Path, tensors: Mapping[str, Tensor]) -> None:
        begun.set()
        assert go_on.wait(60)
        save(path, tensors)

    monkeypatch.setattr(checkpoint, "_save", slow)
    return begun, go_on


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = held_back(monkeypatch)
    stage, optimizer = started()
    then = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, stage, optimizer, {})
        assert begun.wait(60)
        optimizer.step()  # while it is written
        assert latest_checkpoint(tmp_path) is None
        second = threading.Thread(target=checkpoints.save, args=(2, stage, optimizer, {}))
        second.start()
        second.join(0.2)
        assert second.is_alive()  # at most one is under way
        go_on.set()
        second.join(60)
        checkpoints.wait()
    assert latest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 2)
    first, last = (load_file(checkpoint_path(tmp_path, step) / "stage.safetensors") for step in (1, 2))
    assert all(torch.equal(first[name], tensor) for name, tensor in then.items())
    assert all(torch.equal(last[name], tensor) for name, tensor in stage.state_dict().items())
    assert not torch.equal(first["image_tower.hidden.weight"], last["image_tower.hidden.weight"])


def test_an_error_of_the_writer_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, tensors: Mapping[str, Tensor]) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "_save", full)
    with pytest.raises(OSError, match="No space left"):
        tiny_tune.train(tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints" / "tune") is None
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 10  # it surfaces at the next checkpoint


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    stage, optimizer = started()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (10, 20, 30, 40, 50):
            if step == 20:
                checkpoints.best = Best("acc", 0.5, 20)
            checkpoints.save(step, stage, optimizer, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{n:08d}" for n in (20, 40, 50)]
    with Checkpoints(tmp_path, keep=1, best=checkpoints.best) as again:
        again.save(45, stage, optimizer, {})  # a run resumed at 40, for 50 was damaged
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{n:08d}" for n in (20, 45)]


def test_one_changed_bit_is_found_and_the_run_goes_on_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_tune.train(tmp_path / "whole")
    tiny_tune.train(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "tune"
    path = folder / "step-00000024" / "stage.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert tiny_tune.train(tmp_path / "run").resumed_at == 20
    line = next(line for line in capsys.readouterr().err.splitlines() if "passed over" in line)
    assert line == f"{path.parent} is passed over: stage.safetensors changed since it was written"
    assert latest_checkpoint(folder) == path.parent  # written anew
    last = tmp_path / "whole" / "checkpoints" / "tune" / "step-00000024" / "stage.safetensors"
    assert path.read_bytes() == last.read_bytes()


FIGURES = {8: 0.2, 16: 0.7, 24: 0.5}


@pytest.mark.parametrize(("best_is", "step"), [("highest", 16), ("lowest", 8)])
def test_the_best_step_is_kept_and_remembered(tmp_path: Path, best_is: str, step: int) -> None:
    log = LogConfig(every_steps=1, checkpoint_every_steps=5, keep_best="zero_shot/acc1", best_is=best_is)
    seen: dict[int, dict[str, Tensor]] = {}
    stage = tiny_stage()

    def evaluate(now: int) -> dict[str, float]:
        seen[now] = {name: tensor.clone() for name, tensor in stage.state_dict().items()}
        return {"eval/mini/zero_shot/acc1": FIGURES[now], "eval/mini/other": float("nan")}

    result = tiny_tune.train(tmp_path, stage=stage, log=log, hooks=[Hook(8, evaluate)])
    assert result.best == Best("eval/mini/zero_shot/acc1", FIGURES[step], step)
    folder = tmp_path / "checkpoints" / "tune"
    assert sorted(p.name for p in folder.iterdir()) == [f"step-{n:08d}" for n in (step, 20, 24)]
    kept = tiny_stage()
    checkpoint.load_stage(checkpoint_path(folder, step), kept)
    assert all(torch.equal(tensor, seen[step][name]) for name, tensor in kept.state_dict().items())
    assert tiny_tune.train(tmp_path, log=log).best == result.best


@pytest.mark.parametrize("step", [8, 16, 24])
def test_an_evaluation_that_was_killed_is_made_again(tmp_path: Path, step: int) -> None:
    """Its step's checkpoint is there; the resumed run measures it first, and ends as if nothing had happened."""
    log = LogConfig(every_steps=1, checkpoint_every_steps=50, keep_best="acc1")
    measured: list[int] = []

    def evaluate(now: int) -> dict[str, float]:
        torch.rand(now)
        measured.append(now)
        if measured.count(now) == 1 and now == step:
            raise RuntimeError("killed")
        return {"acc1": FIGURES[now]}

    whole = tiny_tune.train(tmp_path / "whole", log=log, hooks=[Hook(8, lambda now: {"acc1": FIGURES[now]})])
    with pytest.raises(RuntimeError, match="killed"):
        tiny_tune.train(tmp_path / "run", log=log, hooks=[Hook(8, evaluate)])
    result = tiny_tune.train(tmp_path / "run", log=log, hooks=[Hook(8, evaluate)])
    assert (result.resumed_at, result.best) == (step, whole.best)
    assert measured == sorted([8, 16, 24, step])
    folders = [tmp_path / name / "checkpoints" / "tune" for name in ("whole", "run")]
    for name in ("stage.safetensors", "optimizer.safetensors", "rng.safetensors"):
        first, second = ((folder / "step-00000024" / name).read_bytes() for folder in folders)
        assert first == second
    assert all(checkpoint_path(folder, 16).is_dir() for folder in folders)
    assert tiny_tune.train(tmp_path / "run", log=log, hooks=[Hook(8, evaluate)]).best == whole.best
    assert len(measured) == 4


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("zero_shot/acc5", "is no figure that was measured; near it: eval/mini/zero_shot/acc1"),
     ("acc1", "could be any of eval/mini/zero_shot/acc1, eval/mini/probe/acc1")],
)  # fmt: skip
def test_a_figure_that_is_not_there_is_named(tmp_path: Path, wanted: str, message: str) -> None:
    def evaluate(step: int) -> dict[str, float]:
        return {"eval/mini/zero_shot/acc1": 0.5, "eval/mini/probe/acc1": 0.5}

    with pytest.raises(ProclipError, match=message):
        tiny_tune.train(tmp_path, log=LogConfig(keep_best=wanted), hooks=[Hook(8, evaluate)])


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    stage, optimizer = started()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, stage, optimizer, {})
    path = checkpoint_path(tmp_path, 5)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format_version": 1}))
    assert latest_checkpoint(tmp_path) == path
    with pytest.raises(ProclipError, match="format_version 1, this code reads 2"):
        checkpoint.load_checkpoint(path, stage, optimizer)
