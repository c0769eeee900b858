"""Captions from a table to the samples they belong to, matched by URL or key, never by order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ProclipError
from ..files import make_folder
from .columns import ROWS_A_BATCH, map_table, repeated, write_table
from .metadata import PATH_COLUMNS, SPECIAL, read_text_columns
from .sources import JOINED, Source

FIRST = 5
"""Values that a message names."""
NAME = re.compile(r"\w[\w.-]*")
"""What a new column may be called: a name that is part of a file's name, too."""
LONGEST_NAME = 200
"""Bytes of a file's name; most systems take 255."""
TAKEN = frozenset((*SPECIAL, *PATH_COLUMNS))
"""Names that mean something else."""
LARGE = pa.large_string()


@dataclass(frozen=True)
class Joined:
    """How a join went."""

    file: Path
    """What was written."""
    samples: int
    """Of the data set."""
    matched: int
    """Samples that have a row."""
    rows: int
    """Of the table."""
    used: int
    """Rows that a sample has."""
    repeated: int
    """Rows that say the same as an earlier one."""
    first_unmatched: tuple[str, ...]
    """The first keys of samples without a row."""


def new_columns(text: str) -> dict[str, str]:
    """The columns that ``NEW[=OLD],...`` names: new name to the table's column.

    Raises:
        ProclipError: there is none; a name is missing, twice there, taken, or of other characters than letters, digits,
            ``_``, ``.`` and ``-``.
    """
    columns: dict[str, str] = {}
    for entry in text.split(","):
        new, given, old = entry.partition("=")
        if not new or (given and not old):
            raise ProclipError(f"--columns is NEW[=OLD],..., names of columns, not {text!r}")
        if not NAME.fullmatch(new):
            raise ProclipError(f"--columns: a new column has a name of letters, digits, _, . and -, not {new!r}: "
                               "give it one, NEW=OLD")  # fmt: skip
        if new in TAKEN:
            raise ProclipError(f"--columns: {new!r} is no name for captions (nor is any of {', '.join(sorted(TAKEN))}):"
                               " give another, NEW=OLD")  # fmt: skip
        if new in columns:
            raise ProclipError(f"--columns names {new!r} twice: give each column a name of its own, NEW=OLD")
        columns[new] = old or new
    return columns


def join(source: Source, table: Path, on: tuple[str, str], columns: Mapping[str, str]) -> Joined:
    """Write caption columns beside a source; archives, metadata and pictures stay as they are.

    The file has the samples' keys beside the texts, so that a data set that has changed since is noticed.

    Args:
        source: n samples.
        table: ``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl``.
        on: ``url`` or ``key``, and the table's column that has it. Of shards' keys the part after the shard is enough.
        columns: new name, as `new_columns` allows it, to the table's column.

    Raises:
        ProclipError: nothing can be written there, there is no such table or column, no row, no URL, or a caption
            column of that name already; rows of one URL or key say different things; or nothing matches.
    """
    if source.beside is None:
        raise ProclipError(f"{source.where} is not a folder or list of one's own: nothing can be written beside it")
    file = source.beside / JOINED / f"{_file_name(columns)}.arrow"
    own = map_table(file).column_names if file.is_file() else []
    if taken := [n for n in columns if n in source.lists or (n in source.texts and n not in own)]:
        raise ProclipError(f"{source.where} has a caption column {taken[0]!r}: give the new one another name, NEW=OLD")
    found = read_text_columns(table, list(dict.fromkeys([on[1], *columns.values()])))
    _check_repeats(table, found, on[1])
    values = pc.cast(found.column(on[1]), LARGE).combine_chunks()
    places = _places(source, on[0], values)
    matched = int(pc.sum(pc.is_valid(places)).as_py() or 0)
    if not matched:
        ours = (source.urls if on[0] == "url" and source.urls else source.keys)[0].as_py()
        raise ProclipError(
            f"no row of {table} belongs to a sample of {source.where}: its {on[1]!r} is such as {values[0].as_py()!r}, "
            f"the samples' {on[0]} such as {ours!r}"
        )
    make_folder(file.parent)
    schema = pa.schema([("key", source.keys.type), *((name, LARGE) for name in columns)])
    write_table(file, schema, _batches(source, places, found, columns, schema))
    absent = np.flatnonzero(pc.is_null(places).to_numpy(zero_copy_only=False))
    return Joined(
        file=file, samples=len(source), matched=matched, rows=len(values), used=pc.count_distinct(places).as_py(),
        repeated=len(values) - pc.count_distinct(values, mode="all").as_py(),
        first_unmatched=tuple(str(source.keys[int(row)].as_py()) for row in absent[:FIRST]),
    )  # fmt: skip


def _places(source: Source, on: str, values: pa.Array) -> pa.Array:
    """For each sample the row of the table, [n] int32, null for none."""
    if on == "url":
        if source.urls is None or source.urls.null_count == len(source.urls):
            raise ProclipError(f"{source.where} has no URLs: join it by key, or give its metadata a column url")
        return _index(source.urls, values)
    places = _index(source.keys, values)
    if not source.in_shards:
        return places
    names = pc.replace_substring_regex(source.keys, "^[^/]*/", "")
    by_name = _index(names, values)
    used = names.filter(pc.and_(pc.is_valid(by_name), pc.is_null(places)))
    several = repeated(names)
    several = several.filter(pc.is_in(several, value_set=used.combine_chunks()))
    if len(several):
        raise ProclipError(
            f"{source.where}: {several[0].as_py()!r} is in several shards ({len(several):,} such names): "
            f"the table must say SHARD/{several[0].as_py()}"
        )
    return pc.coalesce(places, by_name)


def _index(ours: pa.ChunkedArray, values: pa.Array) -> pa.Array:
    found = pc.index_in(ours.cast(LARGE), value_set=values, skip_nulls=True)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _file_name(columns: Iterable[str]) -> str:
    """By the columns' names; by their hash where file systems would refuse that."""
    name = "+".join(sorted(columns))
    return name if len(name.encode()) <= LONGEST_NAME else sha256(name.encode()).hexdigest()[:16]


def _check_repeats(path: Path, table: pa.Table, on: str) -> None:
    """Raise `ProclipError` if rows of one key differ; rows that say the same are one."""
    twice = repeated(table.column(on))
    if not len(twice):
        return
    rows = table.filter(pc.is_in(table.column(on), value_set=twice.cast(table.column(on).type)))
    several = repeated(pa.chunked_array([rows.group_by(rows.column_names).aggregate([]).column(on).combine_chunks()]))
    if len(several):
        named = ", ".join(repr(value) for value in several[:FIRST].to_pylist())
        raise ProclipError(f"{path}: {len(several):,} values of {on!r} have rows with different captions: {named}")


def _batches(
    source: Source, places: pa.Array, table: pa.Table, columns: Mapping[str, str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    whole = [_one(table.column(old).cast(LARGE)) for old in columns.values()]  # taking looks at every chunk, each time
    for start in range(0, len(source), ROWS_A_BATCH):
        chosen = places.slice(start, ROWS_A_BATCH)
        keys = source.keys.slice(start, ROWS_A_BATCH)
        yield pa.RecordBatch.from_arrays([_one(keys), *(texts.take(chosen) for texts in whole)], schema=schema)


def _one(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
