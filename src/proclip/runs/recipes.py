"""Finding a recipe, and the run folder that it is trained in."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import Recipe, config_hash, dump, load_recipe, to_dict
from ..config.reading import SHIPPED
from ..errors import ProclipError
from ..files import read_json, write_atomically, write_json

OF_AN_ATTEMPT = {"recipe.toml", "environment.json", "inputs.json", "metrics.jsonl", "parameters.json"}
"""What a run writes before its first checkpoint: of these alone another recipe may take the place."""
EMBEDDINGS = "embeddings"
"""Stores that ``align`` keeps in its run folder: each says itself how it was made, so they stay for another recipe."""
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "sentence-transformers", "safetensors", "numpy", "pillow")


def shipped_recipes() -> dict[str, Path]:
    """Recipes inside the package, by name, such as ``mini/proclip``."""
    return {str(p.relative_to(SHIPPED).with_suffix("")): p for p in sorted(SHIPPED.rglob("*.toml"))}


def find_recipe(name: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Load a recipe by path, or by the name of one that ships.

    Raises:
        ProclipError: there is no such file or name, or the recipe is not valid.
    """
    shipped = shipped_recipes()
    if not Path(name).exists() and str(name).removesuffix(".toml") not in shipped:
        raise ProclipError(f"no recipe {str(name)!r}: neither a file nor one of {', '.join(shipped)}")
    return load_recipe(name if Path(name).exists() else shipped[str(name).removesuffix(".toml")], settings)


def after_stage1(recipe: Recipe, stage1: Recipe, model: Path) -> Recipe:
    """A recipe that starts from the model of another's stage 1, if its own is the same: cheaper than training it again.

    Args:
        recipe: any.
        stage1: of that stage alone.
        model: where the run of `stage1` leaves its model.
    """
    if stage1.tune or recipe.tune is None or recipe.distill is None or recipe.distill != stage1.distill:
        return recipe
    return replace(recipe, distill=None, init=str(model))


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """The fields in which two recipes differ, with their whole names and both values."""
    found = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.append(_difference(old, new, f"{prefix}{key}."))
        elif old != new:
            found.append(f"{prefix}{key}: it has {_short(old)}, now {_short(new)}")
    return "; ".join(text for text in found if text)


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    return "a table" if isinstance(value, Mapping) else repr(value)


def open_run(recipe: Recipe, folder: Path) -> None:
    """Make the run folder, or enter it again to go on.

    Writes ``recipe.toml`` (resolved) and ``environment.json`` (versions, commit, command, number of processes). On
    another number of processes it is the same recipe if its batches are of the same size over all of them.

    Raises:
        ProclipError: it is a file, or holds a run of another recipe that has a checkpoint or a model, or a recipe and
            files of others; the message names the fields that differ.
    """
    from ..distributed import world_size

    path, world = folder / "recipe.toml", world_size()
    if folder.is_file():
        raise ProclipError(f"--out {folder} is a file: name a folder for the run")
    if path.is_file():
        before, processes = load_recipe(path), _processes(folder)
        finished = (folder / "model" / "config.json").is_file()
        if config_hash(before) == config_hash(recipe) and (finished or processes == world):
            return
        before, now = _over_all(before, processes), _over_all(recipe, world)
        if config_hash(before) != config_hash(now):
            _leave_or_refuse(folder, before, now, several=max(processes, world) > 1)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dump(recipe))
    write_json(folder / "environment.json", environment() | {"processes": world})


def _processes(folder: Path) -> int:
    """On how many a run was entered last."""
    path = folder / "environment.json"
    return int(read_json(path).get("processes", 1)) if path.is_file() else 1


def _over_all(recipe: Recipe, processes: int) -> Recipe:
    """A recipe with each stage's batch as it is over all processes: what decides its result."""
    stages = {name: getattr(recipe, name) for name in ("distill", "tune", "pretrain")}
    batches = {n: replace(s, batch_size=s.batch_size * processes) for n, s in stages.items() if s is not None}
    return replace(recipe, **batches)


def _leave_or_refuse(folder: Path, before: Recipe, now: Recipe, *, several: bool) -> None:
    """Of another recipe's run only what one leaves that never got to its first checkpoint may go."""
    if {entry.name for entry in folder.iterdir()} - OF_AN_ATTEMPT - {EMBEDDINGS}:
        differ = _difference(to_dict(before), to_dict(now))
        differ += "; batches are those of all processes" if several else ""
        raise ProclipError(f"{folder} holds a run of another recipe ({differ}); delete it or give another --out")
    for name in OF_AN_ATTEMPT:
        (folder / name).unlink(missing_ok=True)


def environment() -> dict[str, object]:
    """Versions, commit, command and machine: what a run and a result file record."""
    versions = {"proclip": __version__, "python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "commit": _commit(),
        "command": " ".join(["proclip", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _commit() -> str | None:
    """The commit, and whether files other than results differ from it."""
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)benchmarks/results"]
    commit, changed = _git("rev-parse", "--short", "HEAD"), _git(*changes)
    return f"{commit}-dirty" if commit and changed else commit


def _git(*arguments: str) -> str | None:
    where = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
