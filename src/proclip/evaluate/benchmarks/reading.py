"""Files as benchmarks' authors publish them: JSON lists, JSON lines, and pictures under more than one path."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...data.images import ImageFiles
from ...errors import ProclipError
from ..benchmark import some
from ..tasks import RetrievalTask

KS = (1, 5, 10)
"""The k of every recall@k that is reported."""
RECALLS = tuple(f"{way}_r@{k}" for way in ("i2t", "t2i") for k in KS)
"""Keys of a retrieval task's recalls."""
HEADLINE = ("i2t_r@1", "t2i_r@1")
"""Those that stand for it in a table."""
CHARACTERS = 1 << 22
"""Read at once from a list of which only the start is wanted; no entry is longer."""
_ENTRY = re.compile(r"[^\s,]")


def first_file(folder: Path, *names: str) -> Path:
    """The first of these files that the folder has.

    Raises:
        ProclipError: it has none of them.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ProclipError(f"{folder}: the captions are missing: {' or '.join(names)}")


def read_text(path: Path) -> str:
    """A text file in UTF-8.

    Raises:
        ProclipError: it is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProclipError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise ProclipError(f"{path} is not UTF-8: {error}") from None


def json_value(path: Path) -> Any:
    """Whatever JSON a file holds.

    Raises:
        ProclipError: it is missing or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ProclipError(f"{path} is not JSON: {error}") from None


def json_lines(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line.

    Raises:
        ProclipError: the file is missing, or a line is not an object.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not splitlines: texts may hold U+2028
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ProclipError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(rows[-1], dict):
                raise ProclipError(f"{path}, line {number}: must be a JSON object")
    return rows


def first_items(path: Path, count: int) -> list[Any]:
    """The first `count` entries of a JSON list, without reading the rest of a file that may hold a gigabyte.

    Raises:
        ProclipError: the file does not start with a JSON list, or is damaged.
    """
    decoder = json.JSONDecoder()
    items: list[Any] = []
    with path.open(encoding="utf-8-sig") as file:
        try:
            text, place = file.read(CHARACTERS).lstrip(), 1
            if not text.startswith("["):
                raise ProclipError(f"{path} must hold a JSON list")
            while len(items) < count:
                place = found.start() if (found := _ENTRY.search(text, place)) else len(text)
                if text.startswith("]", place):
                    break
                try:
                    item, place = decoder.raw_decode(text, place)
                    items.append(item)
                except json.JSONDecodeError as error:  # cut off at the end of what was read, or damaged
                    more = file.read(CHARACTERS) if len(text) - place <= CHARACTERS else ""
                    if not more:
                        raise ProclipError(f"{path}: entry {len(items)} is not JSON: {error}") from None
                    text, place = text[place:] + more, 0
        except UnicodeDecodeError as error:
            raise ProclipError(f"{path} is not UTF-8: {error}") from None
    return items


def text_field(row: Any, name: str, where: str) -> str:
    """A text of a JSON object.

    Raises:
        ProclipError: `row` is no object, lacks the field, or its value is not a text or is blank.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ProclipError(f"{where}: {name!r} must be a text that is not empty, not {json.dumps(value)[:80]}")
    return value


def texts_field(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """A list of texts of a JSON object, never empty.

    Raises:
        ProclipError: it is missing, is no list, is empty, or an entry is not a text or is blank.
    """
    value = row.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(t, str) and t.strip() for t in value):
        raise ProclipError(f"{where}: {name!r} must be a list of texts, none empty, not {json.dumps(value)[:80]}")
    return tuple(value)


def find_picture(folder: Path, name: str, places: Sequence[str]) -> Path:
    """Where a picture lies: under its own path, or in one of the `places`, with or without its folders.

    Where there is none, the path that its name gives.
    """
    for place in ("", *places):
        for relative in (name, PurePosixPath(name).name):
            if (path := folder / place / relative).is_file():
                return path
    return folder / name


def find_pictures(folder: Path, names: Mapping[str, str], places: Sequence[str]) -> ImageFiles:
    """`find_picture` for every key."""
    return ImageFiles({key: find_picture(folder, name, places) for key, name in names.items()})


def retrieval_task(name: str, items: Sequence[tuple[str, tuple[str, ...]]]) -> RetrievalTask:
    """A retrieval task; a guess has the right one of n images among k in k / n of all cases.

    Raises:
        ProclipError: an image is listed twice, or there are no items.
    """
    if not items:
        raise ProclipError(f"{name}: there are no captions")
    if twice := [key for key, times in Counter(key for key, _ in items).items() if times > 1]:
        raise ProclipError(f"{name}: images are listed more than once: {some(twice)}")
    return RetrievalTask(name=name, items=tuple(items), chance={k: min(1.0, k / len(items)) for k in KS})
