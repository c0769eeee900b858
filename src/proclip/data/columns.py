"""Rows as columns of Arrow: compact in memory or mapped from disk, found by number, checked many at a time.

A row of a table costs its texts and some bytes; a Python object a row would cost kilobytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ProclipError
from ..files import replacing

V = TypeVar("V")
ROWS_A_BATCH = 4096
"""Rows of a table that are Python objects at one time."""
TEXT, TEXTS = pa.string(), pa.list_(pa.string())


class RowView(Mapping[str, V]):
    """A row's values by column, each read when it is asked for; empty cells are not there.

    Args:
        columns: arrays of n values.
        row: its number, below n.
        convert: from what Arrow gives.
    """

    def __init__(self, columns: Mapping[str, pa.ChunkedArray], row: int, convert: Any = str) -> None:
        self._columns, self._row, self._convert = columns, row, convert

    def __getitem__(self, name: str) -> V:
        value = self._columns[name][self._row].as_py()
        if value is None:
            raise KeyError(name)
        converted: V = self._convert(value)
        return converted

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._columns and bool(self._columns[name][self._row].is_valid)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._columns if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def batched(items: Iterable[V], size: int = ROWS_A_BATCH) -> Iterator[list[V]]:
    """Lists of up to `size` items."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


@contextmanager
def columns_file(path: Path) -> Iterator[IO[bytes]]:
    """A nameless file among the system's temporary ones, for the `ColumnBuilder` of a table.

    Args:
        path: of the table, for the message.

    Raises:
        ProclipError: there is no room for what is written.
    """
    try:
        with TemporaryFile() as file:
            yield file
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        message = f"{path}: {gettempdir()} has no room for its columns: let TMPDIR name another folder"
        raise ProclipError(message) from None


class ColumnBuilder:
    """Rows to columns of one type, a chunk at a time; a column that some rows lack has nothing there.

    Chunks are written to a file, from which the columns are mapped: of a table of any length no more is in memory than
    what is being read.

    Args:
        kind: of every column.
        file: a `columns_file`, for any number of builders.
    """

    def __init__(self, kind: pa.DataType, file: IO[bytes]) -> None:
        self._kind, self._schema, self._file = kind, pa.schema([("values", kind)]), file
        self._chunks: dict[str, list[slice]] = {}
        self._lengths: list[int] = []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Some more rows."""
        for name in {name: None for row in rows for name in row}:
            parts = self._chunks.setdefault(name, [self._written(pa.nulls(n, self._kind)) for n in self._lengths])
            parts.append(self._written(pa.array([row.get(name) for row in rows], self._kind)))
        self._lengths.append(len(rows))
        for parts in self._chunks.values():
            if len(parts) < len(self._lengths):
                parts.append(self._written(pa.nulls(len(rows), self._kind)))

    def columns(self) -> dict[str, pa.ChunkedArray]:
        """By name; nothing can be added afterwards."""
        if not self._chunks:
            return {}
        self._file.flush()
        mapped = pa.py_buffer(mmap(self._file.fileno(), 0, access=ACCESS_READ))
        found = {}
        for name, places in self._chunks.items():
            parts = [pa.ipc.read_record_batch(mapped[place], self._schema).column(0) for place in places]
            found[name] = pa.chunked_array(parts, self._kind)
        return found

    def _written(self, values: pa.Array) -> slice:
        """Where in the file they are."""
        start = self._file.tell()
        self._file.write(pa.record_batch([values], self._schema).serialize())
        return slice(start, self._file.tell())


def blank(texts: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Which texts are missing, empty or white space, [n] bool; 30M captions take seconds."""
    parts = [_blank(chunk) for chunk in texts.chunks]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


def _blank(texts: pa.Array) -> np.ndarray[Any, Any]:
    empty = pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts))
    found: np.ndarray[Any, Any] = pc.fill_null(empty, True).to_numpy(zero_copy_only=False)
    return found


def repeated(values: pa.ChunkedArray) -> pa.Array:
    """Values that are there more than once, in the order of their first place; empty cells do not count."""
    values = values.drop_null() if values.null_count else values
    hashes, first = np.empty(len(values), dtype=np.int64), 0  # 8 bytes a value; Arrow's own table takes 68
    for part in taken(values, None):
        hashes[first : first + len(part)] = [hash(value) for value in part.to_pylist()]
        first += len(part)
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return pa.array([], values.type)
    counts = values.value_counts()
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def places_of(values: pa.ChunkedArray, wanted: Any) -> list[int]:
    """Rows that hold a value."""
    return [int(row) for row in pc.indices_nonzero(pc.fill_null(pc.equal(values, wanted), False)).to_pylist()]


def taken(values: pa.ChunkedArray, rows: np.ndarray[Any, Any] | None) -> Iterator[pa.Array]:
    """The values of some rows (all if None), in arrays of up to `ROWS_A_BATCH`.

    Args:
        values: n of them.
        rows: [m] int64, increasing.
    """
    count = len(values) if rows is None else len(rows)
    for start in range(0, count, ROWS_A_BATCH):
        stop = min(count, start + ROWS_A_BATCH)
        if rows is None:
            part = values.slice(start, stop - start)
        else:  # of the chunks where they are: taking looks at every chunk that it is given
            own, first = rows[start:stop], int(rows[start])
            part = values.slice(first, int(rows[stop - 1]) + 1 - first).take(pa.array(own - first))
        yield part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part


def text_digest(arrays: Iterable[pa.Array]) -> bytes:
    """SHA-256 of texts in their order, wherever one array ends and the next begins: of all lengths and of all bytes."""
    of_lengths, of_texts = hashlib.sha256(), hashlib.sha256()
    for array in arrays:
        lengths = pc.fill_null(pc.binary_length(array), -1)  # -1: none
        of_lengths.update(lengths.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        whole = pc.fill_null(array, "").cast(pa.large_string())
        _, places, content = whole.buffers()
        ends = np.frombuffer(places, dtype=np.int64)[whole.offset : whole.offset + len(whole) + 1]
        if content is not None:
            of_texts.update(memoryview(content)[ends[0] : ends[-1]])
    return of_lengths.digest() + of_texts.digest()


def write_table(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """An Arrow file, there whole or not at all."""
    with replacing(path) as draft, pa.ipc.new_file(str(draft), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def map_table(path: Path) -> pa.Table:
    """An Arrow file, mapped: nothing is read before it is asked for.

    Raises:
        ProclipError: it is missing or no such file.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except FileNotFoundError:
        raise ProclipError(f"{path} is missing") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ProclipError(f"{path} is damaged ({error}): delete it and run the command that wrote it again") from None
