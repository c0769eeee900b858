"""Files of checkpoints that other libraries read: what is wrong with them, said in one line that names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import ProclipError, one_line
from ..files import read_json_value


@contextmanager
def naming_faults(what: str, folder: Path) -> Iterator[None]:
    """Make one `ProclipError` of whatever a library raises in the block at a checkpoint's files.

    Args:
        what: went wrong then, and where, for the beginning of the message.
        folder: of the checkpoint; a JSON file in it that is none is named.
    """
    try:
        yield
    except ProclipError:
        raise
    except Exception as error:  # the libraries raise whatever a damaged or mistyped file leads them to
        reason = _no_json(folder) or f"{type(error).__name__}: {one_line(error)}"
        raise ProclipError(f"{what}: {reason}") from error


def _no_json(folder: Path) -> str | None:
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/config.json")]):
        try:
            read_json_value(path)
        except ProclipError as error:
            return str(error)
    return None


class Module(NamedTuple):
    """A part of a sentence-transformers model, as its ``modules.json`` names it."""

    kind: str
    """Its class, with the path of the code."""
    path: str
    """Its folder inside the model's; '' for the model's own."""


def declared_modules(folder: Path) -> list[Module]:
    """What ``modules.json`` of a sentence-transformers model names, in its order; nothing where there is none.

    Raises:
        ProclipError: the file is no JSON, no list of objects with ``type`` and ``path``, or a path leaves the folder.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    values = read_json_value(path)
    entries = values if isinstance(values, list) else [None]
    texts = [(entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None) for entry in entries]
    modules = [Module(kind, part) for kind, part in texts if isinstance(kind, str) and isinstance(part, str)]
    if len(modules) < len(entries):
        raise ProclipError(f"{path} must hold a JSON list of objects whose 'type' and 'path' are texts")
    for module in modules:
        if PurePosixPath(module.path).is_absolute() or ".." in PurePosixPath(module.path).parts:
            raise ProclipError(f"{path}: the path {module.path!r} leaves the folder: one inside it is wanted")
    return modules
