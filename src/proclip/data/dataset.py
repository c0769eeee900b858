"""The door to captioned images: whatever their source, a sequence of samples that are made when they are asked for."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, final, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import distributed
from ..config import DataConfig, MixtureConfig
from ..errors import ProclipError
from .columns import RowView, batched, places_of, repeated, taken, text_digest
from .pictures import Picture
from .sources import Source, open_sources

NOT = "not "
"""Before the name of a split: every row that does not name it."""
ONE_TEXT = "a caption column holds one text an image: write each text of a list in a column of its own"


@dataclass(frozen=True)
class Sample:
    """One image and its captions."""

    key: str
    """Unique name within the dataset; the file name where the row gives none."""
    picture: Picture
    """The image, not decoded."""
    captions: Mapping[str, str]
    """Every text column of the row."""
    caption_lists: Mapping[str, tuple[str, ...]]
    """Every column of the row that holds a list of texts."""
    splits: frozenset[str]
    """The splits it belongs to."""

    def stamp(self) -> str:
        """Changes when the picture does, as far as `Picture.stamp` sees; no two samples have the same.

        Raises:
            ProclipError: the picture is missing.
        """
        return hashlib.sha256(f"{self.key}: {self.picture.stamp()}".encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of one source."""

    source: Source
    """Where they are."""
    rows: np.ndarray[Any, Any] | None
    """[m] int64, their numbers; None: all of them."""
    weight: float = 1.0
    """How often each is drawn in an epoch."""

    def __len__(self) -> int:
        return len(self.source) if self.rows is None else len(self.rows)

    def column(self, column: str) -> pa.ChunkedArray:
        """A caption column of the source, empty where it has none."""
        texts = self.source.texts
        return texts[column] if column in texts else pa.chunked_array([pa.nulls(len(self.source), pa.string())])

    def row(self, number: int) -> int:
        """Its source's row, of a number below its length."""
        return number if self.rows is None else int(self.rows[number])

    def sample(self, number: int) -> Sample:
        """The sample of a number below its length."""
        source, row = self.source, self.row(number)
        splits = source.splits[row].as_py() if source.splits is not None else None
        return Sample(
            key=source.keys[row].as_py(),
            picture=source.picture(row),
            captions=RowView(source.texts, row),
            caption_lists=RowView(source.lists, row, tuple),
            splits=frozenset(splits or ()),
        )


@final
class Samples(Sequence[Sample]):
    """n samples of one source or several, one after another; each is made when it is asked for and then forgotten.

    Args:
        parts: what is in it.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        self._digests: dict[tuple[str, ...], str] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> Samples: ...
    def __getitem__(self, place: int | slice) -> Sample | Samples:
        if isinstance(place, slice):
            return self.only(np.arange(*place.indices(len(self))))
        part, number = self._part(place)
        return part.sample(number)

    def __iter__(self) -> Iterator[Sample]:
        for part in self.parts:
            yield from (part.sample(number) for number in range(len(part)))

    def caption(self, place: int, column: str) -> tuple[str, str]:
        """Key and caption of a sample, without the rest of it.

        Raises:
            ProclipError: no such column, or an empty caption.
        """
        part, number = self._part(place)
        row, texts = part.row(number), part.source.texts.get(column)
        text = texts[row].as_py() if texts is not None else None
        if not text or text.isspace():
            text = caption_of(part.sample(number), column)
        return part.source.keys[row].as_py(), text

    def _part(self, place: int) -> tuple[Part, int]:
        """Where the sample of a place is: its part, and its number there."""
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(place)
        part = bisect_right(self._ends, number)
        return self.parts[part], number - (self._ends[part - 1] if part else 0)

    def only(self, places: np.ndarray[Any, Any]) -> Samples:
        """Some of the samples: places [m], increasing."""
        parts, first = [], 0
        for part, end in zip(self.parts, self._ends, strict=True):
            own = places[(places >= first) & (places < end)] - first
            parts.append(replace(part, rows=own if part.rows is None else part.rows[own]))
            first = end
        return Samples([part for part in parts if len(part)])

    def keys(self) -> Iterator[str]:
        """Of every sample."""
        for part in self.parts:
            for keys in taken(part.source.keys, part.rows):
                yield from keys.to_pylist()

    def captions(self, columns: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
        """Key, column and text of every caption, sample by sample; None where there is no such text."""
        for part in self.parts:
            arrays = [taken(values, part.rows) for values in (part.source.keys, *map(part.column, columns))]
            for keys, *texts in zip(*arrays, strict=True):
                for key, *of_key in zip(keys.to_pylist(), *(t.to_pylist() for t in texts), strict=True):
                    yield from ((key, column, text) for column, text in zip(columns, of_key, strict=True))

    def first_incomplete(self, columns: Sequence[str]) -> int | None:
        """Place of the first sample that lacks a text in one of the columns, None if every one has all."""
        first = 0
        for part in self.parts:
            whole = part.source.complete(tuple(columns))
            absent = np.flatnonzero(~(whole if part.rows is None else whole[part.rows]))
            if len(absent):
                return first + int(absent[0])
            first += len(part)
        return None

    def complete_columns(self) -> list[str]:
        """The caption columns in which every sample has a text, in the order of the first source."""
        columns = list(self.parts[0].source.texts) if self.parts else []
        return [column for column in columns if self.first_incomplete([column]) is None]

    def digest(self, columns: Sequence[str]) -> str:
        """Hash of keys, names of pictures and some caption columns, in order: 16 hexadecimal digits."""
        if (known := self._digests.get(tuple(columns))) is not None:
            return known
        digest = hashlib.sha256()
        for part in self.parts:
            arrays = (part.source.keys, part.source.picture_names(), *map(part.column, columns))
            for values in arrays:
                digest.update(text_digest(taken(values, part.rows)))
            if part.weight != 1:
                digest.update(repr(part.weight).encode())
        self._digests[tuple(columns)] = found = digest.hexdigest()[:16]
        return found


class ImageCaptions:
    """Reads and checks a data set: docs/data_format.md has its forms.

    ``metadata.jsonl`` has one JSON object a line: ``file_name`` (relative to the folder), optionally ``key`` and
    ``splits`` (a list; or ``split``, one name; without either the row is in every split), and any number of text
    columns, each of which is a caption column; a column may also hold a list of texts, which evaluation reads.
    ``metadata.csv`` and ``metadata.parquet`` hold the same as a table. Lists, tar shards and data sets of the hub have
    the same columns.

    Args:
        dataset: folder, file or ``hf:ID``; or several, with weights.
        max_pixels: most pixels of a picture that is decoded.
        incomplete: whether `select` refuses or leaves out rows that lack a caption that is asked for.

    Raises:
        ProclipError: no such data set, a row that cannot be read, lacks its picture's name, or repeats a key.
    """

    def __init__(
        self,
        dataset: str | Path | Sequence[MixtureConfig],
        *,
        max_pixels: int = DataConfig.max_pixels,
        incomplete: str = "refuse",
    ) -> None:
        mixture = [MixtureConfig(path=str(dataset))] if isinstance(dataset, (str, Path)) else list(dataset)
        self.folder, self.incomplete = Path(mixture[0].path), incomplete
        parts = [
            Part(_named(source, one.name), None, one.weight)
            for one in mixture
            for source in open_sources(one.path, max_pixels)
        ]
        for part in parts:
            part.source.check_keys()
        if len(parts) > 1:
            _check_keys([part.source for part in parts])
        pa.default_memory_pool().release_unused()  # the keys' hashes, which it keeps otherwise
        self.samples = Samples(parts)
        self._selected: dict[tuple[str, tuple[str, ...]], Samples] = {}

    @classmethod
    def of(cls, config: DataConfig) -> ImageCaptions:
        """The data set of a recipe."""
        return cls(config.sources, max_pixels=config.max_pixels, incomplete=config.incomplete)

    @property
    def splits(self) -> list[str]:
        """Every split that a row names, by name."""
        return sorted(set[str]().union(*(part.source.split_names() for part in self.samples.parts)))

    def select(self, split: str, captions: Sequence[str] = ()) -> Samples:
        """The samples of a split, in the order of the data; of ``not NAME``, all but those that name that split.

        Args:
            split: its name.
            captions: columns that are going to be read; where incomplete rows are left out, each row has a text in all.

        Raises:
            ProclipError: there are none; the message lists the splits that exist.
        """
        if (known := self._selected.get((split, tuple(captions)))) is not None:
            return known
        other, parts = split.removeprefix(NOT), []
        for part in self.samples.parts:
            rows = part.source.outside(other) if split.startswith(NOT) else part.source.in_split(split)
            if self.incomplete == "leave_out" and captions:
                whole = part.source.complete(tuple(captions))
                rows = np.flatnonzero(whole) if rows is None else rows[whole[rows]]
            parts.append(replace(part, rows=rows))
        samples = Samples([part for part in parts if len(part)])
        if not len(samples):
            lacking = f" with a text in each of {', '.join(captions)}" if self.incomplete == "leave_out" else ""
            raise ProclipError(
                f"{self.folder}: no rows of split {split!r}{lacking}; splits: {', '.join(self.splits) or 'none'}"
            )
        self._selected[split, tuple(captions)] = samples
        return samples

    def __getitem__(self, key: str) -> Sample:
        """The sample of that key.

        Raises:
            ProclipError: no such key.
        """
        first = 0
        for part in self.samples.parts:
            if rows := places_of(part.source.keys, key):
                return self.samples[first + rows[0]]
            first += len(part)
        raise ProclipError(f"{self.folder}: no sample with key {key!r}")


def _named(source: Source, name: str | None) -> Source:
    if name is None:
        return source
    keys = pa.chunked_array(
        [pc.binary_join_element_wise(pa.scalar(name, chunk.type), chunk, pa.scalar("/", chunk.type))
         for chunk in source.keys.chunks],
        source.keys.type,
    )  # fmt: skip
    return replace(source, keys=keys)


def _check_keys(sources: Sequence[Source]) -> None:
    keys = pa.chunked_array([chunk.cast(pa.large_string()) for source in sources for chunk in source.keys.chunks])
    if twice := repeated(keys)[:1].to_pylist():
        where = [source.where for source in sources if places_of(source.keys, twice[0])]
        raise ProclipError(f"key {twice[0]!r} is in {' and in '.join(where)}: give each a name (data.dataset: name)")


def caption_of(sample: Sample, column: str) -> str:
    """The sample's caption.

    Raises:
        ProclipError: no such column (the message lists those there are), or an empty caption.
    """
    if column in sample.caption_lists:
        raise ProclipError(f"sample {sample.key!r}: {column!r} holds a list; {ONE_TEXT}")
    if column not in sample.captions:
        columns = ", ".join(sorted(sample.captions)) or "none"
        raise ProclipError(f"sample {sample.key!r} has no caption column {column!r}; columns: {columns}")
    text = sample.captions[column]
    if not text.strip():
        raise ProclipError(f"sample {sample.key!r}: caption {column!r} is empty")
    return text


def check_images(samples: Samples) -> None:
    """Raise `ProclipError` for the first sample whose image file is not there; members of archives were indexed.

    Of several processes each looks for its share.
    """
    with ThreadPoolExecutor() as pool:
        for part in samples.parts:
            numbers = range(distributed.rank(), len(part) if part.source.in_files else 0, distributed.world_size())
            for chunk in batched(numbers):
                for fault in filter(None, pool.map(_missing_file, map(part.sample, chunk))):
                    raise ProclipError(fault)


def _missing_file(sample: Sample) -> str:
    there = sample.picture.path is None or sample.picture.path.is_file()
    return "" if there else f"sample {sample.key!r}: image {sample.picture} is missing"


def check_captions(samples: Samples, columns: Sequence[str]) -> None:
    """Raise `ProclipError` for the first sample that lacks one of the columns."""
    place = samples.first_incomplete(columns)
    if place is not None:
        for column in columns:
            caption_of(samples[place], column)
