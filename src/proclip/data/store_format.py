"""Files of an embedding store: manifest, shards and the number formats of vectors (docs/data_format.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ProclipError
from ..files import write_json
from ..models.embedder import identity_difference

StoreDtype = Literal["float32", "float16", "bfloat16", "int8"]
TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
FORMAT, VERSION = "proclip-embeddings", 1
MANIFEST = "manifest.json"
INT8_STEPS = 127
INT8_LARGEST_LOSS, INT8_CHECKED_ROWS = 0.5, 16
TINY = torch.finfo(torch.float32).tiny


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
        if found != (FORMAT, VERSION):
            raise ProclipError(f"{path} has format and version {found}, {(FORMAT, VERSION)} is read")
        try:
            shards = tuple(ShardEntry(**entry) for entry in values["shards"])
            manifest = cls(identity=values["identity"], dim=values["dim"], dtype=values["dtype"], shards=shards)
        except (KeyError, TypeError) as error:
            raise ProclipError(f"{path} is damaged: {error}") from None
        if manifest.dtype not in TORCH_DTYPES:
            raise ProclipError(f"{path}: dtype {manifest.dtype!r} is none of {', '.join(TORCH_DTYPES)}")
        return manifest

    def write(self, folder: Path) -> None:
        """Put the manifest in the place of the last one, at once."""
        counts = {name: sum(getattr(shard, name) for shard in self.shards) for name in ("rows", "truncated")}
        values = {"format": FORMAT, "version": VERSION, **counts, **asdict(self)}
        write_json(folder / MANIFEST, values)

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


@dataclass(frozen=True)
class Shard:
    """An open shard."""

    keys: list[str]
    """Of its rows."""
    tensors: dict[str, Tensor]
    """Memory-mapped: reading a row reads that row."""

    @classmethod
    def open(cls, folder: Path, entry: ShardEntry, manifest: Manifest) -> Shard:
        """Open a shard; its vectors stay on disk.

        Raises:
            ProclipError: it is missing, truncated or damaged.
        """
        path = folder / entry.file
        again = "delete the store's folder and embed again"
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise ProclipError(f"{path} is missing: {again}") from None
        if size != entry.bytes:
            raise ProclipError(f"{path} has {size} bytes, its manifest says {entry.bytes}: {again}")
        try:
            with safe_open(path, framework="pt") as file:
                keys = json.loads((file.metadata() or {})["keys"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ProclipError(f"{path} is damaged ({error}): {again}") from None
        embeds = tensors.get("embeds", torch.empty(0))
        shape, dtype = (entry.rows, manifest.dim), TORCH_DTYPES[manifest.dtype]
        if tuple(embeds.shape) != shape or embeds.dtype != dtype or len(keys) != entry.rows:
            raise ProclipError(
                f"{path} holds {len(keys)} keys and vectors {tuple(embeds.shape)} {embeds.dtype}, "
                f"its manifest says {shape} {dtype}: {again}"
            )
        return cls(keys, tensors)
