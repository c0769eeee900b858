"""Vectors by key that grow as they are asked for, and that several processes fill together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch

from .. import distributed
from ..errors import ProclipError
from ..models.embedder import Encoded
from .store import EmbeddingStore, StoreWriter
from .store_format import MANIFEST

SAVE_SECONDS, SAVE_ROWS = 60.0, 16384
"""What waits in memory is written after this time or at so many rows; a run that is killed loses no more."""
WAIT_SECONDS = 600.0


@final
class SharedStore:
    """Vectors by key: an embedding store in a folder, or in memory where there is none.

    In a folder they are kept as float32, so that a figure does not depend on the cache. Processes that ask for the same
    keys in the same order share the work: each adds its own units of keys, and all read the whole. In memory there is
    nothing to share, and each does all of it.

    Args:
        folder: of the store; None: in memory.
        identity: of what makes the vectors.

    Raises:
        ProclipError: the store is another encoder's (the message lists the fields that differ) or is damaged.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, dict(identity)
        self._memory: dict[str, Encoded] = {}
        self._waiting: list[tuple[Sequence[str], Encoded, Sequence[str] | None]] = []
        self._saved = time.monotonic()
        self._store = self._open()

    def _absent(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that have no vector."""
        if self._store is None:
            return [key for key in keys if key not in self._memory]
        return [key for key, there in zip(keys, self._store.holds(keys).tolist(), strict=True) if not there]

    def verify(self) -> None:
        """Read the whole store that is there and compare the hashes of its shards.

        Raises:
            ProclipError: a shard is not what was written.
        """
        if self._store is not None:
            self._store.verify()

    @contextmanager
    def filling(self, keys: Sequence[str], unit: int) -> Iterator[list[list[str]]]:
        """What this process is to `add`; at the end it is written, and what the other processes added is there too.

        Args:
            keys: distinct; the same on every process.
            unit: keys are cut into units of so many, of which process r of w takes every w-th, so that what is encoded
                together does not depend on the number of processes.

        Yields:
            the units' keys that are not there; a unit of which nothing is missing is left out.
        """
        units = [keys[start : start + unit] for start in range(0, len(keys), unit)]
        shared = self.folder is not None
        own = units[distributed.rank() :: distributed.world_size()] if shared else units
        missing = bool(self._absent(keys))
        self._saved = time.monotonic()
        try:
            yield [part for part in map(self._absent, own) if part]
        finally:
            self._save()
        if shared:
            distributed.barrier()
        if missing:
            self._store = self._open()

    def add(self, keys: Sequence[str], encoded: Encoded, texts: Sequence[str] | None = None) -> None:
        """Add vectors, of which some may have come from elsewhere meanwhile.

        Args:
            keys: n keys.
            encoded: vectors [n, h], and which texts were cut.
            texts: what was encoded, where it is text.
        """
        if self.folder is None:
            cut: list[Any] = list(encoded.cut) if encoded.cut is not None else [None] * len(keys)
            self._memory.update(zip(keys, map(Encoded, encoded.embeds, cut), strict=True))
            return
        self._waiting.append((keys, encoded, texts))
        rows = sum(len(waiting[0]) for waiting in self._waiting)
        if rows >= SAVE_ROWS or time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def rows(self, keys: Sequence[str]) -> Encoded:
        """Vectors by key, [n, h] float32, in the order of the keys.

        Raises:
            ProclipError: a key is not there.
        """
        if not keys or (self._store is None and self.folder is not None):
            width = self._store.dim if self._store is not None else 0
            return Encoded(torch.empty(0, width), torch.empty(0, dtype=torch.bool))
        if self._store is not None:
            return Encoded(self._store.rows(keys), self._store.cut(keys))
        found = [self._memory[key] for key in keys]
        cut = [one.cut for one in found if one.cut is not None]
        return Encoded(torch.stack([one.embeds for one in found]), torch.stack(cut) if len(cut) == len(keys) else None)

    def _open(self) -> EmbeddingStore | None:
        if self.folder is None or not (self.folder / MANIFEST).exists():
            return None
        return EmbeddingStore.open(self.folder, expect=self.identity)

    def _save(self) -> None:
        """Write what waits; the store's lock is held only so long, for others wait to write their own."""
        if self._waiting and self.folder is not None:
            dim = self._waiting[0][1].embeds.shape[1]
            with StoreWriter(self.folder, self.identity, dim, wait_seconds=WAIT_SECONDS) as writer:
                for keys, encoded, texts in self._waiting:
                    new = writer.missing(keys)
                    writer.add(
                        [keys[n] for n in new],
                        encoded.embeds[new],
                        texts=[texts[n] for n in new] if texts is not None else None,
                        cut=encoded.cut[new] if encoded.cut is not None else None,
                    )
        self._waiting, self._saved = [], time.monotonic()
