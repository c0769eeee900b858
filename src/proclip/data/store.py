"""Embedding store: vectors by key in memory-mapped shards, with a manifest that says how they were made.

docs/data_format.md describes the files. A store is written by one process at a time and read by any number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..errors import ProclipError
from ..files import write_atomically
from .store_format import MANIFEST, Manifest, Shard, ShardEntry, StoreDtype, pack, unpack

LOCK = ".lock"
LOCK_SECONDS = 10.0


def caption_key(sample_key: str, column: str) -> str:
    """Key of a sample's caption: the sample's key and the caption's column."""
    return f"{sample_key}#{column}"


def text_key(text: str) -> str:
    """Key of a free text, such as a prompt: its hash."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def text_digest(text: str) -> int:
    """64 bits of a text's hash, signed: stored beside its vector, to notice that a caption has changed."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


class EmbeddingStore:
    """A store that is read. Make one with `open`.

    Args:
        folder: of the store.
        manifest: what it says of itself.
        shards: opened, in the manifest's order.
    """

    def __init__(self, folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> None:
        self.folder, self.manifest = folder, manifest
        self._shards = shards
        self._starts = np.cumsum([0] + [len(shard.keys) for shard in shards])[:-1]
        keys = (key for shard in shards for key in shard.keys)
        self._positions = {key: position for position, key in enumerate(keys)}

    @classmethod
    def open(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> EmbeddingStore:
        """Open a store; vectors stay on disk until they are asked for.

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
        return cls(folder, manifest, [Shard.open(folder, entry, manifest) for entry in manifest.shards])

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
    def keys(self) -> KeysView[str]:
        """All keys, in the order written."""
        return self._positions.keys()

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def rows(self, keys: Sequence[str]) -> Tensor:
        """Vectors by key.

        Args:
            keys: n keys, in any order, repeated or not.

        Returns:
            [n, dim] float32.

        Raises:
            ProclipError: a key is not in the store.
        """
        embeds = torch.empty(len(keys), self.dim)
        for places, shard, rows in self._find(keys):
            embeds[places] = unpack(shard.tensors, rows)
        return embeds

    def cut(self, keys: Sequence[str]) -> Tensor | None:
        """Which texts were longer than the embedder reads, by key: [n] bool; None where a shard does not say.

        Raises:
            ProclipError: a key is not in the store.
        """
        cut = torch.empty(len(keys), dtype=torch.bool)
        for places, shard, rows in self._find(keys):
            if "cut" not in shard.tensors:
                return None
            cut[places] = shard.tensors["cut"][rows]
        return cut

    def _find(self, keys: Sequence[str]) -> Iterator[tuple[Tensor, Shard, Tensor]]:
        """Shards that hold some of the keys: places among the keys [m], shard, rows of the shard [m]."""
        try:
            positions = np.fromiter((self._positions[key] for key in keys), dtype=np.int64, count=len(keys))
        except KeyError as error:
            raise ProclipError(
                f"{error.args[0]!r} is not among the {len(self)} keys of the embeddings at {self.folder}: "
                "run  proclip embed  with the recipe that needs it"
            ) from None
        shard_of = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(shard_of):
            places = np.flatnonzero(shard_of == number)
            rows = positions[places] - self._starts[number]
            yield torch.from_numpy(places), self._shards[number], torch.from_numpy(rows)

    def check(self, captions: Mapping[str, str]) -> None:
        """Refuse captions that were not embedded, or that have changed since.

        Args:
            captions: key -> text.

        Raises:
            ProclipError: a key is not in the store, or the text embedded under it is another one.
        """
        self.rows([key for key in captions if key not in self][:1])  # raises, naming the key
        digests = (digest for shard in self._shards for digest in shard.tensors["text_sha256"].tolist())
        embedded = dict(zip(self._positions, digests, strict=True))
        for key, text in captions.items():
            if embedded[key] not in (0, text_digest(text)):
                raise ProclipError(
                    f"the text of caption {key!r} has changed since it was embedded: delete {self.folder} and embed "
                    "again, or give the caption another key"
                )

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every shard whole and compare its hash.

        Args:
            progress: called with shards done and all shards.

        Raises:
            ProclipError: a shard is not what was written.
        """
        for number, entry in enumerate(self.manifest.shards, start=1):
            digest = hashlib.sha256()
            with (self.folder / entry.file).open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
            if digest.hexdigest() != entry.sha256:
                raise ProclipError(
                    f"{self.folder / entry.file} has changed since it was written (its sha256 is not the manifest's): "
                    "delete the store's folder and embed again"
                )
            if progress is not None:
                progress(number, len(self.manifest.shards))


class StoreWriter:
    """Writes a store, or goes on with one: what complete shards hold is kept, the rest is to be added again.

    Use it as a context manager; it holds the store's lock until it is closed. Rows wait in memory until they are
    a shard; closing writes the last, shorter one.

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
        from filelock import FileLock, Timeout

        self.folder, self.shard_size = Path(path), shard_size
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / LOCK)
        try:
            self._lock.acquire(timeout=wait_seconds)
        except Timeout:
            raise ProclipError(
                f"another process is writing the embeddings at {self.folder}: wait for its end"
            ) from None
        try:
            self._manifest = self._start(Manifest(identity=dict(identity), dim=dim, dtype=dtype))
            self._done: dict[str, int] = {}
            for entry in self._manifest.shards:
                shard = Shard.open(self.folder, entry, self._manifest)
                self._done.update(zip(shard.keys, shard.tensors["text_sha256"].tolist(), strict=True))
        except ProclipError:
            self._lock.release()
            raise
        self._keys: list[str] = []
        self._digests: list[int] = []
        self._embeds: list[Tensor] = []
        self._cut: list[bool | None] = []

    def _start(self, wanted: Manifest) -> Manifest:
        """The manifest of the store that is there, or a new one."""
        if (self.folder / MANIFEST).exists():
            found = Manifest.read(self.folder)
            found.check(self.folder, wanted.identity, dim=wanted.dim, dtype=wanted.dtype)
            return found
        if other := next((p.name for p in self.folder.iterdir() if not p.name.startswith(".")), None):
            raise ProclipError(f"{self.folder} is no embedding store (it holds {other!r}): choose another folder")
        wanted.write(self.folder)
        return wanted

    @property
    def identity(self) -> dict[str, Any]:
        """Of the embedder whose vectors the store takes."""
        return self._manifest.identity

    @property
    def done_keys(self) -> Mapping[str, int]:
        """Keys of all rows added, now or before, and the digest of each one's text (0 where none was given)."""
        return self._done

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
        digests = [text_digest(text) for text in texts] if texts is not None else [0] * len(keys)
        new = dict(zip(keys, digests, strict=True))
        if len(new) < len(keys) or not self._done.keys().isdisjoint(new):
            twice = next(k for n, k in enumerate(keys) if k in self._done or k in keys[:n])
            raise ProclipError(f"{twice!r} would stand twice in the embeddings at {self.folder}")
        self._done |= new
        self._keys += keys
        self._digests += digests
        self._embeds.append(embeds.detach().to("cpu", torch.float32))
        self._cut += cut.tolist() if cut is not None else [None] * len(keys)
        if len(self._keys) >= self.shard_size:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as a shard, then the manifest that names it."""
        if not self._keys:
            return
        tensors = pack(torch.cat(self._embeds), self._manifest.dtype)
        tensors["text_sha256"] = torch.tensor(self._digests, dtype=torch.int64)
        if None not in self._cut:
            tensors["cut"] = torch.tensor(self._cut)
        content = save(tensors, metadata={"keys": json.dumps(self._keys, ensure_ascii=False)})
        entry = ShardEntry(
            file=f"shard-{len(self._manifest.shards):05d}.safetensors",
            rows=len(self._keys),
            truncated=len({d or k for k, d, cut in zip(self._keys, self._digests, self._cut, strict=True) if cut}),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        write_atomically(self.folder / entry.file, content)
        self._manifest = replace(self._manifest, shards=(*self._manifest.shards, entry))
        self._manifest.write(self.folder)
        self._keys, self._digests, self._embeds, self._cut = [], [], [], []

    def close(self) -> None:
        """Write what waits and give the lock back."""
        try:
            self.flush()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()  # after an interruption too: rows that were added are complete
