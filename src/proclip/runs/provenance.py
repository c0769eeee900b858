"""How a model was made, as its ``config.json`` and card tell it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..config import Recipe, config_hash
from ..files import read_json
from .recipes import environment


def provenance(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Recipe, data, commands and versions of a run, as JSON values.

    Args:
        recipe: of the run.
        folder: of the run; its ``environment.json`` says which command began it.
    """
    path = folder / "environment.json"
    began = read_json(path) if path.is_file() else environment()
    command = str(began["command"])
    sources = recipe.data.sources
    manifest = Path(sources[0].path) / "manifest.json"
    data: dict[str, Any] = {"dataset": recipe.data.named, "stages": _stages(recipe)}
    if len(sources) == 1 and manifest.is_file():
        data["benchmark"] = read_json(manifest).get("benchmark")
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "config_hash": config_hash(recipe),
        "data": data,
        "commands": _commands(command),
        "versions": began["versions"],
        "commit": began["commit"],
    }


def _commands(command: str) -> list[str]:
    """What to type: a training needs its embeddings first; other verbs do both."""
    if not command.startswith("proclip train "):
        return [command]
    return [re.sub(r" --out[ =]\S+", "", command.replace("train", "embed", 1)), command]


def _stages(recipe: Recipe) -> dict[str, str]:
    """What each stage read, in words."""
    stages = {}
    for name, stage in (("stage 1", recipe.distill), ("stage 2", recipe.tune)):
        if stage is not None:
            captions = ", ".join(stage.captions)
            stages[name] = (
                f"split `{stage.split}`, captions {captions}; {stage.epochs} epochs, batch {stage.batch_size}"
            )
    if recipe.distill and recipe.distill.skip_truncated:
        stages["stage 1"] += "; captions that the teacher cuts left out"
    return {"start": f"adapter of {recipe.init}", **stages} if recipe.init else stages
