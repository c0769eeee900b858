"""Tables of captioned images, read alike: an image folder's metadata, and lists that name pictures anywhere.

``.jsonl``, ``.csv``, ``.tsv`` and ``.parquet``. Text formats go through Python row by row, some microseconds each, and
become columns of Arrow, mapped from a nameless file where the system has its temporary ones (TMPDIR). Parquet becomes
columns in memory, at once.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ..errors import ProclipError
from ..files import parse_json
from .columns import TEXT, TEXTS, ColumnBuilder, batched, columns_file

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Files of which a folder of images holds one."""
LISTS = (".csv", ".tsv", ".parquet", ".jsonl")
"""Endings of lists of pictures."""
FILE_NAME = "file_name"
PATH_COLUMNS = (FILE_NAME, "filepath", "image_path", "image", "path")
"""Columns of a list that may hold the picture's path; the first that is there does."""
SPECIAL = (FILE_NAME, "key", "split", "splits", "url")
"""Columns that are no captions."""
CSV_CELL = 1 << 24
"""Longest cell of a CSV file, characters."""


@dataclass(frozen=True)
class Row:
    """One image's row."""

    where: str
    """File and line, for messages."""
    values: dict[str, Any]
    """Values by column; empty cells are left out."""


@dataclass(frozen=True, eq=False)
class RowTable:
    """A table of captioned images, n rows, as columns."""

    keys: pa.ChunkedArray
    """[n] texts, which should be unique."""
    files: pa.ChunkedArray
    """[n] paths of the pictures, as the table has them."""
    splits: pa.ChunkedArray | None
    """[n] lists of names; nothing or an empty list is every split."""
    urls: pa.ChunkedArray | None
    """[n] texts: where each picture came from."""
    texts: dict[str, pa.ChunkedArray]
    """Columns of texts."""
    lists: dict[str, pa.ChunkedArray]
    """Columns of lists of texts."""


def metadata_file(folder: Path) -> Path:
    """The folder's metadata file.

    Raises:
        ProclipError: there is none, or more than one.
    """
    present = [folder / name for name in NAMES if (folder / name).is_file()]
    if not present:
        raise ProclipError(
            f"no dataset at {folder}: {folder / NAMES[0]} is missing ({' or '.join(NAMES[1:])} would do as well)"
        )
    if len(present) > 1:
        raise ProclipError(f"{folder} holds {' and '.join(path.name for path in present)}: one of them must go")
    return present[0]


def read_table(path: Path, path_columns: Sequence[str] = (FILE_NAME,)) -> RowTable:
    """Every row of a table, in order.

    A CSV cell that is a JSON list is read as that list; all other cells are texts. A row's key is its path where it
    has none of its own.

    Args:
        path: ``.jsonl``, ``.csv``, ``.tsv`` (tabs) or ``.parquet``.
        path_columns: of which the first that is there names the picture.

    Raises:
        ProclipError: not UTF-8, a row that is not an object or names no picture, or no rows.
    """
    return _from_parquet(path, path_columns) if path.suffix == ".parquet" else _from_rows(path, path_columns)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a ``.jsonl``, ``.csv`` or ``.tsv`` file, one at a time.

    Raises:
        ProclipError: not UTF-8, or a line is not what the format wants.
    """
    try:
        yield from _json_lines(path) if path.suffix == ".jsonl" else _csv(path, "\t" if path.suffix == ".tsv" else ",")
    except UnicodeDecodeError as error:
        raise ProclipError(f"{path} is not UTF-8: {error}") from None


def row_name(path: Path, row: int) -> str:
    """Where a table's row is written, for messages."""
    if path.suffix == ".parquet":
        return f"{path}, row {row + 1}"
    return next(found.where for number, found in enumerate(read_rows(path)) if number == row)


def read_text_columns(path: Path, wanted: Sequence[str]) -> pa.Table:
    """Some text columns of a table; empty and missing cells are null.

    Raises:
        ProclipError: as `read_rows`; no such file, or no rows; or a column is not there: the message lists those that
            are.
    """
    if not path.is_file():
        raise ProclipError(f"there is no file {path}")
    if path.suffix == ".parquet":
        table = _parquet_file(path)
        columns, count = {n: table.column(n) for n in table.column_names if n in wanted}, table.num_rows
        known = table.column_names
    else:
        seen, count = dict[str, None](), 0
        with columns_file(path) as file:
            builder = ColumnBuilder(TEXT, file)
            for rows in batched(read_rows(path)):
                builder.add([{k: _text(row, k) for k in wanted if row.values.get(k) is not None} for row in rows])
                seen |= dict.fromkeys(name for row in rows for name in row.values)
                count += len(rows)
            columns, known = builder.columns(), list(seen)
    if not count:
        raise ProclipError(f"{path} has no rows")
    for name in wanted:
        if name not in columns:
            raise ProclipError(f"{path} has no column {name!r}; columns: {', '.join(known) or 'none'}")
    return pa.table({name: _as_text(path, name, columns[name]) for name in wanted})


def _from_rows(path: Path, path_columns: Sequence[str]) -> RowTable:
    with columns_file(path) as file:
        own, texts = ColumnBuilder(TEXT, file), ColumnBuilder(TEXT, file)
        lists, splits = ColumnBuilder(TEXTS, file), ColumnBuilder(TEXTS, file)
        for rows in batched(read_rows(path)):
            named = [(row, next((n for n in path_columns if isinstance(row.values.get(n), str)), None)) for row in rows]
            for row, name in named:
                if name is None:
                    raise ProclipError(_no_picture(row.where, path_columns, row.values))
            own.add([_own(row, str(name)) for row, name in named])
            splits.add([_splits(row) for row in rows])
            captions = [{k: v for k, v in row.values.items() if k not in SPECIAL and k != name} for row, name in named]
            texts.add([{k: v for k, v in row.items() if isinstance(v, str)} for row in captions])
            lists.add([{k: v for k, v in row.items() if _is_texts(v)} for row in captions])
        columns = own.columns()
        if not columns:
            raise ProclipError(f"{path} has no rows")
        return RowTable(
            keys=columns["key"], files=columns["file"], splits=splits.columns().get("splits"), urls=columns.get("url"),
            texts=texts.columns(), lists=lists.columns(),
        )  # fmt: skip


def _no_picture(where: str, path_columns: Sequence[str], found: Iterable[str]) -> str:
    one_of = " or ".join(map(repr, path_columns))
    return f"{where}: no text in {one_of}, which names the picture; it has {', '.join(found) or 'nothing'}"


def _text(row: Row, name: str) -> str:
    """A text or number of a row, as text."""
    value = row.values[name]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    raise ProclipError(f"{row.where}: {name!r} is a text or a number, not {value!r}")


def _own(row: Row, name: str) -> dict[str, str]:
    """Key, file and URL of a row."""
    values = row.values
    url = {"url": values["url"]} if isinstance(values.get("url"), str) else {}
    key = values[name] if values.get("key") is None else _text(row, "key")
    return {"file": values[name], "key": key, **url}


def _splits(row: Row) -> dict[str, list[str]]:
    values = row.values
    splits = values.get("splits", [values["split"]] if "split" in values else None)
    if splits is None:
        return {}
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        raise ProclipError(f"{row.where}: 'splits' is a list of names, 'split' one name, not {splits!r}")
    return {"splits": splits}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:  # splits at \n alone: texts may hold U+2028
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                try:
                    values = parse_json(line)
                except ValueError as error:
                    raise ProclipError(f"{where}: not JSON: {error}") from None
                yield Row(where, values if isinstance(values, dict) else {})


def _csv(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(CSV_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True, delimiter=delimiter)
        try:
            header = reader.fieldnames or ()
            if twice := next((name for name in header if header.count(name) > 1), None):
                raise ProclipError(f"{path}: the column {twice!r} is there twice")
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                if None in cells or None in cells.values():
                    raise ProclipError(f"{where}: another number of cells than the {len(header)} columns")
                yield Row(where, {column: _cell(text) for column, text in cells.items() if text})
        except csv.Error as error:
            raise ProclipError(f"{path}, after line {reader.line_num}: not CSV: {error}") from None


def _cell(text: str) -> Any:
    if text.startswith("["):
        try:
            return parse_json(text)
        except ValueError:
            return text
    return text


def _parquet_file(path: Path) -> pa.Table:
    try:
        return parquet.read_table(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ProclipError(f"{path} is not parquet: {error}") from None


def _from_parquet(path: Path, path_columns: Sequence[str]) -> RowTable:
    table = _parquet_file(path)
    if not table.num_rows:
        raise ProclipError(f"{path} has no rows")
    names = table.column_names
    name = next((name for name in path_columns if name in names and _is_text(table.schema.field(name).type)), None)
    if name is None:
        found = [f"{field.name} ({field.type})" for field in table.schema]
        raise ProclipError(_no_picture(str(path), path_columns, found))
    if table.column(name).null_count:
        row = table.column(name).is_null().index(True).as_py()
        raise ProclipError(f"{path}, row {row + 1}: no text in {name!r}, which names the picture")
    files = _as_text(path, name, table.column(name))
    keys = pc.coalesce(_as_text(path, "key", table.column("key")), files) if "key" in names else files
    columns = {n: table.column(n) for n in names if n not in SPECIAL and n != name}
    return RowTable(
        keys=keys,
        files=files,
        splits=_parquet_splits(path, table),
        urls=_as_text(path, "url", table.column("url")) if "url" in names else None,
        texts={n: _as_text(path, n, c) for n, c in columns.items() if _is_text(c.type)},
        lists={n: c for n, c in columns.items() if pa.types.is_list(c.type) and _is_text(c.type.value_type)},
    )


def _parquet_splits(path: Path, table: pa.Table) -> pa.ChunkedArray | None:
    if "splits" in table.column_names:
        splits = table.column("splits")
        if not (pa.types.is_list(splits.type) and _is_text(splits.type.value_type)):
            raise ProclipError(f"{path}: 'splits' is a column of lists of names, not {splits.type}")
        return splits.cast(TEXTS)
    if "split" not in table.column_names:
        return None
    names = _as_text(path, "split", table.column("split")).combine_chunks()
    valid = names.is_valid().to_numpy(zero_copy_only=False)
    ends = pa.array([0, *valid.cumsum().tolist()], pa.int32())
    return pa.chunked_array([pa.ListArray.from_arrays(ends, names.drop_null())])


def _is_text(kind: pa.DataType) -> bool:
    known: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
    )  # fmt: skip
    return any(is_one(kind.value_type if pa.types.is_dictionary(kind) else kind) for is_one in known)


def _as_text(path: Path, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if values.type in (TEXT, pa.large_string()):
        return values
    try:
        return values.cast(pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ProclipError(f"{path}: column {name!r} holds {values.type}, texts are wanted") from None
