"""A folder of images with metadata (the Hugging Face image-folder layout): one row an image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProclipError
from .metadata import Row, read_metadata

SPECIAL = ("file_name", "key", "split", "splits")
"""Columns that are no captions."""

NOT = "not "
"""Before the name of a split: every row that does not name it."""
ONE_TEXT = "a caption column holds one text an image: write each text of a list in a column of its own"


@dataclass(frozen=True)
class Sample:
    """One image and its captions."""

    key: str
    """Unique name within the dataset; the file name where the row gives none."""
    path: Path
    """The image."""
    captions: Mapping[str, str]
    """Every text column of the row."""
    caption_lists: Mapping[str, tuple[str, ...]]
    """Every column of the row that holds a list of texts."""
    splits: frozenset[str]
    """The splits it belongs to."""


class ImageCaptions:
    """Reads and checks a dataset folder.

    ``metadata.jsonl`` has one JSON object a line: ``file_name`` (relative to the folder), optionally ``key`` and
    ``splits`` (a list; or ``split``, one name; without either the row is in every split), and any number of text
    columns, each of which is a caption column; a column may also hold a list of texts, which evaluation reads.
    ``metadata.csv`` and ``metadata.parquet`` hold the same as a table.

    Args:
        folder: of the dataset.

    Raises:
        ProclipError: no such folder or metadata, a row that cannot be read, lacks ``file_name``, or repeats a key.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.samples: dict[str, Sample] = {}
        for row in read_metadata(self.folder):
            sample = self._sample(row)
            if sample.key in self.samples:
                raise ProclipError(f"{row.where}: key {sample.key!r} is there twice")
            self.samples[sample.key] = sample

    def _sample(self, row: Row) -> Sample:
        values = row.values
        splits = values.get("splits", [values["split"]] if "split" in values else [])
        if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
            raise ProclipError(f"{row.where}: 'splits' is a list of names, 'split' one name, not {splits!r}")
        columns = {name: value for name, value in values.items() if name not in SPECIAL}
        return Sample(
            key=str(values.get("key", values["file_name"])),
            path=self.folder / values["file_name"],
            captions={name: value for name, value in columns.items() if isinstance(value, str)},
            caption_lists={name: tuple(value) for name, value in columns.items() if _is_texts(value)},
            splits=frozenset(splits),
        )

    def select(self, split: str) -> list[Sample]:
        """The samples of a split, in file order; of ``not NAME``, all but those that name that split.

        Raises:
            ProclipError: there are none; the message lists the splits that exist.
        """
        other = split.removeprefix(NOT)
        if split.startswith(NOT):
            chosen = [s for s in self.samples.values() if other not in s.splits]
        else:
            chosen = [s for s in self.samples.values() if not s.splits or split in s.splits]
        if not chosen:
            known = sorted(set().union(*(s.splits for s in self.samples.values())))
            raise ProclipError(f"{self.folder}: no rows of split {split!r}; splits: {', '.join(known)}")
        return chosen

    def __getitem__(self, key: str) -> Sample:
        """The sample of that key.

        Raises:
            ProclipError: no such key.
        """
        if key not in self.samples:
            raise ProclipError(f"{self.folder}: no sample with key {key!r}")
        return self.samples[key]


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


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


def digest_of_samples(samples: Sequence[Sample], columns: Sequence[str]) -> str:
    """Hash of what a stage reads: keys, image names and some caption columns, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        captions = [sample.captions.get(column) for column in columns]
        digest.update(json.dumps([sample.key, sample.path.name, captions]).encode())
    return digest.hexdigest()[:16]


def check_images(samples: Sequence[Sample]) -> None:
    """Raise `ProclipError` for the first sample whose image file is not there."""
    for sample in samples:
        if not sample.path.is_file():
            raise ProclipError(f"sample {sample.key!r}: image {sample.path} is missing")


def check_captions(samples: Sequence[Sample], columns: Sequence[str]) -> None:
    """Raise `ProclipError` for the first sample that lacks one of the columns."""
    for sample in samples:
        for column in columns:
            caption_of(sample, column)
