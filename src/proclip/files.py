"""Files that are there whole or not at all, and JSON that is checked."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ProclipError

HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half of a surrogate pair, escaped."""


def make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in, where they are not there yet.

    Raises:
        ProclipError: that cannot be: something else than a folder is in the way, or nothing may be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror
        raise ProclipError(f"the folder {folder} cannot be made: {reason}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file's draft to write: as the block ends it takes the file's place, whole even after a power cut.

    If the block fails the draft goes and the file stays as it was.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        yield draft
        name_file(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def name_file(draft: Path, path: Path) -> None:
    """Give a file that is written its name, in the same folder; it is there whole even after a power cut."""
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    if hasattr(os, "O_DIRECTORY"):  # a rename lasts once its folder is on disk; not every system can say so
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is there whole or not at all, even after a power cut."""
    with replacing(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Call `fill` on a folder; where `folder` is new or empty, on a draft that then takes its place.

    A folder that holds something is filled in place: `fill` must replace each file atomically.

    Raises:
        ProclipError: the folder cannot be made, as where a file is in its place.
    """
    folder = folder.resolve()
    if folder.is_file():
        raise ProclipError(f"the folder {folder} cannot be made: a file is in its place")
    if folder.is_dir() and any(folder.iterdir()):
        fill(folder)
        return
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    make_folder(draft)
    try:
        fill(draft)
        if folder.is_dir():
            folder.rmdir()
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON, atomically."""
    write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def parse_json(content: str | bytes) -> Any:
    """JSON from elsewhere.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has texts that are no Unicode: half of a surrogate
            pair, where one was cut in two.
    """
    try:
        values = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if HALF.search(content if isinstance(content, bytes) else content.encode()):
        json.dumps(values, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return values


def read_json_value(path: Path) -> Any:
    """JSON of any kind from a file.

    Raises:
        ProclipError: the file is missing or is not JSON.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProclipError(f"{path} is missing") from None
    except ValueError as error:
        raise ProclipError(f"{path} is not JSON: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ProclipError: the file is missing, is not JSON, or holds something else than an object.
    """
    values = read_json_value(path)
    if not isinstance(values, dict):
        raise ProclipError(f"{path} must hold a JSON object")
    return values
