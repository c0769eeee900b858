"""New picture files into an index: read, told apart by content, decoded ahead of the model, encoded, committed.

Vectors go to disk first, then the catalogue says so in one transaction; what it does not say does not count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
from torch import Tensor

from ..data.in_order import in_order
from ..errors import ProclipError, one_line
from ..models.vectors import check_vectors
from .catalogue import Catalogue, NewPicture
from .encoder import Encoder
from .pictures import PictureFile, content_hash, decode
from .vectors import append

BATCH = 64
"""Pictures that the model sees at once; twice as many more wait, decoded and prepared."""
THREADS = min(16, os.cpu_count() or 1)
COMMIT_SECONDS = 5.0
"""What a killed run loses at most, beside the batch it was at."""


def encode_files(
    index: Path,
    catalogue: Catalogue,
    encoder: Encoder,
    files: list[PictureFile],
    progress: Callable[[int, int], None],
) -> int:
    """Read files, and encode the pictures among them whose content is not in the index yet.

    Args:
        index: its folder.
        catalogue: open for writing.
        encoder: the model.
        files: in any order; their pictures are numbered in it.
        progress: told how many files are done, and how many there are.

    Returns:
        how many pictures the model saw.
    """
    writer, claimed = _Writer(index, catalogue, encoder), set[str]()
    pool = ThreadPoolExecutor(THREADS)

    def claim(item: _Item) -> _Item:
        """The same, without content where a picture of it is known or on its way."""
        if item.reason:
            return item
        if item.sha256 in claimed or catalogue.has_content(item.sha256):
            return replace(item, content=b"")
        claimed.add(item.sha256)
        return item

    try:
        reads = in_order(pool, _read, files, 2 * THREADS)
        prepared = in_order(pool, lambda item: _prepared(item, encoder), map(claim, reads), 2 * BATCH)
        for done, item in enumerate(prepared, 1):
            writer.add(item)
            progress(done, len(files))
        writer.commit()
    finally:
        pool.shutdown(cancel_futures=True)
    return writer.encoded


@dataclass(frozen=True)
class _Item:
    """A file on its way into the index."""

    file: PictureFile
    content: bytes = b""
    """Until it is decoded; empty where there is no need."""
    sha256: str = ""
    reason: str = ""
    """Why it cannot be read."""
    pixels: Tensor | None = None
    picture: NewPicture | None = None


def _read(file: PictureFile) -> _Item:
    try:
        content = Path(file.path).read_bytes()
    except OSError as error:
        return _Item(file, reason=str(error.strerror))
    return _Item(file, content, content_hash(content)) if content else _Item(file, reason="the file is empty")


def _prepared(item: _Item, encoder: Encoder) -> _Item:
    if not item.content:
        return item
    try:
        picture = decode(item.content, Path(item.file.path).name)
        pixels = encoder.prepare(picture.image)
    except (ProclipError, ValueError, OSError, MemoryError) as error:
        return replace(item, content=b"", reason=one_line(error))
    width, height = picture.image.size
    about = NewPicture(item.sha256, -1, width, height, picture.taken)
    return replace(item, content=b"", pixels=pixels, picture=about)


@final
class _Writer:
    """Takes prepared pictures in the order of their files, encodes them in batches, and commits now and then."""

    def __init__(self, index: Path, catalogue: Catalogue, encoder: Encoder) -> None:
        self.catalogue, self.encoder, self.encoded = catalogue, encoder, 0
        self.rows, self.path = int(catalogue.fact("rows")), index / str(catalogue.fact("vectors"))
        self._items: list[_Item] = []
        self._batch: list[_Item] = []
        self._vectors: list[Tensor] = []
        self._pictures: list[NewPicture] = []
        self._faults: dict[str, str] = {}
        self._committed = time.monotonic()

    def add(self, item: _Item) -> None:
        """Take one; encode a batch when there is one."""
        self._items.append(replace(item, pixels=None))
        if item.reason and item.sha256:
            self._faults[item.sha256] = item.reason
        if item.pixels is not None:
            self._batch.append(item)
        if len(self._batch) == BATCH:
            self._encode()
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def _encode(self) -> None:
        pixels = [item.pixels for item in self._batch if item.pixels is not None]
        vectors = self.encoder.encode_images(pixels)
        check_vectors(vectors, [item.file.path for item in self._batch])
        for item in self._batch:
            assert item.picture is not None
            self._pictures.append(item.picture._replace(vector=self.rows + len(self._pictures)))
        self._vectors.append(vectors)
        self._batch = []

    def commit(self) -> None:
        """Encode what waits, however little it is, and commit all."""
        if self._batch:
            self._encode()
        if self._vectors:
            append(self.path, np.concatenate([part.numpy() for part in self._vectors]), self.rows)
        there, faults = list[tuple[PictureFile, str]](), list[tuple[PictureFile, str]]()
        for item in self._items:
            reason = item.reason or self._faults.get(item.sha256, "")
            faults += [(item.file, reason)] if reason else []
            there += [(item.file, item.sha256)] if not reason else []
        with self.catalogue.changing():
            self.catalogue.add_pictures(self._pictures)
            self.catalogue.add_files(there)
            self.catalogue.add_unreadable(faults)
            self.catalogue.set_fact("rows", self.rows + len(self._pictures))
        self.rows += len(self._pictures)
        self.encoded += len(self._pictures)
        self._items, self._vectors, self._pictures, self._committed = [], [], [], time.monotonic()
