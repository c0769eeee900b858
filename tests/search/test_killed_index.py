"""Indexing killed at every moment at which a file changes, and at others, and begun by several processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from picture_files import drawn, save

pytest.importorskip("usearch")


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_and_run_again_equals_undisturbed(every: int, tmp_path: Path) -> None:
    for number in range(4):
        save(drawn(number), tmp_path / "pictures" / "old" / f"{number}.png")
    for number in range(10, 16):
        save(drawn(number), tmp_path / "pictures" / "new" / f"{number}.png")
    save(drawn(12), tmp_path / "pictures" / "new" / "copy.png")
    (tmp_path / "pictures" / "new" / "broken.png").write_text("no picture")
    (tmp_path / "indexes").mkdir()
    script = Path(__file__).with_name("killed_runs.py")
    command = [
        sys.executable,
        str(script),
        str(tmp_path / "indexes"),
        str(tmp_path / "pictures"),
        str(every),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == [] and found["last"] == 0
    assert found["points"] > 15 // every
