"""Damage to files of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path


def damage(path: Path, values: object) -> None:
    """Write a text as it is, and JSON; of a config, a dict's values go into those that are there, one level deep."""
    if isinstance(values, str):
        path.write_text(values)
        return
    if isinstance(values, dict) and path.name != "tokenizer.json":
        there = json.loads(path.read_text())
        for name, value in values.items():
            there[name] = {**there.get(name, {}), **value} if isinstance(value, dict) else value
        values = there
    path.write_text(json.dumps(values))
