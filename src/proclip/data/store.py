"""Embedding store: vectors by key in memory-mapped shards, with a manifest that says how they were made.

docs/data_format.md describes the files. A store is written by one job at a time and read by any number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..errors import ProclipError
from ..files import write_atomically
from .host_memory import host_empty
from .key_table import Ints, KeyIndex, KeyTable, digests
from .store_folder import (
    LOCK_SECONDS,
    first_repeated,
    index_for_reading,
    index_of,
    lock,
    next_table,
    shard_name,
    start,
    starts_of,
    table_name,
)
from .store_format import (
    TORCH_DTYPES,
    UNKNOWN,
    Manifest,
    Shard,
    ShardEntry,
    StoreDtype,
    TableEntry,
    hash_of,
    pack,
    written_since,
)


def caption_key(sample_key: str, column: str) -> str:
    """Key of a sample's caption: the sample's key and the caption's column."""
    return f"{sample_key}#{column}"


def text_key(text: str) -> str:
    """Key of a free text, such as a prompt: its hash."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class EmbeddingStore:
    """A store that is read. Make one with `open`.

    Args:
        folder: of the store.
        manifest: what it says of itself.
        shards: opened, in the manifest's order.
        index: of its keys.
    """

    def __init__(self, folder: Path, manifest: Manifest, shards: Sequence[Shard], index: KeyIndex) -> None:
        self.folder, self.manifest = folder, manifest
        self._shards, self._index, self._starts = shards, index, starts_of(manifest)

    @classmethod
    def open(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> EmbeddingStore:
        """Open a store; vectors and keys stay on disk until they are asked for.

        Args:
            path: folder.
            expect: identity that the vectors must have.

        Raises:
            ProclipError: no store, a shard is missing, truncated or damaged, or the store was made otherwise
                than expected (the message lists the fields that differ).
        """
        folder = Path(path)
        manifest = Manifest.read(folder)
        if expect is not None:
            manifest.check(folder, expect)
        try:
            manifest.check_files(folder)
        except ProclipError:
            if Manifest.read(folder).state == manifest.state:
                raise
            return cls.open(path, expect)  # it was written in between
        shards = [Shard.open(folder / entry.file, entry, manifest) for entry in manifest.shards]
        return cls(folder, manifest, shards, index_for_reading(folder, manifest))

    @property
    def identity(self) -> dict[str, Any]:
        """Of the embedder that made the vectors."""
        return self.manifest.identity

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.manifest.dim

    @property
    def dtype(self) -> StoreDtype:
        """How they are stored."""
        return self.manifest.dtype

    @property
    def truncated(self) -> int:
        """How many distinct texts were longer than the embedder reads."""
        return sum(shard.truncated for shard in self.manifest.shards)

    @property
    def keys(self) -> Iterator[str]:
        """All keys, in the order written, read from disk."""
        return (key for table in self.manifest.key_tables(self.folder) for key in table)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(self.holds([key])[0])

    def holds(self, keys: Sequence[str]) -> Tensor:
        """Which keys are there, [n] bool."""
        return self.look_up(keys) >= 0

    def look_up(self, keys: Sequence[str], texts: Sequence[str] | None = None) -> Tensor:
        """Rows of keys, [n] int64; -1 where a key is not there, or another text than that of `texts` [n] was embedded.

        Args:
            keys: n keys, in any order, repeated or not.
            texts: of each, to be compared with what was embedded.
        """
        found = self._index.find(digests(keys))
        if texts is None:
            return torch.from_numpy(found.rows)
        return torch.from_numpy(np.where(found.differ(digests(texts)), -1, found.rows))

    def find(self, keys: Sequence[str], texts: Sequence[str] | None = None) -> Tensor:
        """The same, of keys that are all there: a loop that reads the same ones again and again looks them up once.

        Raises:
            ProclipError: a key is not in the store, or another text was embedded under it.
        """
        rows = self.look_up(keys, texts)
        if len(keys) and int(rows.min()) < 0:
            key = keys[int(rows.argmin())]
            if key in self:
                raise changed_since(key, self.folder)
            raise ProclipError(
                f"{key!r} is not among the {len(self)} keys of the embeddings at {self.folder}: run  proclip embed  "
                "with the recipe that needs it"
            )
        return rows

    def at(self, rows: Tensor, as_stored: bool = False) -> Tensor:
        """Vectors by row.

        Args:
            rows: [n] int64, as `find` gives them.
            as_stored: float16 and bfloat16 as they lie on disk: half the bytes, and no digit less, for a caller that
                makes them float32 on a quicker device.

        Returns:
            [n, dim] float32, or as stored.

        Raises:
            ProclipError: the store has no such row.
        """
        count = self.manifest.rows
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
            raise ProclipError(f"{self.folder} has rows 0 to {count - 1}, and {rows.tolist()[:9]} are asked for")
        halves = as_stored and self.dtype in ("float16", "bfloat16")
        embeds = host_empty((len(rows), self.dim), TORCH_DTYPES[self.dtype] if halves else torch.float32)
        for places, shard, own in self._of_shards(rows.numpy()):
            shard.read(own, embeds, places)
        return embeds

    def rows(self, keys: Sequence[str]) -> Tensor:
        """Vectors by key.

        Args:
            keys: n keys, in any order, repeated or not.

        Returns:
            [n, dim] float32.

        Raises:
            ProclipError: a key is not in the store.
        """
        return self.at(self.find(keys))

    def cut(self, keys: Sequence[str]) -> Tensor | None:
        """Which texts were longer than the embedder reads, by key: [n] bool; None where one is not known.

        Raises:
            ProclipError: a key is not in the store.
        """
        cut = np.full(len(keys), UNKNOWN, dtype=np.uint8)
        for places, shard, rows in self._of_shards(self.find(keys).numpy()):
            if shard.cut is not None:
                cut[slice(None) if places is None else places] = shard.cut[rows]
        return None if bool((cut == UNKNOWN).any()) else torch.from_numpy(cut != 0)

    def _of_shards(self, rows: Ints) -> Iterator[tuple[Ints | None, Shard, Ints]]:
        """Shards that hold some of the rows: places among the rows [m] (None: all), shard, its own rows [m]."""
        if len(self._shards) == 1:
            yield None, self._shards[0], rows
            return
        order = np.argsort(rows)
        shard_of = np.searchsorted(self._starts, rows[order], side="right") - 1
        bounds = [*np.flatnonzero(np.diff(shard_of, prepend=-1)).tolist(), len(rows)]
        for first, last in pairwise(bounds):
            number, places = int(shard_of[first]), order[first:last]
            yield places, self._shards[number], rows[places] - self._starts[number]

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every file whole and compare its hash.

        Args:
            progress: called with files done and all files.

        Raises:
            ProclipError: a file is not what was written.
        """
        entries = self.manifest.files
        for number, entry in enumerate(entries, start=1):
            try:
                found = hash_of(self.folder / entry.file)
            except FileNotFoundError as error:
                raise written_since(error) from None
            if found != entry.sha256:
                raise ProclipError(
                    f"{self.folder / entry.file} has changed since it was written (its sha256 is not the manifest's): "
                    "delete the store's folder and embed again"
                )
            if progress is not None:
                progress(number, len(entries))


def changed_since(key: str, folder: Path, others: int = 0) -> ProclipError:
    """What is said of a caption, and of so many others, whose text is no longer as it was embedded."""
    more = f" (and of {others:,} more)" if others else ""
    return ProclipError(
        f"the text of caption {key!r}{more} has changed since it was embedded at {folder}: run  proclip embed  "
        "with --replace, or give it another key"
    )


class StoreWriter:
    """Writes a store, or goes on with one: what complete shards hold is kept, the rest is to be added again.

    Use it as a context manager; it holds the store's lock until it is closed. Rows wait in memory until they are
    a shard; closing writes the last, shorter one. Many captions, by one process or several: `embed_captions`.

    Args:
        path: folder; made if it is not there.
        identity: of the embedder.
        dim: width of the vectors.
        dtype: how to store them.
        shard_size: rows at which a shard is written. Rows added by one call stay together, so it may be longer.
        wait_seconds: how long another process that writes is waited for.

    Raises:
        ProclipError: the folder holds something else, a store made otherwise (the message lists the fields that
            differ) or a damaged one, or another process is writing it.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any],
        dim: int,
        dtype: StoreDtype = "float32",
        shard_size: int = 16384,
        wait_seconds: float = LOCK_SECONDS,
    ) -> None:
        self.folder, self.shard_size = Path(path), shard_size
        self._lock = lock(self.folder, wait_seconds)
        try:
            self._manifest = start(self.folder, Manifest(identity=dict(identity), dim=dim, dtype=dtype))
            self._segments = [index_of(self.folder, self._manifest, write=True)]
        except ProclipError:
            self._lock.release()
            raise
        self._keys: list[str] = []
        self._waiting: set[str] = set()
        self._texts: list[Ints] = []
        self._embeds: list[Tensor] = []
        self._cut: list[Tensor] = []

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Places of the keys that have no vector yet, neither from before nor from this writer's own `add`."""
        hashes = digests(keys)
        absent = np.array([key not in self._waiting for key in keys], dtype=np.bool_)
        for index in self._segments:
            absent &= index.find(hashes).rows < 0
        return np.flatnonzero(absent).tolist()

    def add(
        self, keys: Sequence[str], embeds: Tensor, *, texts: Sequence[str] | None = None, cut: Tensor | None = None
    ) -> None:
        """Add rows.

        Args:
            keys: n new keys.
            embeds: [n, dim].
            texts: what was embedded, to notice later that a caption has changed.
            cut: [n] bool, which of the texts lost their end, where that is known.

        Raises:
            ProclipError: counts or width do not fit, a key is there already, or a value is not finite.
        """
        if tuple(embeds.shape) != (len(keys), self._manifest.dim):
            raise ProclipError(
                f"{len(keys)} keys and vectors {tuple(embeds.shape)}: {self._manifest.dim} wide is right"
            )
        finite = torch.isfinite(embeds).all(1)
        if not bool(finite.all()):
            raise ProclipError(f"the vector of {keys[int((~finite).nonzero()[0])]!r} is not finite")
        new = self.missing(keys)
        if len(set(keys)) < len(keys) or len(new) < len(keys):
            twice = next((key for n, key in enumerate(keys) if n not in set(new)), None) or first_repeated(keys)
            raise ProclipError(f"{twice!r} would stand twice in the embeddings at {self.folder}")
        self._keys += keys
        self._waiting.update(keys)
        self._texts.append(digests(texts) if texts is not None else np.zeros((len(keys), 2), dtype=np.int64))
        self._embeds.append(embeds.detach().to("cpu", torch.float32))
        self._cut.append(cut.to("cpu", torch.uint8) if cut is not None else torch.full((len(keys),), UNKNOWN).byte())
        if len(self._keys) >= self.shard_size:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as a shard, then the table of their keys, then the manifest that names both."""
        if not self._keys:
            return
        manifest, cut, texts = self._manifest, torch.cat(self._cut), np.concatenate(self._texts)
        shard = self.folder / shard_name(len(manifest.shards))
        write_atomically(shard, save(pack(torch.cat(self._embeds), manifest.dtype) | {"cut": cut}))
        rows = np.arange(manifest.rows, manifest.rows + len(self._keys))
        table = KeyTable.of(self._keys, texts, rows)
        file = self.folder / table_name(next_table(manifest))
        table.write(file)
        lost = [n for n, one in enumerate(cut.tolist()) if one == 1]
        truncated = len({tuple(texts[n]) if texts[n].any() else n for n in lost})
        self._manifest = replace(
            manifest,
            shards=(*manifest.shards, ShardEntry.of(shard, len(self._keys), truncated)),
            tables=(*manifest.tables, TableEntry.of(file, len(table))),
        )
        self._manifest.write(self.folder)
        self._segments.append(KeyIndex.of_tables([table]))
        while len(self._segments) > 2 and len(self._segments[-2]) <= len(self._segments[-1]):
            last = self._segments.pop()  # two of like size become one, so that there are few to search
            self._segments[-1] = self._segments[-1].joined(last)
        self._keys, self._texts, self._embeds, self._cut = [], [], [], []
        self._waiting = set()

    def close(self) -> None:
        """Write what waits and the index of the keys, and give the lock back."""
        try:
            self.flush()
            index_of(self.folder, self._manifest, write=True)
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()  # after an interruption too: rows that were added are complete
