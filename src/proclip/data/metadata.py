"""Rows of an image folder's metadata: ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet``, read alike."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ProclipError

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Files of which a folder holds one."""


@dataclass(frozen=True)
class Row:
    """One image's row."""

    where: str
    """File and line, for messages."""
    values: dict[str, Any]
    """Values by column; empty cells are left out."""


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


def read_metadata(folder: Path) -> list[Row]:
    """Every row of the folder's metadata, in order.

    A CSV cell that is a JSON list is read as that list; all other cells are texts.

    Raises:
        ProclipError: no metadata or several, not UTF-8, a row that is not an object or has no ``file_name``, no rows,
            or a parquet file without pyarrow to read it.
    """
    path = metadata_file(folder)
    read = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}[path.suffix]
    try:
        rows = list(read(path))
    except UnicodeDecodeError as error:
        raise ProclipError(f"{path} is not UTF-8: {error}") from None
    if not rows:
        raise ProclipError(f"{path} has no rows")
    for row in rows:
        if not isinstance(row.values.get("file_name"), str):
            raise ProclipError(f"{row.where}: a row is an object with a 'file_name'")
    return rows


def _json_lines(path: Path) -> Iterator[Row]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: texts may hold U+2028
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise ProclipError(f"{where}: not JSON: {error}") from None
            yield Row(where, values if isinstance(values, dict) else {})


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                if None in cells or None in cells.values():
                    raise ProclipError(
                        f"{where}: another number of cells than the {len(reader.fieldnames or ())} columns"
                    )
                yield Row(where, {column: _cell(text) for column, text in cells.items() if text})
        except csv.Error as error:
            raise ProclipError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _cell(text: str) -> Any:
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise ProclipError(f"{path}: reading parquet needs pyarrow: pip install pyarrow, or write {NAMES[0]}") from None
    try:
        table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise ProclipError(f"{path} is not parquet: {error}") from None
    for number, values in enumerate(table.to_pylist(), 1):
        yield Row(f"{path}, row {number}", {column: value for column, value in values.items() if value is not None})
