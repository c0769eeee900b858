"""A store's folder as those who write it share it: its lock, its index, and what an earlier version left."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ProclipError
from ..files import make_folder
from .key_table import LOOKED_UP, Ints, KeyIndex, KeyTable
from .store_format import AGAIN, FIRST_VERSION, MANIFEST, VERSION, Manifest, TableEntry

if TYPE_CHECKING:
    from filelock import BaseFileLock

_log = logging.getLogger(__name__)
LOCK = ".lock"
LOCK_SECONDS = 10.0


def table_name(number: int) -> str:
    """Of a table of keys."""
    return f"keys-{number:05d}.safetensors"


def next_table(manifest: Manifest) -> int:
    """Number of the next table of keys. None is given twice: no reader finds another table under a name that it has."""
    return 1 + max((int(entry.file.split(".")[0].split("-")[1]) for entry in manifest.tables), default=-1)


def shard_name(number: int) -> str:
    """Of a shard."""
    return f"shard-{number:05d}.safetensors"


def lock(folder: Path, wait_seconds: float = LOCK_SECONDS) -> BaseFileLock:
    """The right to write a store, taken; it goes when the process dies.

    Args:
        folder: of the store.
        wait_seconds: how long another process that has it is waited for.

    Raises:
        ProclipError: another process has it.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    taken = FileLock(folder / LOCK)
    soon = min(wait_seconds, LOCK_SECONDS)
    with suppress(Timeout):
        taken.acquire(timeout=soon)
        return taken
    if wait_seconds > soon:
        _log.warning("another process is writing the embeddings at %s: it is waited for", folder)
        with suppress(Timeout):
            taken.acquire(timeout=wait_seconds - soon)
            return taken
    raise ProclipError(f"another process is writing the embeddings at {folder}: wait for its end")


def start(folder: Path, wanted: Manifest) -> Manifest:
    """The manifest of the store that is there, brought to this version, or a new one; the lock is held.

    Raises:
        ProclipError: the folder holds something else, a damaged store, or one that was made otherwise.
    """
    if (folder / MANIFEST).exists():
        found = Manifest.read(folder)
        found.check(folder, wanted.identity, dim=wanted.dim, dtype=wanted.dtype)
        found.check_files(folder)
        found = _converted(folder, found) if found.version == FIRST_VERSION else found
        for old in {path.name for path in folder.glob("keys-*")} - {entry.file for entry in found.tables}:
            (folder / old).unlink()  # it was written anew, or by a run that was killed before the manifest named it
        return found
    if other := next((p.name for p in folder.iterdir() if not p.name.startswith(".")), None):
        raise ProclipError(f"{folder} is no embedding store (it holds {other!r}): choose another folder")
    wanted.write(folder)
    return wanted


def _converted(folder: Path, found: Manifest) -> Manifest:
    """A store of the first version with its keys in tables of their own; its shards stay as they are."""
    tables = []
    for number, table in enumerate(found.key_tables(folder)):
        path = folder / table_name(number)
        table.write(path)
        tables.append(TableEntry.of(path, len(table)))
    converted = replace(found, tables=tuple(tables), version=VERSION)
    converted.write(folder)
    _log.warning("%s was of version 1: its keys are now in tables of their own, its vectors as they were", folder)
    return converted


def index_of(folder: Path, manifest: Manifest, write: bool) -> KeyIndex:
    """The index of a store's keys: the one that lies there, or a new one.

    Args:
        folder: of the store.
        manifest: its own.
        write: keep a new one in the folder, for the next time.

    Raises:
        ProclipError: a table of keys is damaged, or a key stands twice.
    """
    if (found := KeyIndex.read(folder, manifest.state)) is not None:
        return found
    tables = manifest.key_tables(folder)
    try:
        index = KeyIndex.of_tables(tables)
    except ProclipError:
        twice = repeated_key(tables)
        raise ProclipError(f"{twice!r} stands twice in the embeddings at {folder}: {AGAIN}") from None
    if len(index) and not 0 <= int(index.rows.min()) <= int(index.rows.max()) < manifest.rows:
        raise ProclipError(f"{folder}: a key has a row that no shard has: {AGAIN}")
    if write and len(index):
        index.write(folder, manifest.state)
    return index


def index_for_reading(folder: Path, manifest: Manifest) -> KeyIndex:
    """As `index_of`; a new one is kept where this process may write and no other does.

    Raises:
        ProclipError: a table of keys is damaged, or a key stands twice.
    """
    if (found := KeyIndex.read(folder, manifest.state)) is not None:
        return found
    _log.info("%s: the index of its keys is not there or is old: it is made anew", folder)
    with suppress(ProclipError, OSError):
        held = lock(folder, wait_seconds=0)
        try:
            if Manifest.read(folder).state == manifest.state:
                return index_of(folder, manifest, write=True)
        finally:
            held.release()
    return index_of(folder, manifest, write=False)


def without_keys(folder: Path, manifest: Manifest, hashes: Ints, number: int) -> Manifest:
    """The manifest of a store without some keys, not written yet; the lock is held.

    Tables that hold some of them are written anew, under other names. Those of before stay for who reads them, until
    the store is written the next time (`start`). Vectors stay: other keys may have them too.

    Args:
        folder: of the store.
        manifest: its own.
        hashes: [m, 2], of the keys.
        number: of the first table that is written.
    """
    gone, tables = KeyIndex.of(hashes, *np.zeros((2, len(hashes)), np.int64)), []
    for entry in manifest.tables:
        table = KeyTable.open(folder / entry.file)
        starts = range(0, max(len(table), 1), LOOKED_UP)
        kept = np.concatenate([gone.find(table.hashes[begin : begin + LOOKED_UP]).rows < 0 for begin in starts])
        if kept.all():
            tables.append(entry)
        elif kept.any():
            path = folder / table_name(number)
            table.only(kept).write(path)
            tables.append(TableEntry.of(path, int(kept.sum())))
            number += 1
    return replace(manifest, tables=tuple(tables))


def repeated_key(tables: Sequence[KeyTable]) -> str:
    """A key that stands twice in some tables."""
    return first_repeated(key for table in tables for key in table)


def first_repeated(keys: Iterable[str]) -> str:
    """The first key that was there before."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    raise ProclipError("two keys have one hash")  # one chance in 1e23


def starts_of(manifest: Manifest) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The row at which each shard begins."""
    return np.cumsum([0, *(entry.rows for entry in manifest.shards)], dtype=np.int64)[:-1]
