"""What is to be embedded, decided once and kept on disk: which texts get a row, in which order, and who has done which.

The files lie hidden in the store's folder until all rows are there, then take their names. Nothing in them depends on
the number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import compress, islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from ..errors import ProclipError
from ..files import name_file, replacing
from .key_table import Ints, KeyTable, digests, first_places
from .mapped_file import Layout, map_tensors
from .store import changed_since
from .store_folder import index_of, shard_name, start, table_name
from .store_format import STORED_DTYPES, Manifest, ShardEntry, TableEntry, bits

PLAN, KEYS, VECTORS, DONE = ".plan.safetensors", ".plan-keys.safetensors", ".plan-vectors", ".plan-done-"
READ = 8192
"""Captions looked at together."""
WINDOW = 16384
"""Texts that are sorted by length together, so that batches hold texts of like length; what a process takes at once."""
CHUNK = 512
"""Texts encoded by one call, neighbours in a window: what a run that was stopped goes on from."""
SYNC_SECONDS = 5.0
"""A run that is killed loses no more than this, and what its processes were computing."""
Skip = Callable[[Sequence[str]], Sequence[bool]]
"""Which of some texts are left out."""


@dataclass(frozen=True)
class Plan:
    """An open plan.

    Args:
        folder: of the store.
        manifest: of what was there when it was made.
        sources: [rows], number of the caption whose text gets the row.
        kept: captions that were in the store already, or twice in the data.
        keys: captions that get a vector: more than the rows, where texts repeat.
    """

    folder: Path
    manifest: Manifest
    sources: Ints
    kept: int
    keys: int

    @property
    def rows(self) -> int:
        """Distinct texts to embed."""
        return len(self.sources)

    @property
    def units(self) -> int:
        """Stretches of rows, each for one process."""
        return -(-self.rows // WINDOW)

    def chunks(self, unit: int) -> Iterator[tuple[int, int]]:
        """First row of each chunk of a unit, and the row after its last."""
        end = min((unit + 1) * WINDOW, self.rows)
        for first in range(unit * WINDOW, end, CHUNK):
            yield first, min(first + CHUNK, end)

    @property
    def layout(self) -> Layout:
        """Of the file of vectors."""
        tensors: dict[str, tuple[str, Sequence[int]]] = {
            "embeds": (STORED_DTYPES[self.manifest.dtype], (self.rows, self.manifest.dim)),
            "cut": ("U8", (self.rows,)),
        }
        if self.manifest.dtype == "int8":
            tensors["scale"] = ("F32", (self.rows,))
        order = sorted(tensors, key=lambda name: ("embeds", "scale", "cut").index(name))
        return Layout.of({name: tensors[name] for name in order})

    @classmethod
    def open(cls, folder: Path) -> Plan:
        """The plan that lies there."""
        tensors, metadata = map_tensors(folder / PLAN)
        return cls(folder, Manifest.read(folder), tensors["sources"], int(metadata["kept"]), int(metadata["keys"]))

    def done(self) -> NDArray[np.bool_]:
        """Which rows are written, [rows], as all processes' lists say."""
        done = np.zeros(self.rows, dtype=np.bool_)
        for path in self.folder.glob(f"{DONE}*"):
            for line in path.read_text().split("\n"):
                if line.endswith(";"):  # others were cut off
                    first, last = line[:-1].split()
                    done[int(first) : int(last)] = True
        return done

    def finish(self) -> int:
        """Make what is done part of the store: vectors and keys take their names, then the manifest names them.

        Returns:
            how many of the texts are known to have lost their end.
        """
        done = self.done()
        table, manifest = KeyTable.open(self.folder / KEYS), self.manifest
        before = manifest.rows
        missing = np.zeros(len(table), dtype=np.bool_)
        new = table.rows >= before
        missing[new] = ~done[table.rows[new] - before]
        if missing.any():
            table = table.only(~missing)
        if len(table):
            keys = self.folder / table_name(len(manifest.tables))
            table.write(keys)
            manifest = replace(manifest, tables=(*manifest.tables, TableEntry.of(keys, len(table))))
        truncated = 0
        if done.any():
            vectors = self.folder / shard_name(len(manifest.shards))
            if (self.folder / VECTORS).exists():  # else a run was killed between here and the manifest
                name_file(self.folder / VECTORS, vectors)
            tensors, _ = map_tensors(vectors)
            truncated = int((tensors["cut"][done] == 1).sum())
            entry = ShardEntry.of(vectors, self.rows, truncated)
            manifest = replace(manifest, shards=(*manifest.shards, entry))
        manifest.write(self.folder)
        index_of(self.folder, manifest, write=True)
        clear(self.folder)
        return truncated


class PlanRows:
    """Writes rows of a plan, as one of any number of processes.

    Args:
        plan: of the run.
        number: of this process, for its list of what is done.
    """

    def __init__(self, plan: Plan, number: int) -> None:
        self._layout, self._waiting, self._synced = plan.layout, b"", time.monotonic()
        self._vectors = os.open(plan.folder / VECTORS, os.O_WRONLY)
        self._done = os.open(plan.folder / f"{DONE}{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, first: int, tensors: Mapping[str, Tensor]) -> None:
        """Write rows from `first` on, [n, ...] each."""
        for name, rows in tensors.items():
            self._layout.write_rows(self._vectors, name, first, bits(rows))
        self._waiting += f"\n{first} {first + len(tensors['embeds'])};\n".encode()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Wait until what was written is on disk, then say that it is done."""
        os.fsync(self._vectors)
        waiting, self._waiting = self._waiting, b""
        os.write(self._done, waiting)
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sync()  # after an interruption too
        os.close(self._vectors)
        os.close(self._done)


def clear(folder: Path) -> None:
    """Take a plan's files away; first the one without which the others mean nothing."""
    (folder / PLAN).unlink(missing_ok=True)
    for path in folder.glob(".plan-*"):
        path.unlink()


@dataclass(frozen=True)
class _Seen:
    """What is remembered of captions that were looked at, [n] each: 36 bytes and the key."""

    hashes: Ints
    """[n, 2], of the keys."""
    texts: Ints
    """[n, 2], of the texts."""
    lengths: NDArray[np.int32]
    """Characters; 0 where the caption is left out."""

    @property
    def digest(self) -> str:
        """Of all of them, in order."""
        digest = sha256()
        for part in (self.hashes, self.texts, self.lengths):
            digest.update(np.ascontiguousarray(part))
        return digest.hexdigest()


def make_plan(folder: Path, wanted: Manifest, captions: Sequence[tuple[str, str]], skip: Skip | None = None) -> Plan:
    """Decide what is to be embedded, or go on with the plan of a run that was stopped; the store's lock is held.

    A plan for other captions is closed first: what was embedded for it is kept.

    Args:
        folder: of the store.
        wanted: manifest of an empty store like it.
        captions: pairs of key and text.
        skip: which texts are left out.

    Raises:
        ProclipError: a text is empty; a key stands twice with different texts, or has another text than the one in the
            store; the store was made otherwise; the disk is too small.
    """
    manifest = start(folder, wanted)
    seen = _look(captions, skip)
    name = sha256(json.dumps([seen.digest, manifest.state, WINDOW, CHUNK]).encode()).hexdigest()
    if (folder / PLAN).exists():
        if map_tensors(folder / PLAN)[1]["name"] == name:
            return Plan.open(folder)
        if map_tensors(folder / PLAN)[1]["state"] == manifest.state:
            Plan.open(folder).finish()
            manifest = Manifest.read(folder)
            name = sha256(json.dumps([seen.digest, manifest.state, WINDOW, CHUNK]).encode()).hexdigest()
    clear(folder)
    return _new_plan(folder, manifest, captions, seen, name)


def _look(captions: Sequence[tuple[str, str]], skip: Skip | None) -> _Seen:
    count = len(captions)
    seen = _Seen(np.empty((count, 2), np.int64), np.empty((count, 2), np.int64), np.empty(count, np.int32))
    remaining, first = iter(captions), 0
    while chunk := list(islice(remaining, READ)):
        keys, texts = zip(*chunk, strict=True)
        for key, text in chunk:
            if not text.strip():
                raise ProclipError(f"caption {key!r} is empty: leave it out, or give it words")
        last = first + len(chunk)
        seen.hashes[first:last], seen.texts[first:last] = digests(keys), digests(texts)
        seen.lengths[first:last] = [len(text) for text in texts]
        if skip is not None:
            seen.lengths[first:last][np.asarray(skip(texts), dtype=np.bool_)] = 0
        first = last
    return seen


def _new_plan(folder: Path, manifest: Manifest, captions: Sequence[tuple[str, str]], seen: _Seen, name: str) -> Plan:
    tables = manifest.key_tables(folder)
    found = index_of(folder, manifest, write=True).find(seen.hashes)
    wanted = seen.lengths > 0
    changed = wanted & (found.rows >= 0) & (found.texts != 0) & (found.texts != seen.texts[:, 0])
    if changed.any():
        raise ProclipError(changed_since(captions[int(changed.argmax())][0], folder))
    first = first_places(seen.hashes)
    twice = (seen.texts != seen.texts[first]).any(axis=1)
    if twice.any():
        raise ProclipError(f"caption {captions[int(twice.argmax())][0]!r} stands twice, with different texts")
    new = np.flatnonzero(wanted & (found.rows < 0) & (first == np.arange(len(first))))
    known = np.concatenate([table.texts for table in tables]) if tables else np.empty((0, 2), np.int64)
    known_rows = np.concatenate([table.rows for table in tables]) if tables else np.empty(0, np.int64)
    complete = np.flatnonzero(known.all(axis=1))  # where the whole hash of the text is known
    leader = first_places(np.concatenate([known[complete], seen.texts[new]]))[len(complete) :]
    own = leader - len(complete)  # place among the new, of the first with this text; negative: the store has it
    leads = own == np.arange(len(new))
    leaders = np.flatnonzero(leads)
    order = leaders[np.lexsort((leaders, -seen.lengths[new[leaders]], np.arange(len(leaders)) // WINDOW))]
    row_of = np.empty(len(new), dtype=np.int64)
    row_of[order] = manifest.rows + np.arange(len(order))
    rows, stored = np.empty(len(new), dtype=np.int64), own < 0
    rows[stored], rows[~stored] = known_rows[complete[leader[stored]]], row_of[own[~stored]]
    _check_room(folder, len(order) * manifest.dim, manifest.dtype)
    is_new = np.zeros(len(captions), dtype=np.bool_)
    is_new[new] = True
    keys = [key for key, _ in compress(captions, is_new)] if len(new) else []
    table = KeyTable.of(keys, seen.texts[new], rows)
    table.write(folder / KEYS)
    plan = Plan(folder, manifest, new[order], int(wanted.sum()) - len(new), len(new))
    plan.layout.create(folder / VECTORS)
    with replacing(folder / PLAN) as draft:  # the last: with it the plan stands
        metadata = {"name": name, "state": manifest.state, "kept": str(plan.kept), "keys": str(plan.keys)}
        save_file({"sources": plan.sources}, draft, metadata=metadata)
    return plan


def _check_room(folder: Path, values: int, dtype: str) -> None:
    needed, free = values * {"float32": 4, "int8": 1}.get(dtype, 2), shutil.disk_usage(folder).free
    if needed > free:
        raise ProclipError(
            f"{folder}: {needed / 1e9:,.1f} GB of vectors are to come and {free / 1e9:,.1f} GB are free: make room, or "
            "choose a smaller data.store_dtype"
        )
