"""Embedding that is killed with SIGKILL at random moments ends with the bytes of a run that was left alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).with_name("embedding_job.py")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def kill(folder: Path, processes: str, kills: int, *what: str) -> None:
    command = [sys.executable, str(JOB), str(folder), processes, str(kills), str(random.randrange(10**6)), *what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.startswith(f"{kills} kills")


@needs_fork
def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    kill(tmp_path, "1,2", kills=4)


@needs_fork
def test_pictures_are_killed_and_resumed_too(tmp_path: Path) -> None:
    """By one process and two, past broken ones: the bytes that one process left alone writes."""
    kill(tmp_path, "1,2", 4, "pictures")


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2", "1,2,4"])
def test_fifty_kills_of_pictures(tmp_path: Path, processes: str) -> None:
    kill(tmp_path, processes, 50, "pictures")


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2", "1,2,4"])
def test_fifty_kills(tmp_path: Path, tiny_llm_path: Path, processes: str) -> None:
    kill(tmp_path, processes, 50, str(tiny_llm_path))
