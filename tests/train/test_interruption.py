"""SIGTERM and SIGINT: the step is completed, a checkpoint written; another signal, later, is not held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_tune
from tiny_tune import EPOCHS, STEPS_PER_EPOCH, TinyPairs

from proclip import cli
from proclip.data.batches import TuneBatch
from proclip.errors import Preempted
from proclip.train import interruption
from proclip.train.checkpoint import latest_checkpoint
from proclip.train.loop import Hook

TOTAL = EPOCHS * STEPS_PER_EPOCH


class Signalled(TinyPairs):
    """Signals while the batches of the given steps are made."""

    def __init__(self, signals: dict[int, int]) -> None:
        super().__init__()
        self.signals = signals

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch]:
        for index, batch in enumerate(super().epoch(epoch, start), start + 1):
            if number := self.signals.get(epoch * STEPS_PER_EPOCH + index):
                os.kill(os.getpid(), number)
            yield batch


def saved(run_dir: Path) -> str:
    path = latest_checkpoint(run_dir / "checkpoints" / "tune")
    return path.name if path else "nothing"


@pytest.mark.parametrize("step", [7, 10, TOTAL])
def test_sigterm_completes_the_step_and_saves(tmp_path: Path, step: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted) as stopped:
        tiny_tune.train(tmp_path, Signalled({step: signal.SIGTERM}))
    assert signal.getsignal(signal.SIGTERM) is before
    assert stopped.value.code == 0
    assert stopped.value.where == f"tune: stopped after step {step} of {TOTAL}; its checkpoint is written"
    assert saved(tmp_path) == f"step-{step:08d}"
    assert tiny_tune.train(tmp_path).resumed_at == step


def test_a_signal_leaves_the_evaluation_to_the_resumed_run(tmp_path: Path) -> None:
    measured: list[int] = []
    hook = Hook(8, lambda step: {"steps": float(measured.append(step) or step)})
    with pytest.raises(Preempted):
        tiny_tune.train(tmp_path, Signalled({8: signal.SIGTERM}), hooks=[hook])
    assert not measured and saved(tmp_path) == "step-00000008"
    assert tiny_tune.train(tmp_path, hooks=[hook]).resumed_at == 8
    assert measured == [8, 16, 24]


def test_what_torchrun_passes_on_is_the_same_signal(tmp_path: Path) -> None:
    class Twice(Signalled):
        def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch]:
            for index, batch in enumerate(super().epoch(epoch, start), start + 1):
                if index == 7 and epoch == 0:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    with pytest.raises(KeyboardInterrupt):
        tiny_tune.train(tmp_path, Twice({7: signal.SIGINT}))
    assert saved(tmp_path) == "step-00000007"


@pytest.mark.slow
def test_a_second_signal_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "ONE_SIGNAL_S", 0.0)
    with pytest.raises(KeyboardInterrupt), interruption.Interruption() as held:
        os.kill(os.getpid(), signal.SIGINT)
        assert held.signal == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("held")
    code = (
        "import os, signal; from proclip.train import interruption; interruption.ONE_SIGNAL_S = 0.0\n"
        "with interruption.Interruption():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('once', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('twice', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "once\n")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)])
def test_a_signal_on_which_nobody_acted_is_not_lost(number: int, error: type[BaseException]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(error), interruption.Interruption():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)])
def test_a_first_signal_stops_and_a_second_does_not_disturb(number: int, error: type[BaseException]) -> None:
    saved, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(error), interruption.stopping():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            saved.append(True)
    assert saved
    assert signal.getsignal(signal.SIGINT) is before


def test_fit_holds_the_signals_of_the_verb(tmp_path: Path) -> None:
    with pytest.raises(Preempted) as stopped, interruption.stopping():
        tiny_tune.train(tmp_path, Signalled({7: signal.SIGTERM}))
    assert stopped.value.where.startswith("tune: stopped after step 7") and saved(tmp_path) == "step-00000007"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(Preempted("tune: stopped after step 7 of 9"), 0,
      "proclip: SIGTERM: tune: stopped after step 7 of 9; the same command goes on from here\n"),
     (Preempted(""), 0, ""),
     (KeyboardInterrupt(), 130, "proclip: interrupted; the same command goes on from here\n")],
)  # fmt: skip
def test_exit_status_of_the_command(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: object) -> None:
        raise error

    monkeypatch.setattr(cli, "run", run)
    assert cli.main(["train", "mini/proclip"]) == status
    assert capsys.readouterr().err == line
