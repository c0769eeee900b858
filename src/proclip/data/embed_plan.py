"""What is to be embedded, decided once and kept on disk: which texts get a row, in which order, and who has done which.

The files lie hidden in the store's folder until all rows are there, then take their names. Nothing in them depends on
the number of processes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ProclipError
from ..files import name_file
from .key_table import Ints, KeyTable, digests, first_places
from .mapped_file import Layout, map_tensors, write_tensors
from .store import changed_since
from .store_folder import index_of, next_table, shard_name, start, table_name, without_keys
from .store_format import STORED_DTYPES, Manifest, ShardEntry, TableEntry, bits

_log = logging.getLogger(__name__)
PLAN, KEYS, VECTORS, DONE = ".plan.safetensors", ".plan-keys.safetensors", ".plan-vectors", ".plan-done-"
WRITTEN, TRIED = "{} {};", "{} {} tried;"
"""Lines of a process's list: first row, and the row after the last."""
REPLACES = "replaces"
"""In a plan's metadata: see `Plan`."""
READ = 8192
"""Captions looked at together."""
WINDOW = 16384
"""Texts that are sorted by length together, so that batches hold texts of like length; whole chunks."""
CHUNK = 512
"""Texts encoded by one call, neighbours in a window: what a process takes, and what a stopped run goes on from. It
divides `WINDOW`."""
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
        size: texts of a chunk.
        replaces: some of the keys are in the store, with another text.
    """

    folder: Path
    manifest: Manifest
    sources: Ints
    kept: int
    keys: int
    size: int
    replaces: bool

    @property
    def rows(self) -> int:
        """Distinct texts to embed."""
        return len(self.sources)

    @property
    def chunks(self) -> int:
        """Stretches of rows that are encoded by one call, each by one process."""
        return -(-self.rows // self.size)

    def chunk(self, number: int) -> tuple[int, int]:
        """First row of a chunk, and the row after its last."""
        return number * self.size, min((number + 1) * self.size, self.rows)

    @property
    def layout(self) -> Layout:
        """Of the file of vectors."""
        tensors: dict[str, tuple[str, Sequence[int]]] = {
            "embeds": (STORED_DTYPES[self.manifest.dtype], (self.rows, self.manifest.dim))
        }
        if self.manifest.dtype == "int8":
            tensors["scale"] = ("F32", (self.rows,))
        return Layout.of({**tensors, "cut": ("U8", (self.rows,))})

    @classmethod
    def open(cls, folder: Path) -> Plan:
        """The plan that lies there."""
        tensors, metadata = map_tensors(folder / PLAN)
        size = int(metadata.get("size", CHUNK))  # plans of before have none
        kept, keys = int(metadata["kept"]), int(metadata["keys"])
        return cls(folder, Manifest.read(folder), tensors["sources"], kept, keys, size, REPLACES in metadata)

    def done(self) -> NDArray[np.bool_]:
        """Which rows are written, [rows], as all processes' lists say."""
        return self._listed(WRITTEN)

    def tried(self) -> NDArray[np.bool_]:
        """Which rows are written, or are of a chunk that has come to its end without them, [rows]."""
        return self._listed(WRITTEN) | self._listed(TRIED)

    def _listed(self, form: str) -> NDArray[np.bool_]:
        found = np.zeros(self.rows, dtype=np.bool_)
        line = re.compile(form.format(r"(\d+)", r"(\d+)"))
        for path in self.folder.glob(f"{DONE}*"):
            for text in path.read_text().split("\n"):
                if rows := line.fullmatch(text):  # others are of another form, or were cut off
                    found[int(rows[1]) : int(rows[2])] = True
        return found

    def finish(self) -> int:
        """Make what is done part of the store: vectors and keys take their names, then the manifest names them.

        Keys that are replaced leave their old tables by the same step.

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
            number = next_table(manifest)
            keys = self.folder / table_name(number)
            table.write(keys)
            if self.replaces:
                manifest = without_keys(self.folder, manifest, table.hashes, number + 1)
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
        self._list(WRITTEN, first, first + len(tensors["embeds"]))

    def end_chunk(self, first: int, last: int) -> None:
        """Say that the rows from `first` on that are not written are not going to be."""
        self._list(TRIED, first, last)

    def _list(self, form: str, first: int, last: int) -> None:
        self._waiting += f"\n{form.format(first, last)}\n".encode()
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
    """What is remembered of captions that were looked at: the bytes of the keys and 52 bytes each."""

    keys: KeyTable
    """With the hashes of the texts, and no rows yet."""
    lengths: NDArray[np.int32]
    """[n], characters of each text; 0 where the caption is left out."""

    @property
    def digest(self) -> str:
        """Of all of them, in order."""
        digest = sha256()
        for part in (self.keys.hashes, self.keys.texts, self.lengths):
            digest.update(part.data)
        return digest.hexdigest()

    def name(self, manifest: Manifest, size: int) -> str:
        """Of the plan that chunks of `size` give for a store with this manifest."""
        return sha256(json.dumps([self.digest, manifest.state, WINDOW, size]).encode()).hexdigest()


def make_plan(
    folder: Path,
    wanted: Manifest,
    captions: Sequence[tuple[str, str]],
    skip: Skip | None = None,
    size: int | None = None,
    replace: bool = False,
) -> Plan:
    """Decide what is to be embedded, or go on with the plan of a run that was stopped; the store's lock is held.

    A plan for other captions, or with chunks of another size, is closed first: what was embedded for it is kept.

    Args:
        folder: of the store.
        wanted: manifest of an empty store like it.
        captions: pairs of key and text.
        skip: which texts are left out.
        size: texts of a chunk; `CHUNK` if None.
        replace: captions whose text is no longer the one in the store are embedded anew.

    Raises:
        ProclipError: a text is empty; a key stands twice with different texts, or has another text than the one in the
            store and is not to be replaced; the store was made otherwise; the disk is too small.
    """
    manifest = start(folder, wanted)
    seen = _look(captions, skip)
    size = CHUNK if size is None else size
    if size < 1 or WINDOW % size:
        raise ProclipError(f"size must be a divisor of {WINDOW:,}, not {size}")
    if (folder / PLAN).exists():
        found = map_tensors(folder / PLAN)[1]
        if found["name"] == seen.name(manifest, size) and (folder / VECTORS).exists():
            return Plan.open(folder)  # else a run was killed while it finished
        if found["state"] == manifest.state:
            Plan.open(folder).finish()
            manifest = Manifest.read(folder)
    clear(folder)
    is_new, changed = _compare(folder, manifest, seen)
    count = int(changed.sum())
    if count:
        first = seen.keys.key(int(changed.argmax()))
        if not replace:
            raise changed_since(first, folder, count - 1)
        _log.warning("%s: what %d keys stand for has changed, such as %r: it is embedded anew", folder, count, first)
    return _new_plan(folder, manifest, seen, is_new | changed, size, replaces=count > 0)


def _look(captions: Sequence[tuple[str, str]], skip: Skip | None) -> _Seen:
    count, first = len(captions), 0
    hashes, texts_of = np.empty((count, 2), np.int64), np.empty((count, 2), np.int64)
    lengths, key_lengths, content = np.empty(count, np.int32), np.empty(count, np.int64), bytearray()
    remaining = iter(captions)
    while chunk := list(islice(remaining, READ)):
        keys, texts = zip(*chunk, strict=True)
        for key, text in chunk:
            if not text.strip():
                raise ProclipError(f"caption {key!r} is empty: leave it out, or give it words")
        own = slice(first, first + len(chunk))
        encoded = [key.encode() for key in keys]
        content += b"".join(encoded)
        key_lengths[own], lengths[own] = [len(key) for key in encoded], [len(text) for text in texts]
        hashes[own], texts_of[own] = digests(keys), digests(texts)
        if skip is not None:
            lengths[own][np.asarray(skip(texts), dtype=np.bool_)] = 0
        first += len(chunk)
    ends, rows = np.cumsum(key_lengths, out=key_lengths), np.full(count, -1)
    return _Seen(KeyTable(np.frombuffer(content, dtype=np.uint8), ends, hashes, texts_of, rows), lengths)


def _new_plan(
    folder: Path, manifest: Manifest, seen: _Seen, is_new: NDArray[np.bool_], size: int, *, replaces: bool
) -> Plan:
    table, lengths = (seen.keys, seen.lengths) if is_new.all() else (seen.keys.only(is_new), seen.lengths[is_new])
    tables = manifest.key_tables(folder)
    known = np.concatenate([t.texts for t in tables]) if tables else np.empty((0, 2), np.int64)
    known_rows = np.concatenate([t.rows for t in tables]) if tables else np.empty(0, np.int64)
    complete = known.all(axis=1)  # where the whole hash of the text is known
    known, known_rows = known[complete], known_rows[complete]
    # For each new caption, the place of the first with its text among the new; negative: the store has the text.
    leader = first_places(np.concatenate([known, table.texts]))[len(known) :] - len(known)
    order = np.flatnonzero(leader == np.arange(len(leader)))
    for begin in range(0, len(order), WINDOW):
        window = order[begin : begin + WINDOW]
        window[:] = window[np.argsort(-lengths[window], kind="stable")]
    _check_room(folder, len(order) * manifest.dim, manifest.dtype)
    stored = leader < 0
    table.rows[order] = manifest.rows + np.arange(len(order))
    table.rows[~stored] = table.rows[leader[~stored]]
    table.rows[stored] = known_rows[leader[stored]]
    table.write(folder / KEYS)
    kept = int((seen.lengths > 0).sum()) - len(table)
    plan = Plan(folder, manifest, np.flatnonzero(is_new)[order], kept, len(table), size, replaces)
    plan.layout.create(folder / VECTORS)
    numbers = {"kept": str(kept), "keys": str(len(table)), "size": str(size), **({REPLACES: "yes"} if replaces else {})}
    metadata = {"name": seen.name(manifest, size), "state": manifest.state, **numbers}
    write_tensors(folder / PLAN, {"sources": plan.sources}, metadata)  # the last: with it the plan stands
    return plan


def _compare(folder: Path, manifest: Manifest, seen: _Seen) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which captions the store does not hold, and which it holds with another text; each key once, [n] each."""
    index, hashes, texts = index_of(folder, manifest, write=True), seen.keys.hashes, seen.keys.texts
    first, is_new, changed = first_places(hashes), np.zeros(len(hashes), np.bool_), np.zeros(len(hashes), np.bool_)
    for begin in range(0, len(hashes), READ):
        own = slice(begin, begin + READ)
        twice = (texts[own] != texts[first[own]]).any(axis=1)
        if twice.any():
            key = seen.keys.key(begin + int(twice.argmax()))
            raise ProclipError(f"caption {key!r} stands twice, with different texts")
        found = index.find(hashes[own])
        wanted = (seen.lengths[own] > 0) & (first[own] == np.arange(begin, begin + len(twice)))
        is_new[own] = wanted & (found.rows < 0)
        changed[own] = wanted & found.differ(texts[own])
    return is_new, changed


def _check_room(folder: Path, values: int, dtype: str) -> None:
    needed, free = values * {"float32": 4, "int8": 1}.get(dtype, 2), shutil.disk_usage(folder).free
    if needed > free:
        raise ProclipError(
            f"{folder}: {needed / 1e9:,.1f} GB of vectors are to come and {free / 1e9:,.1f} GB are free: make room, or "
            "choose a smaller data.store_dtype for a new store"
        )
