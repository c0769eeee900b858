"""A run that was killed or stopped ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_tune
import torch
from safetensors.torch import load_file
from tiny_tune import EPOCHS, STEPS_PER_EPOCH, TinyPairs, tiny_stage, tune_config
from torch import Tensor

from proclip.config import ImageTuningConfig
from proclip.data.batches import TuneBatch
from proclip.errors import ProclipError
from proclip.train.checkpoint import Checkpoints, checkpoint_path, latest_checkpoint, load_checkpoint
from proclip.train.optim import build_optimizer

TOTAL = EPOCHS * STEPS_PER_EPOCH


def lines_of(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def final_tensors(run_dir: Path) -> dict[str, Tensor]:
    """Weights, EMA teacher, moments and generators at the end of the run."""
    folder = latest_checkpoint(run_dir / "checkpoints" / "tune")
    assert folder is not None
    assert folder.name == f"step-{TOTAL:08d}"
    return {f"{f.stem}/{k}": t for f in sorted(folder.glob("*.safetensors")) for k, t in load_file(f).items()}


def assert_same_run(run_dir: Path, other: Path) -> None:
    wanted, got = final_tensors(other), final_tensors(run_dir)
    assert got.keys() == wanted.keys()
    assert [k for k in wanted if not torch.equal(wanted[k], got[k])] == []
    losses = [[(line["step"], line["loss"]) for line in lines_of(d)] for d in (run_dir, other)]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert tiny_tune.train(folder).resumed_at == 0
    return folder


def start_child(run_dir: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, tiny_tune.__file__, str(run_dir), *arguments], env=environment, stdout=subprocess.DEVNULL
    )


def test_sigkill_at_a_random_step(tmp_path: Path, uninterrupted: Path) -> None:
    step = random.SystemRandom().randrange(6, TOTAL - 5)  # wherever it falls, the end is the same
    child = start_child(tmp_path, "0.02")
    metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= step):
        assert child.poll() is None, "the child ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    result = tiny_tune.train(tmp_path)
    assert result.resumed_at in (5, 10, 15, 20), f"killed at about step {step}"
    assert_same_run(tmp_path, uninterrupted)


def test_sigkill_within_a_checkpoint(tmp_path: Path, uninterrupted: Path) -> None:
    child = start_child(tmp_path, "0", "kill-in-checkpoint", "15")
    assert child.wait(60) == -signal.SIGKILL
    folder = tmp_path / "checkpoints" / "tune"
    assert sorted(p.name for p in folder.iterdir()) == [".draft-00000015", "step-00000005", "step-00000010"]
    assert tiny_tune.train(tmp_path).resumed_at == 10
    assert_same_run(tmp_path, uninterrupted)
    assert not list(folder.glob(".draft*"))


class Interrupting(TinyPairs):
    """Ctrl-C while the batch of step 7 is made."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch]:
        for index, batch in enumerate(super().epoch(epoch, start), start):
            if epoch * STEPS_PER_EPOCH + index == 6:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def test_ctrl_c_completes_the_step_and_saves(tmp_path: Path, uninterrupted: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started the tests in the background
    with pytest.raises(KeyboardInterrupt):
        tiny_tune.train(tmp_path, Interrupting())
    assert signal.getsignal(signal.SIGINT) is before
    result = tiny_tune.train(tmp_path)
    assert (result.resumed_at, result.steps) == (7, TOTAL)
    assert_same_run(tmp_path, uninterrupted)


def test_a_finished_stage_is_loaded_and_left(tmp_path: Path, uninterrupted: Path) -> None:
    before = lines_of(uninterrupted)
    stage = tiny_stage()
    torch.manual_seed(99)
    result = tiny_tune.train(uninterrupted, stage=stage)
    assert (result.resumed_at, result.steps) == (TOTAL, TOTAL)
    assert result.metrics["loss"] == before[-1]["loss"]
    saved = final_tensors(uninterrupted)
    assert all(torch.equal(t, saved[f"stage/{k}"]) for k, t in stage.state_dict().items())
    assert torch.equal(torch.get_rng_state(), saved["rng/0/cpu"])  # the next stage begins as it would have
    assert lines_of(uninterrupted) == before


def test_only_the_newest_checkpoints_stay(uninterrupted: Path) -> None:
    names = sorted(p.name for p in (uninterrupted / "checkpoints" / "tune").iterdir())
    assert names == ["step-00000020", "step-00000024"]
    state = json.loads((uninterrupted / "checkpoints" / "tune" / names[-1] / "state.json").read_text())
    assert state["finished"] is True


def saved_once(folder: Path, step: int = 4) -> Path:
    stage = tiny_stage()
    optimizer = build_optimizer(stage.groups(), stage.config.optim)
    stage.loss(next(TinyPairs().epoch(0)))["loss"].backward()
    optimizer.step()
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, stage, optimizer, {"hello": [1]})
    return checkpoint_path(folder, step)


def test_optimizer_state_is_kept_by_name(tmp_path: Path) -> None:
    path = saved_once(tmp_path)
    names = {k.partition("/")[2] for k in load_file(path / "optimizer.safetensors")}
    stage = tiny_stage()
    assert names == {n for n, p in stage.named_parameters() if p.requires_grad}
    reversed_groups = dict(reversed(stage.groups().items()))  # indices differ, names do not
    optimizer = build_optimizer(reversed_groups, stage.config.optim)
    assert load_checkpoint(path, stage, optimizer)["hello"] == [1]
    saved = load_file(path / "optimizer.safetensors")
    assert torch.equal(optimizer.state[stage.logit_scale]["exp_avg"], saved["exp_avg/logit_scale"])


@pytest.mark.parametrize("damage", ["truncate", "no state", "missing file"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    good, bad = saved_once(tmp_path, 4), saved_once(tmp_path, 8)
    assert latest_checkpoint(tmp_path) == bad
    if damage == "truncate":
        os.truncate(bad / "stage.safetensors", 100)
    elif damage == "no state":
        (bad / "state.json").unlink()
    else:
        (bad / "rng.safetensors").unlink()
    assert latest_checkpoint(tmp_path) == good
    assert saved_once(tmp_path, 8) == bad
    assert latest_checkpoint(tmp_path) == bad


def test_no_checkpoint(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path = saved_once(tmp_path)
    locked = tiny_stage(image=ImageTuningConfig(mode="locked"))
    optimizer = build_optimizer(locked.groups(), tune_config().optim)
    with pytest.raises(ProclipError, match=r"stage\.safetensors.*teacher\.hidden\.weight is not known"):
        load_checkpoint(path, locked, optimizer)
    stage = tiny_stage()
    with pytest.raises(ProclipError, match=r"image_tower.*not train"):
        load_checkpoint(path, stage, optimizer)
    (path / "stage.safetensors").write_bytes(b"\0" * (path / "stage.safetensors").stat().st_size)
    with pytest.raises(ProclipError, match=r"stage\.safetensors is damaged"):
        load_checkpoint(path, stage, optimizer)


def test_a_run_of_another_length_is_refused(
    tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_tune, "EPOCHS", EPOCHS + 1)
    with pytest.raises(ProclipError, match="total_steps 24, this run 32"):
        tiny_tune.train(uninterrupted)
