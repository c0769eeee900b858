"""Files of an embedding store: manifest, shards and the number formats of vectors (docs/data_format.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ProclipError
from ..files import write_json
from ..models.embedder import identity_difference
from .key_table import Ints, KeyTable, state_of
from .mapped_file import Array, map_tensors

StoreDtype = Literal["float32", "float16", "bfloat16", "int8"]
TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
STORED_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8"}
"""As safetensors names them."""
FORMAT, VERSION, FIRST_VERSION = "proclip-embeddings", 2, 1
UNKNOWN = 2
"""In ``cut``: the embedder did not say."""
AGAIN = "delete the store's folder and embed again"
MANIFEST = "manifest.json"
INT8_STEPS = 127
INT8_LARGEST_LOSS, INT8_CHECKED_ROWS = 0.5, 16
TINY = torch.finfo(torch.float32).tiny
BLOCK_BYTES = 1 << 19
"""Of vectors that are read and widened at a time: what a core's cache holds."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the manifest says of a shard."""

    file: str
    """Name in the store's folder."""
    rows: int
    """How many vectors."""
    truncated: int
    """How many of their distinct texts lost their end."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Hash of the file."""

    @classmethod
    def of(cls, path: Path, rows: int, truncated: int) -> ShardEntry:
        """What is to be said of a file that is whole."""
        return cls(file=path.name, rows=rows, truncated=truncated, bytes=path.stat().st_size, sha256=hash_of(path))


@dataclass(frozen=True, kw_only=True)
class TableEntry:
    """What the manifest says of a table of keys."""

    file: str
    """Name in the store's folder."""
    keys: int
    """How many keys."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Hash of the file."""

    @classmethod
    def of(cls, path: Path, keys: int) -> TableEntry:
        """What is to be said of a file that is whole."""
        return cls(file=path.name, keys=keys, bytes=path.stat().st_size, sha256=hash_of(path))


def hash_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store says of itself."""

    identity: dict[str, Any]
    """Of the embedder: all that shapes the vectors."""
    dim: int
    """Width of the vectors."""
    dtype: StoreDtype
    """How they are stored."""
    shards: tuple[ShardEntry, ...] = ()
    """Complete shards, oldest first."""
    tables: tuple[TableEntry, ...] = ()
    """Complete tables of keys, oldest first."""
    version: int = VERSION
    """Of the files: in the first, each shard held the keys of its rows."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a store's manifest.

        Raises:
            ProclipError: there is none, or it is of another kind or version.
        """
        path = folder / MANIFEST
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ProclipError(f"no embedding store at {folder} (it has no {MANIFEST}): run  proclip embed") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ProclipError(f"{path} is not valid JSON: {error}") from None
        found = (values.get("format"), values.get("version")) if isinstance(values, dict) else None
        if found not in ((FORMAT, VERSION), (FORMAT, FIRST_VERSION)):
            raise ProclipError(f"{path} has format and version {found}, {(FORMAT, VERSION)} is read")
        try:
            manifest = cls(
                identity=values["identity"],
                dim=values["dim"],
                dtype=values["dtype"],
                shards=tuple(ShardEntry(**entry) for entry in values["shards"]),
                tables=tuple(TableEntry(**entry) for entry in values.get("tables", ())),
                version=values["version"],
            )
        except (KeyError, TypeError) as error:
            raise ProclipError(f"{path} is damaged: {error}") from None
        if not isinstance(manifest.identity, dict) or not isinstance(manifest.dim, int):
            raise ProclipError(f"{path} is damaged: identity is a table and dim a number")
        if manifest.dtype not in TORCH_DTYPES:
            raise ProclipError(f"{path}: dtype {manifest.dtype!r} is none of {', '.join(TORCH_DTYPES)}")
        return manifest

    def write(self, folder: Path) -> None:
        """Put the manifest in the place of the last one, at once."""
        counts = {name: sum(getattr(shard, name) for shard in self.shards) for name in ("rows", "truncated")}
        keys = sum(table.keys for table in self.tables)
        values = {"format": FORMAT, "version": self.version, "keys": keys, **counts, **asdict(self)}
        write_json(folder / MANIFEST, values)

    @property
    def rows(self) -> int:
        """How many vectors."""
        return sum(shard.rows for shard in self.shards)

    @property
    def files(self) -> list[ShardEntry | TableEntry]:
        """All that it names."""
        return [*self.shards, *self.tables]

    @property
    def state(self) -> str:
        """Changes whenever a file does: what an index is made from."""
        return state_of((entry.file, entry.sha256) for entry in self.files)

    def key_tables(self, folder: Path) -> list[KeyTable]:
        """All tables of keys; those of the first version are read from its shards.

        Raises:
            ProclipError: one is damaged, or no longer there.
        """
        try:
            tables = [KeyTable.open(folder / entry.file) for entry in self.tables]
        except FileNotFoundError as error:
            raise written_since(error) from None
        if self.version == FIRST_VERSION:
            starts = np.cumsum([0, *(entry.rows for entry in self.shards)])
            tables += [_first_table(folder / e.file, int(s)) for e, s in zip(self.shards, starts, strict=False)]
        return tables

    def check_files(self, folder: Path) -> None:
        """Refuse a store of which a file is missing or cut off.

        Raises:
            ProclipError: the message names the file.
        """
        for entry in self.files:
            path = folder / entry.file
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                raise ProclipError(f"{path} is missing: {AGAIN}") from None
            if size != entry.bytes:
                raise ProclipError(f"{path} has {size} bytes, its manifest says {entry.bytes}: {AGAIN}")

    def check(self, folder: Path, identity: Mapping[str, Any], **stored: object) -> None:
        """Refuse a store that was made otherwise.

        Args:
            folder: of the store, for the message.
            identity: the embedder's, as it should be.
            stored: ``dim`` or ``dtype``, as they should be.

        Raises:
            ProclipError: the message lists the fields that differ, wanted and found.
        """
        # The embedder has a dtype of its own, so the store's is named apart.
        want = {**identity, **{f"stored {name}": value for name, value in stored.items()}}
        have = {**self.identity, **{f"stored {name}": getattr(self, name) for name in stored}}
        if differ := identity_difference(want, have):
            raise ProclipError(f"the embeddings at {folder} were made otherwise: {differ}")


def written_since(error: FileNotFoundError) -> ProclipError:
    """What is said where a store that is open has lost a file."""
    return ProclipError(
        f"{error.filename} is no longer there: if the store was written since it was opened, open it again"
    )


def pack(embeds: Tensor, dtype: StoreDtype) -> dict[str, Tensor]:
    """Vectors as they are stored.

    Args:
        embeds: [n, dim] float32.
        dtype: ``int8`` keeps each row as whole steps of its largest absolute value / 127.

    Returns:
        ``embeds`` [n, dim] and, for int8, ``scale`` [n] float32.

    Raises:
        ProclipError: a value is too large for float16, or int8 would keep little of what tells rows apart.
    """
    if dtype == "int8":
        scale = (embeds.abs().amax(1) / INT8_STEPS).clamp(min=TINY)
        shard = {"embeds": (embeds / scale.unsqueeze(1)).round().to(torch.int8), "scale": scale}
        if len(embeds) >= INT8_CHECKED_ROWS:
            _check_int8(embeds, shard)
        return shard
    packed = embeds.to(TORCH_DTYPES[dtype])
    if not bool(torch.isfinite(packed).all()):
        raise ProclipError(f"a value of {float(embeds.abs().max()):.4g} is too large for {dtype}: use bfloat16")
    return {"embeds": packed.contiguous()}


def _check_int8(embeds: Tensor, shard: Mapping[str, Tensor]) -> None:
    """Refuse vectors of which a few dimensions are so large that one scale a row rounds the others to nothing."""
    error = unpack(shard, torch.arange(len(embeds))) - embeds
    loss = float((error.std(0) / embeds.std(0).clamp(min=TINY)).median())
    if loss > INT8_LARGEST_LOSS:
        raise ProclipError(
            f"int8 would round by {loss:.2g} of the spread of a typical dimension, since a few dimensions are far "
            "larger than the rest (raw states of a causal LM are like this): use bfloat16"
        )


def unpack(shard: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Stored vectors at `rows` [n] int64, as [n, dim] float32."""
    embeds = shard["embeds"][rows].float()
    return embeds * shard["scale"][rows].unsqueeze(1) if "scale" in shard else embeds


def bits(tensor: Tensor) -> Array:
    """A packed tensor as NumPy holds it: bfloat16 by its bits."""
    plain = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return plain.numpy()


@dataclass(frozen=True)
class Shard:
    """An open shard: vectors by row, on disk."""

    embeds: Array
    """[rows, dim], as stored."""
    scale: Array | None
    """[rows] float32, of int8."""
    cut: Array | None
    """[rows]: 1 where the text was cut, `UNKNOWN` where the embedder did not say."""
    dtype: torch.dtype
    """Of the vectors."""

    @classmethod
    def open(cls, path: Path, entry: ShardEntry, manifest: Manifest) -> Shard:
        """Open a shard; its vectors stay on disk.

        Raises:
            ProclipError: it is damaged.
        """
        tensors, _ = map_tensors(path)
        embeds, dtype = tensors.get("embeds", np.empty(0)), TORCH_DTYPES[manifest.dtype]
        stored = bits(torch.empty(0, dtype=dtype)).dtype
        shape = (entry.rows, manifest.dim)
        if embeds.shape != shape or embeds.dtype != stored:
            raise ProclipError(
                f"{path} holds vectors {embeds.shape} {embeds.dtype}, its manifest says {shape} {stored}: {AGAIN}"
            )
        return cls(embeds, tensors.get("scale"), tensors.get("cut"), dtype)

    def read(self, rows: Ints, out: Tensor, places: Ints | None = None) -> None:
        """Copy rows.

        Args:
            rows: [n], of this shard.
            out: [m, dim] in which they are written: float32, or as the shard has them.
            places: [n], rows of `out` that they take; None: all of it, in order.
        """
        alike, to = self.scale is None and out.dtype == self.dtype, bits(out)
        if places is None and alike:
            np.take(self.embeds, rows, axis=0, out=to, mode="clip")
            return
        block = max(1, BLOCK_BYTES // (to.itemsize * to.shape[1]))
        held = np.empty((min(block, len(rows)), to.shape[1]), self.embeds.dtype)
        wide = held if alike else np.empty(held.shape, np.float32)
        for start in range(0, len(rows), block):
            own = rows[start : start + block]
            count = len(own)
            np.take(self.embeds, own, axis=0, out=held[:count], mode="clip")
            if not alike:
                part = torch.from_numpy(wide[:count] if places is not None else to[start : start + count])
                part.copy_(torch.from_numpy(held[:count]).view(self.dtype))
                if self.scale is not None:
                    part.mul_(torch.from_numpy(self.scale[own]).unsqueeze(1))
            if places is not None:
                to[places[start : start + count]] = wide[:count]


def _first_table(path: Path, first_row: int) -> KeyTable:
    """Keys of a shard of the first version: in its metadata, with 64 bits of the hash of each one's text."""
    tensors, metadata = map_tensors(path)
    try:
        keys, known = json.loads(metadata["keys"]), tensors["text_sha256"]
    except (KeyError, json.JSONDecodeError) as error:
        raise ProclipError(f"{path} is damaged ({error}): {AGAIN}") from None
    if len(keys) != len(tensors["embeds"]) or len(known) != len(keys):
        raise ProclipError(f"{path} holds {len(keys)} keys and {len(tensors['embeds'])} vectors: {AGAIN}")
    texts = np.stack([known, np.zeros_like(known)], axis=1)
    return KeyTable.of(keys, texts, np.arange(first_row, first_row + len(keys)))
