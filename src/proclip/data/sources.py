"""Where captioned images come from: one form for folders, lists, tar shards and data sets of the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ProclipError
from ..models.image_files import MAX_PIXELS
from .columns import TEXTS, blank, map_table, places_of, repeated
from .hub import PREFIX, is_saved, load_hub_dataset
from .metadata import LISTS, NAMES, PATH_COLUMNS, SPECIAL, RowTable, metadata_file, read_table, row_name
from .pictures import CellPicture, FilePicture, Picture, TarPicture
from .tar_index import INDEX, OF_CAPTION, open_index, shards_of

JOINED = "joined"
"""Folder, beside the data, of caption columns that were joined to them."""
FORMS = (
    f"a folder of images with {' or '.join(NAMES)}, a list of images ({', '.join(LISTS)}), a folder of tar shards, a "
    f"folder that datasets' save_to_disk wrote or of its parquet files, or {PREFIX}ID (docs/data_format.md)"
)


@dataclass(frozen=True, eq=False)
class Source:
    """n samples of one source as columns; nothing is decoded, and no sample is an object yet."""

    where: str
    """Folder, file or hub id, for messages."""
    keys: pa.ChunkedArray
    """[n] texts, unique."""
    picture: Callable[[int], Picture]
    """Of a row."""
    picture_names: Callable[[], pa.ChunkedArray]
    """[n] names of the pictures, without folders: part of what a data set is."""
    texts: Mapping[str, pa.ChunkedArray]
    """Columns of texts."""
    lists: Mapping[str, pa.ChunkedArray]
    """Columns of lists of texts."""
    splits: pa.ChunkedArray | None = None
    """[n] lists of names; nothing or an empty list is every split."""
    urls: pa.ChunkedArray | None = None
    """[n] texts, for joining."""
    beside: Path | None = None
    """Folder of what we write beside it; None where nothing can be."""
    in_files: bool = False
    """Whether every picture is a file of its own, which may be missing."""
    in_shards: bool = False
    """Whether keys are ``SHARD/NAME``."""
    row_name: Callable[[int], str] | None = None
    """Where a row is written, for messages; None: there is no more to say than `where`."""

    def __len__(self) -> int:
        return len(self.keys)

    def in_split(self, split: str) -> np.ndarray[Any, Any] | None:
        """Rows of a split, [m] int64; None for all of them."""
        if self.splits is None:
            return None
        inside = self._named(split)
        inside[np.flatnonzero(pc.fill_null(pc.equal(pc.list_value_length(self.splits), 0), True))] = True
        return np.flatnonzero(inside)

    def outside(self, split: str) -> np.ndarray[Any, Any] | None:
        """Rows that do not name a split."""
        return None if self.splits is None else np.flatnonzero(~self._named(split))

    def _named(self, split: str) -> np.ndarray[Any, Any]:
        named, first = np.zeros(len(self), dtype=bool), 0
        assert self.splits is not None
        for chunk in self.splits.chunks:
            hits = pc.equal(pc.list_flatten(chunk), split).to_numpy(zero_copy_only=False)
            named[first + pc.list_parent_indices(chunk).to_numpy()[hits.astype(bool)]] = True
            first += len(chunk)
        return named

    def split_names(self) -> set[str]:
        """Every split that a row names."""
        return set() if self.splits is None else set(pc.unique(pc.list_flatten(self.splits)).to_pylist())

    def check_keys(self) -> None:
        """Raise `ProclipError` if a key is there twice; the message says where the second is.

        An index has none: within a shard the first sample of a name is kept, and the shard's name is part of the key.
        """
        if self.in_shards:
            return
        for key in repeated(self.keys)[:1].to_pylist():
            second = places_of(self.keys, key)[1]
            raise ProclipError(f"{self.row_name(second) if self.row_name else self.where}: key {key!r} is there twice")

    def complete(self, columns: tuple[str, ...]) -> np.ndarray[Any, Any]:
        """Which rows have a text in all of some columns, [n] bool."""
        whole = np.ones(len(self), dtype=bool)
        for column in columns:
            whole &= ~blank(self.texts[column]) if column in self.texts else False
        return whole


def open_sources(path: str, max_pixels: int = MAX_PIXELS) -> list[Source]:
    """What lies at a path, or the hub has; several sources where a data set has several splits.

    Args:
        path: a folder, a file, or ``hf:ID``.
        max_pixels: most pixels of a picture that is decoded.

    Raises:
        ProclipError: there is nothing that could be read; the message lists the forms.
    """
    if path.startswith(PREFIX):
        identifier, _, split = path.removeprefix(PREFIX).partition("#")
        return _hub(identifier, split or None, max_pixels)
    where = Path(path)
    if where.is_file() and where.suffix in LISTS:
        return [_joined(_table(where, where.parent, PATH_COLUMNS, max_pixels))]
    if where.is_dir():
        if any((where / name).is_file() for name in NAMES):
            return [_joined(_table(metadata_file(where), where, ("file_name",), max_pixels))]
        if shards_of(where):
            return [_joined(_shards(where, max_pixels))]
        if is_saved(where) or any(where.rglob("*.parquet")):
            return _hub(path, None, max_pixels)
    if where.exists() and not where.is_dir():
        raise ProclipError(f"{where} is no dataset, which is {FORMS}")
    raise ProclipError(f"no dataset at {where}: it must be {FORMS}")


def _table(path: Path, folder: Path, path_columns: tuple[str, ...], max_pixels: int) -> Source:
    table: RowTable = read_table(path, path_columns)
    files = table.files
    beside = folder / INDEX if path.name in NAMES else folder / INDEX / path.name
    return Source(
        where=str(folder if path.name in NAMES else path), keys=table.keys,
        picture=lambda row: FilePicture(folder / files[row].as_py(), max_pixels),
        picture_names=lambda: pc.replace_substring_regex(files, "^.*/", ""),
        texts=table.texts, lists=table.lists, splits=table.splits, urls=table.urls, beside=beside, in_files=True,
        row_name=lambda row: row_name(path, row),
    )  # fmt: skip


def _shards(folder: Path, max_pixels: int) -> Source:
    table, shards, counts = open_index(folder)
    starts = np.cumsum([0, *counts])
    keys, extensions = table.column("key"), table.column("extension")
    offsets, sizes = table.column("offset"), table.column("size")

    def picture(row: int) -> Picture:
        shard = shards[int(np.searchsorted(starts, row, side="right")) - 1]
        name = f"{keys[row].as_py().partition('/')[2]}.{extensions[row].as_py()}"
        return TarPicture(shard, name, offsets[row].as_py(), sizes[row].as_py(), max_pixels)

    captions = [name for name in table.column_names if name.startswith(OF_CAPTION)]
    texts = {name.removeprefix(OF_CAPTION): table.column(name) for name in captions}
    return Source(
        where=str(folder), keys=keys, picture=picture, picture_names=lambda: keys,
        texts={name: column for name, column in texts.items() if column.null_count < len(column)}, lists={},
        urls=table.column("url"), beside=folder / INDEX, in_shards=True,
    )  # fmt: skip


def _joined(source: Source) -> Source:
    """With the caption columns that ``proclip data join`` wrote beside it.

    Raises:
        ProclipError: they were written for other samples, or a column stands in the way of another.
    """
    assert source.beside is not None
    texts = dict(source.texts)
    for path in sorted((source.beside / JOINED).glob("*.arrow")):
        table = map_table(path)
        names = table.column_names
        if names[:1] != ["key"] or len(set(names)) < len(names):
            raise ProclipError(
                f"{path} has columns {', '.join(names) or 'none'}; 'key' and then captions, each once, are right: "
                "delete it and join again"
            )
        keys = table.column("key")
        if len(keys) != len(source) or not keys.equals(source.keys.cast(keys.type)):
            raise ProclipError(
                f"{source.where} has other samples than when {path} was joined: delete it and join again"
            )
        for name in names[1:]:
            if name in texts or name in source.lists:
                raise ProclipError(
                    f"{path} has a column {name!r}, which {source.where} has already: delete one of them"
                )
            texts[name] = table.column(name)
    return replace(source, texts=texts)


def _hub(identifier: str, split: str | None, max_pixels: int) -> list[Source]:
    found = load_hub_dataset(identifier, split)
    if not isinstance(found, Mapping):
        return [_dataset(identifier, found, split, max_pixels)]
    return [_dataset(identifier, dataset, str(name), max_pixels) for name, dataset in found.items()]


def _dataset(identifier: str, dataset: Any, split: str | None, max_pixels: int) -> Source:
    """Text columns are captions, the only column of pictures the pictures; keys: a column ``key``, or ``SPLIT/ROW``."""
    from datasets import Image

    where = identifier if split is None else f"{identifier}, split {split!r}"
    images = [name for name, kind in dataset.features.items() if isinstance(kind, Image)]
    if len(images) != 1:
        raise ProclipError(f"{where} has {len(images)} columns of pictures, one is wanted; it has {dataset.features}")
    if dataset._indices is not None:
        dataset = dataset.flatten_indices()
    table: pa.Table = dataset.data.table
    cells, name = table.column(images[0]), images[0]

    def picture(row: int) -> Picture:
        cell = cells[row].as_py() or {}
        if cell.get("bytes") is None and cell.get("path"):
            return FilePicture(Path(cell["path"]), max_pixels)
        return CellPicture(f"{where}, row {row}", cell.get("path") or f"{name}/{row}", cell.get("bytes") or b"",
                           max_pixels)  # fmt: skip

    if "key" in table.column_names:
        keys = table.column("key").cast(pa.string())
    else:
        keys = pa.chunked_array([[f"{split}/{row}" if split else str(row) for row in range(len(dataset))]], pa.string())
    columns = {n: table.column(n) for n in table.column_names if n not in SPECIAL and n != name}
    splits = pa.chunked_array([pa.array([[split]] * len(dataset), TEXTS)]) if split is not None else None
    return Source(
        where=where, keys=keys, picture=picture, picture_names=lambda: keys,
        texts={n: c for n, c in columns.items() if c.type in (pa.string(), pa.large_string())},
        lists={n: c for n, c in columns.items() if pa.types.is_list(c.type) and pa.types.is_string(c.type.value_type)},
        splits=splits, urls=table.column("url") if "url" in table.column_names else None,
    )  # fmt: skip
