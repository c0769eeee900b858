"""What is wrong with a data set, found before a training finds it: counts, and the first ids of each kind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, UnidentifiedImageError

from ..errors import ProclipError, one_line
from ..models.image_files import MAX_PIXELS, size_fault
from .columns import blank, repeated
from .pictures import Picture
from .sources import Source
from .tar_index import read_about, shards_of, unfinished

FIRST = 10
"""Ids of a kind that a report lists."""
MIN_SIDE = 16
"""A picture with a shorter side is tiny."""
DIGEST_BYTES = 16


@dataclass
class Found:
    """One kind of fault."""

    count: int = 0
    """How often."""
    first: list[str] = field(default_factory=list)
    """The first of them: key, and what was seen."""

    def add(self, lines: Sequence[str], count: int | None = None) -> None:
        """Some more; `count` where not all are given."""
        self.count += len(lines) if count is None else count
        self.first += lines[: FIRST - len(self.first)]


@dataclass(frozen=True)
class Inspected:
    """A picture as it was found."""

    fault: str
    """Kind of fault, "" for none."""
    why: str
    """What was seen."""
    digest: bytes
    """Of its bytes; empty where there are none."""


def check_source(
    source: Source,
    columns: Sequence[str] = (),
    min_side: int = MIN_SIDE,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Found]:
    """Decode every picture of a source and look at every caption.

    16 bytes a picture stay in memory, to find equal ones.

    Args:
        source: n samples.
        columns: caption columns that every sample should have; all that there are if empty.
        min_side: pixels; a picture with a shorter side is tiny.
        workers: threads.
        progress: called with pictures done and all of them.

    Returns:
        what was found, by kind; empty if nothing was.
    """
    found: dict[str, Found] = {}
    _check_keys(source, found)
    for column in columns or source.texts:
        _check_captions(source, column, found)
    digests = np.zeros((len(source), DIGEST_BYTES), dtype=np.uint8)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(source), 1024):
            rows = range(start, min(start + 1024, len(source)))
            for row, seen in zip(rows, pool.map(lambda row: inspect(source.picture(row), min_side), rows), strict=True):
                if seen.fault:
                    line = f"{source.keys[row].as_py()}: {seen.why}"
                    found.setdefault(seen.fault, Found()).add([line])
                digests[row] = np.frombuffer(seen.digest or bytes(DIGEST_BYTES), dtype=np.uint8)
            if progress is not None:
                progress(rows.stop, len(source))
    _check_twins(source, digests, found)
    return found


def check_shards(folder: Path) -> dict[str, Found]:
    """What the indexes of a folder's shards say, and shards that are not finished."""
    found: dict[str, Found] = {}
    for shard in shards_of(folder):
        about = read_about(shard)
        for fault in about.first_faults:
            found.setdefault(fault.kind, Found()).add([f"{fault.key}: {fault.why}"])
        if more := about.faults - len(about.first_faults):
            found.setdefault("more faults of a shard", Found()).add([f"{shard.name}: {more:,}"], more)
    if names := unfinished(folder):
        found["unfinished shard"] = Found(len(names), names[:FIRST])
    return found


def inspect(picture: Picture, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS) -> Inspected:
    """Decode one picture and say what is wrong with it."""
    try:
        content = picture.content()
    except ProclipError as error:
        return Inspected("missing", str(error), b"")
    digest = hashlib.sha256(content).digest()[:DIGEST_BYTES]
    fault, why = _decoding_fault(content, min_side, max_pixels)
    return Inspected(fault, why, digest)


def _decoding_fault(content: bytes, min_side: int, max_pixels: int) -> tuple[str, str]:
    if not content:
        return "no image", "the file is empty"
    try:
        with Image.open(BytesIO(content)) as image:
            if fault := size_fault(image.size, max_pixels):
                return "huge" if image.width * image.height > max_pixels else "odd shape", fault
            if min(image.size) < min_side:
                return "tiny", f"it has {image.width} x {image.height} pixels"
            image.load()
    except UnidentifiedImageError:
        return "no image", f"it begins with {content[:16]!r}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return "huge", str(error)
    except Exception as error:  # decoders raise whatever a broken file leads them to
        why = one_line(error)
        return "truncated" if "truncated" in why.lower() else "unreadable", why
    return "", ""


def _check_keys(source: Source, found: dict[str, Found]) -> None:
    twice = repeated(source.keys)
    if len(twice):
        found["duplicate key"] = Found(len(twice), [f"{key}: more than one row" for key in twice[:FIRST].to_pylist()])


def _check_captions(source: Source, column: str, found: dict[str, Found]) -> None:
    if column not in source.texts:
        raise ProclipError(f"{source.where} has no caption column {column!r}; columns: {', '.join(source.texts)}")
    rows = np.flatnonzero(blank(source.texts[column]))
    if len(rows):
        first = [str(source.keys[int(row)].as_py()) for row in rows[:FIRST]]
        found[f"no caption: {column}"] = Found(len(rows), first)


def _check_twins(source: Source, digests: np.ndarray[Any, Any], found: dict[str, Found]) -> None:
    """Pictures of equal bytes; the count is of those beside the first of each."""
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), len(digests), [None, pa.py_buffer(digests)])
    some = pc.not_equal(values, pa.scalar(bytes(DIGEST_BYTES), values.type))
    counts = values.filter(some).value_counts()
    twins = counts.filter(pc.greater(counts.field("counts"), 1))
    if not len(twins):
        return
    lines = []
    for value in twins.field("values")[:FIRST]:
        rows = np.flatnonzero(pc.equal(values, value).to_numpy(zero_copy_only=False))
        lines.append(" = ".join(str(source.keys[int(row)].as_py()) for row in rows[:3]))
    found["duplicate picture"] = Found(pc.sum(twins.field("counts")).as_py() - len(twins), lines)
