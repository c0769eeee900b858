"""Keys of an embedding store: tables that are written, and a sorted index by hash that is memory-mapped and searched.

A key is known by the first 128 bits of its SHA-256. Two keys with one hash among a hundred million have a chance of
1e-23; two different keys that share the first 64 bits (1e-3) are told apart by the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ProclipError
from .mapped_file import map_tensors, write_tensors

Ints = NDArray[np.int64]
INDEX = "index.safetensors"
PARTS = 16
"""Hashes are sorted in so many parts by their first bits, so that the work needs little memory."""
DECODED = 1 << 16
LOOKED_UP = 1 << 16
"""Keys for one `KeyIndex.find`: sorted, so many read an index of six million in half the time of 4,096 at a time."""


def digests(texts: Iterable[str]) -> Ints:
    """First 128 bits of the hash of each text: [n, 2] int64."""
    raw = b"".join([sha256(text.encode()).digest() for text in texts])
    return np.frombuffer(raw, dtype=">i8").reshape(-1, 4)[:, :2].astype(np.int64)


def first_places(hashes: Ints) -> Ints:
    """For each row of [n, 2], the place of the first row that is equal to it: [n]."""
    first = np.arange(len(hashes))
    part_of = ((hashes[:, 0] >> 60) & (PARTS - 1)).astype(np.uint8)
    for part in range(PARTS):
        places = np.flatnonzero(part_of == part)
        own = hashes[places]
        order = np.lexsort((own[:, 1], own[:, 0]))  # stable: of equal rows the first stays first
        changes = (own[order[1:]] != own[order[:-1]]).any(axis=1)
        starts = np.concatenate([[True], changes])[: len(order)]
        leaders = order[np.flatnonzero(starts)]
        first[places[order]] = places[leaders[np.cumsum(starts) - 1]]
    return first


@dataclass(frozen=True)
class KeyTable:
    """Keys in the order written, the row of each one's vector and the hash of its text."""

    key_bytes: NDArray[np.uint8]
    """All keys, UTF-8, one after the other."""
    ends: Ints
    """[k], where each key ends."""
    hashes: Ints
    """[k, 2], of the keys."""
    texts: Ints
    """[k, 2], of their texts; 0 where no text was given, and in the second half where only 64 bits are known."""
    rows: Ints
    """[k], among all rows of the store, in the order of its shards. Keys of one text share a row."""

    @classmethod
    def of(cls, keys: Sequence[str], texts: Ints, rows: Ints) -> KeyTable:
        """A table of keys."""
        encoded = [key.encode() for key in keys]
        ends = np.cumsum([len(key) for key in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, digests(keys), texts, rows)

    @classmethod
    def open(cls, path: Path) -> KeyTable:
        """A table that stays on disk.

        Raises:
            ProclipError: the file is damaged.
        """
        tensors, _ = map_tensors(path)
        try:
            table = cls(**{name: tensors[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise ProclipError(f"{path} is damaged: it has no {error}") from None
        count = len(table.ends)
        sizes = [(count, 2), (count, 2), (count,)]
        if [table.hashes.shape, table.texts.shape, table.rows.shape] != sizes:
            raise ProclipError(f"{path} is damaged: its tensors are not of one length")
        return table

    def write(self, path: Path) -> None:
        """Write it, atomically."""
        write_tensors(path, {name: getattr(self, name) for name in self.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        for start in range(0, len(self), DECODED):
            ends = self.ends[start : start + DECODED].tolist()
            begin = int(self.ends[start - 1]) if start else 0
            content = self.key_bytes[begin : ends[-1]].tobytes()
            for first, last in zip([begin, *ends], ends, strict=False):
                yield content[first - begin : last - begin].decode()

    def key(self, place: int) -> str:
        """One of the keys."""
        start = int(self.ends[place - 1]) if place else 0
        return self.key_bytes[start : int(self.ends[place])].tobytes().decode()

    def only(self, kept: NDArray[np.bool_]) -> KeyTable:
        """The table of some of the keys."""
        lengths = np.diff(self.ends, prepend=0)
        content = self.key_bytes[np.repeat(kept, lengths)]
        ends = np.cumsum(lengths[kept])
        return KeyTable(content, ends, self.hashes[kept], self.texts[kept], self.rows[kept])


class Found(NamedTuple):
    """What an index knows of some keys, [n] each."""

    rows: Ints
    """Of the store; -1 where the key is not there."""
    texts: Ints
    """First 64 bits of the hash of the text; 0 where it is not known."""

    def differ(self, texts: Ints) -> NDArray[np.bool_]:
        """Which keys are there with another text than that whose hash [n, 2] is given, [n]."""
        differ: NDArray[np.bool_] = (self.rows >= 0) & (self.texts != 0) & (self.texts != texts[:, 0])
        return differ


@dataclass(frozen=True)
class KeyIndex:
    """Keys by hash, sorted: 32 bytes a key, on disk. A look-up reads a few pages of it."""

    high: Ints
    """[k], first 64 bits of the hash, ascending."""
    low: Ints
    """[k], the next 64 bits."""
    rows: Ints
    """[k], of the vectors."""
    texts: Ints
    """[k], first 64 bits of the hash of the text."""

    @classmethod
    def of(cls, hashes: Ints, rows: Ints, texts: Ints) -> KeyIndex:
        """Sort keys.

        Args:
            hashes: [k, 2] of the keys.
            rows: [k].
            texts: [k], first 64 bits of the hash of each one's text.

        Raises:
            ProclipError: a key stands twice.
        """
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        high, low = hashes[order, 0], hashes[order, 1]
        if bool(((high[1:] == high[:-1]) & (low[1:] == low[:-1])).any()):
            raise ProclipError("a key stands twice")
        return cls(high, low, rows[order], texts[order])

    @classmethod
    def of_tables(cls, tables: Sequence[KeyTable]) -> KeyIndex:
        """The index of all keys of some tables.

        Raises:
            ProclipError: a key stands twice.
        """
        if not tables:
            return cls.of(np.empty((0, 2), dtype=np.int64), *(np.empty(0, dtype=np.int64) for _ in range(2)))
        hashes, rows = (np.concatenate([getattr(t, name) for t in tables]) for name in ("hashes", "rows"))
        return cls.of(hashes, rows, np.concatenate([table.texts[:, 0] for table in tables]))

    @classmethod
    def read(cls, folder: Path, state: str) -> KeyIndex | None:
        """The index that lies in a store's folder; None where there is none, or it is of another state."""
        path = folder / INDEX
        try:
            tensors, metadata = map_tensors(path)
        except (FileNotFoundError, ProclipError):
            return None
        if metadata.get("state") != state or set(tensors) != set(cls.__dataclass_fields__):
            return None
        return cls(**tensors)

    def write(self, folder: Path, state: str) -> None:
        """Write it into a store's folder, atomically."""
        tensors = {name: getattr(self, name) for name in self.__dataclass_fields__}
        write_tensors(folder / INDEX, tensors, {"state": state})

    def __len__(self) -> int:
        return len(self.high)

    def find(self, hashes: Ints) -> Found:
        """Look keys up by their hashes, [n, 2]."""
        order = np.argsort(hashes[:, 0])  # neighbours in the index one after the other
        high, low = hashes[order, 0], hashes[order, 1]
        places = np.searchsorted(self.high, high)
        rows, texts = np.full(len(order), -1), np.zeros(len(order), dtype=np.int64)
        waiting = np.arange(len(order))
        while len(waiting):  # once, unless two keys share their first 64 bits
            waiting = waiting[places[waiting] < len(self)]
            waiting = waiting[self.high[places[waiting]] == high[waiting]]
            same = self.low[places[waiting]] == low[waiting]
            hits = waiting[same]
            rows[order[hits]], texts[order[hits]] = self.rows[places[hits]], self.texts[places[hits]]
            waiting = waiting[~same]
            places[waiting] += 1
        return Found(rows, texts)

    def joined(self, other: KeyIndex) -> KeyIndex:
        """The index of both."""
        high, low = (np.concatenate([getattr(i, name) for i in (self, other)]) for name in ("high", "low"))
        rows, texts = (np.concatenate([getattr(i, name) for i in (self, other)]) for name in ("rows", "texts"))
        return KeyIndex.of(np.stack([high, low], axis=1), rows, texts)


def state_of(files: Iterable[tuple[str, str]]) -> str:
    """Names and hashes of the files that an index is made from, as one hash."""
    return sha256(json.dumps([list(file) for file in files]).encode()).hexdigest()
