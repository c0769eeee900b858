"""What the recipes of these tests have in common."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

HEAD = """
name = "tiny"
clip = "{clip}"

[embedder]
model = "{llm}"
dtype = "float32"
layer = 1

[data]
dataset = "{world}"
store = "{store}"

[adapter]
num_blocks = 1
"""
"""Up to the adapter, whose table goes on with what a test appends."""
STAGES = """
[distill]
captions = ["short"]
epochs = 1
batch_size = 4

[tune]
captions = ["short"]
epochs = 1
batch_size = 4
"""
"""Both stages, one pass each."""
TASKS = {
    "zero_shot_tiny": {
        "task": "classification",
        "items": [["red-square", 0], ["green-bar", 1], ["blue-column", 2], ["red-bar", 0], ["blue-bar", 2]],
        "classnames": ["red", "green", "blue"],
        "templates": ["a {} thing"],
        "chance": 1 / 3,
    },
    "retrieval_short": {
        "task": "retrieval",
        "items": [["red-square", ["a red square on white"]], ["green-bar", ["a green bar", "a red thing"]]],
        "chance": {"r@1": 0.5, "r@5": 1.0, "r@10": 1.0},
    },
}
"""Tasks of the tiny world, as the files of ``tasks/test`` hold them; one text is a caption and a class prompt."""


def with_tasks(world: Path, folder: Path) -> Path:
    """A copy of a world, with tasks to measure on."""
    shutil.copytree(world, folder)
    (folder / "tasks" / "test").mkdir(parents=True)
    for name, task in TASKS.items():
        (folder / "tasks" / "test" / f"{name}.json").write_text(json.dumps({"name": name, **task}))
    benchmark = {"name": "tiny", "version": "1", "checksum": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps({"benchmark": benchmark}))
    return folder
