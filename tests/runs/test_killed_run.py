"""A whole run, killed with SIGKILL in either stage and started again, ends with the weights of one left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_recipe import HEAD

from proclip.cli import main
from proclip.models.adapter import Adapter

WEIGHTS = Path("model", "model.safetensors")
RECIPE = (
    HEAD
    + """dropout = 0.2
input_norm = "standardize"

[distill]
captions = ["short"]
epochs = 60
batch_size = 4

[tune]
epochs = 60
batch_size = 4
ema_decay = 0.9

[tune.augment]
min_scale = 0.5
rotation = 10

[tune.optim]
lr = 1e-3

[log]
every_steps = 1
checkpoint_every_steps = 7
"""
)


def steps_done(run: Path, stage: str) -> int:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return sum(row["stage"] == stage for row in rows)


def train_and_kill(recipe: Path, run: Path, stage: str, steps: int) -> None:
    """``proclip train`` in a process of its own, killed when `stage` has done `steps` steps."""
    code = "import sys, torch; torch.set_num_threads(1); from proclip.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "train", str(recipe), "--out", str(run)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if steps_done(run, stage) >= steps:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("stage", [pytest.param("distill", marks=pytest.mark.slow), "tune"])
def test_killed_and_resumed_equals_uninterrupted(
    stage: str,
    tiny_world: Path,
    tiny_clip_path: Path,
    tiny_llm_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, whole, killed = tmp_path / "tiny.toml", tmp_path / "whole", tmp_path / "killed"
    recipe.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=tiny_world, store=tmp_path / "store"))
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(whole)]) == 0
    train_and_kill(recipe, killed, stage, steps=random.randint(5, 80))
    assert not (killed / "model").exists()
    if stage == "tune":
        monkeypatch.setattr(Adapter, "fit_input_norm", None)  # what it finds is in the checkpoint
    assert main(["train", str(recipe), "--out", str(killed)]) == 0
    assert (whole / WEIGHTS).read_bytes() == (killed / WEIGHTS).read_bytes()
    assert steps_done(killed, stage) == steps_done(whole, stage)
