"""SIGTERM anywhere in a command: one line, status 0, and the same command ends what was begun."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import HEAD, STAGES

from proclip.cli import main
from proclip.models.proclip import ProCLIP
from proclip.runs import embed, train
from proclip.runs.forgetting import StageEvaluation
from proclip.train.checkpoint import Checkpoints

RECIPE = (
    HEAD
    + STAGES
    + """
[evaluate]
folders = ["{world}"]
split = "test"
tasks = ["short"]
cache = "{store}/cache"
"""
)
PLACES: dict[str, tuple[str, Any, str]] = {
    "captions embedded": ("embed", embed, "_captions"),
    "inputs.json written": ("train", train, "seed_all"),
    "last checkpoint awaited": ("train", Checkpoints, "wait"),
    "between the stages": ("train", StageEvaluation, "report"),
    "model saved": ("train", ProCLIP, "save_pretrained"),
}

QUICK = ("captions embedded", "between the stages")


def signalled(work: Callable[..., object]) -> Callable[..., object]:
    """The first call gets SIGTERM before it does its work."""
    calls: list[int] = []

    def run(*arguments: Any, **options: Any) -> object:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return work(*arguments, **options)

    return run


@pytest.mark.parametrize("place", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in PLACES])
def test_sigterm_ends_with_0_and_the_command_goes_on(
    place: str, tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, run = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=tiny_world, store=tmp_path / "store"))
    verb, owner, name = PLACES[place]
    if verb == "train":
        assert main(["embed", str(path)]) == 0
    monkeypatch.setattr(owner, name, signalled(getattr(owner, name)))
    command = [verb, str(path), *(["--out", str(run)] if verb == "train" else [])]
    before = signal.getsignal(signal.SIGTERM)
    capsys.readouterr()
    assert main(command) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("proclip: SIGTERM: stopped") and last.endswith("; the same command goes on from here")
    assert not (run / "model").exists()
    assert main(command) == 0
    assert "SIGTERM" not in capsys.readouterr().err
    assert verb == "embed" or (run / "model" / "config.json").is_file()
