"""A run of two processes that is killed again and again ends with the bytes of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
import tiny_tune
import two_processes
from tiny_tune import STEPS_PER_EPOCH, tiny_stage

from proclip.train.checkpoint import latest_checkpoint


def bytes_at_the_end(run_dir: Path, steps: int) -> dict[str, bytes]:
    """Every tensor file of the last checkpoint, and each step's loss."""
    folder = latest_checkpoint(run_dir / "checkpoints" / "tune")
    assert folder is not None and folder.name == f"step-{steps:08d}"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = json.dumps([(line["step"], line["loss"], line["grad_norm"]) for line in lines])
    return {"losses": losses.encode()} | {f.name: f.read_bytes() for f in folder.glob("*.safetensors")}


def to_the_end(run_dir: Path, meeting: Path, epochs: int) -> dict[str, bytes]:
    processes = two_processes.start(run_dir, meeting, epochs)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return bytes_at_the_end(run_dir, epochs * STEPS_PER_EPOCH)


def kill_again_and_again(run_dir: Path, folder: Path, kills: int, epochs: int, most: int, rng: random.Random) -> None:
    """Kill a run `kills` times, each up to `most` steps after its last checkpoint, or before it gets to one step."""
    for number in range(kills):
        target = two_processes.saved_step(run_dir) + rng.randint(0, most)
        processes = two_processes.start(run_dir, folder / f"meeting{number}", epochs, seconds_per_batch=0.01)
        assert two_processes.wait_for_step(run_dir, target, processes), "it ended by itself"
        two_processes.kill_one_or_both(processes, rng)


def stop_gently(run_dir: Path, meeting: Path, epochs: int, rng: random.Random) -> None:
    """SIGTERM to one of the two: both stop after the same step, with a checkpoint and status 0."""
    target = two_processes.saved_step(run_dir) + rng.randint(1, 4)
    processes = two_processes.start(run_dir, meeting, epochs, seconds_per_batch=0.01)
    assert two_processes.wait_for_step(run_dir, target, processes)
    os.kill(rng.choice([process.pid for process in processes if process.pid]), signal.SIGTERM)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert target <= two_processes.saved_step(run_dir) == two_processes.last_step(run_dir) < epochs * STEPS_PER_EPOCH


def test_killed_stopped_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    rng, epochs = random.Random(), 6
    wanted = to_the_end(tmp_path / "whole", tmp_path / "first", epochs)
    kill_again_and_again(tmp_path / "run", tmp_path, 3, epochs, 10, rng)
    stop_gently(tmp_path / "run", tmp_path / "stop", epochs, rng)
    assert to_the_end(tmp_path / "run", tmp_path / "last", epochs) == wanted


@pytest.mark.slow
def test_fifty_kills(tmp_path: Path) -> None:
    rng, epochs = random.Random(), 110
    wanted = to_the_end(tmp_path / "whole", tmp_path / "first", epochs)
    kill_again_and_again(tmp_path / "run", tmp_path, 50, epochs, 12, rng)
    assert to_the_end(tmp_path / "run", tmp_path / "last", epochs) == wanted


def test_one_process_goes_on_where_two_stopped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Same data in the same order: without dropout the losses are those of one process all along, but for rounding."""
    processes = two_processes.start(tmp_path / "run", tmp_path / "meeting", 3, 0.01, dropout=0.0)
    assert two_processes.wait_for_step(tmp_path / "run", 7, processes)
    two_processes.kill_one_or_both(processes, random.Random())
    result = tiny_tune.train(tmp_path / "run", stage=tiny_stage(dropout=0.0))
    assert result.resumed_at in (5, 10, 15)
    assert "was written by 2 processes, now there is 1: same data, same order" in capfd.readouterr().err
    tiny_tune.train(tmp_path / "one", stage=tiny_stage(dropout=0.0))
    losses = []
    for name in ("run", "one"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
