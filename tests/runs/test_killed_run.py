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


def train(recipe: Path, run: Path, stage: str | None = None, steps: int = 0, first: str = "pass") -> None:
    """``proclip train`` in a process of its own; with `stage`, killed when that stage has done `steps` steps."""
    code = f"import sys, torch; torch.set_num_threads(1); {first}; from proclip.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "train", str(recipe), "--out", str(run)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while stage is not None and process.poll() is None and time.monotonic() < deadline:
            if steps_done(run, stage) >= steps:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        code_of_exit = process.wait()
    assert code_of_exit == (0 if stage is None else -signal.SIGKILL)


@pytest.mark.parametrize("stage", [pytest.param("distill", marks=pytest.mark.slow), "tune"])
def test_killed_and_resumed_equals_uninterrupted(
    stage: str, tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=tiny_world, store=tmp_path / "store"))
    assert main(["embed", str(recipe)]) == 0
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "killed", stage, steps=random.randint(5, 80))
    assert not (tmp_path / "killed" / "model").exists()
    no_fit = "from proclip.models.adapter import Adapter; Adapter.fit_input_norm = None"  # it is in the checkpoint
    train(recipe, tmp_path / "killed", first=no_fit if stage == "tune" else "pass")
    whole, killed = ((tmp_path / n / "model" / "model.safetensors").read_bytes() for n in ("whole", "killed"))
    assert whole == killed
    assert steps_done(tmp_path / "killed", stage) == steps_done(tmp_path / "whole", stage)
