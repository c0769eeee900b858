"""A folder of images with ``metadata.jsonl`` (the Hugging Face image-folder layout): one row an image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProclipError


@dataclass(frozen=True)
class Sample:
    """One image and its captions."""

    key: str
    """Unique name within the dataset; the file name where the row gives none."""
    path: Path
    """The image."""
    captions: Mapping[str, str]
    """Every text column of the row."""
    splits: frozenset[str]
    """The splits it belongs to."""


class ImageCaptions:
    """Reads and checks a dataset folder.

    ``metadata.jsonl`` has one JSON object a line: ``file_name`` (relative to the folder), optionally ``key`` and
    ``splits`` (a list; or ``split``, one name; without either the row is in every split), and any number of text
    columns, each of which is a caption column.

    Args:
        folder: of the dataset.

    Raises:
        ProclipError: no such folder or metadata, a row that is not JSON, lacks ``file_name``, or repeats a key.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        metadata = self.folder / "metadata.jsonl"
        if not metadata.is_file():
            raise ProclipError(f"no dataset at {self.folder}: {metadata} is missing")
        self.samples: dict[str, Sample] = {}
        try:
            lines = metadata.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: texts may hold U+2028
        except UnicodeDecodeError as error:
            raise ProclipError(f"{metadata} is not UTF-8: {error}") from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                sample = self._parse(line, f"{metadata}, line {number}")
                if sample.key in self.samples:
                    raise ProclipError(f"{metadata}, line {number}: key {sample.key!r} is there twice")
                self.samples[sample.key] = sample
        if not self.samples:
            raise ProclipError(f"{metadata} has no rows")

    def _parse(self, line: str, where: str) -> Sample:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ProclipError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise ProclipError(f"{where}: a row is an object with a 'file_name'")
        splits = row.get("splits", [row["split"]] if "split" in row else [])
        if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
            raise ProclipError(f"{where}: 'splits' is a list of names, 'split' one name, not {splits!r}")
        special = ("file_name", "key", "split", "splits")
        captions = {k: v for k, v in row.items() if isinstance(v, str) and k not in special}
        return Sample(
            str(row.get("key", row["file_name"])), self.folder / row["file_name"], captions, frozenset(splits)
        )

    def select(self, split: str) -> list[Sample]:
        """The samples of a split, in file order.

        Raises:
            ProclipError: there are none; the message lists the splits that exist.
        """
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


def caption_of(sample: Sample, column: str) -> str:
    """The sample's caption.

    Raises:
        ProclipError: no such column (the message lists those there are), or an empty caption.
    """
    if column not in sample.captions:
        raise ProclipError(
            f"sample {sample.key!r} has no caption column {column!r} (a column holds one text an image, not a list); "
            f"columns: {', '.join(sorted(sample.captions))}"
        )
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
