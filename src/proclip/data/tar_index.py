"""An offset table beside tar archives, so that a sample is one read at a known place: shards as random access.

Archives are read once, headers and texts; pictures are skipped. ``FOLDER/.proclip-index/SHARD.arrow`` has a row a
sample: key (``SHARD/NAME``), offset, size and extension of its picture, url, and ``caption:COLUMN`` texts. It names
the archive's size and time of change, and is refused when they are others. docs/data_format.md describes it.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..errors import ProclipError
from ..files import make_folder, parse_json
from .columns import ROWS_A_BATCH, map_table, write_table
from .metadata import SPECIAL
from .tar_members import PICTURES, CutShort, Member, members_of

INDEX = ".proclip-index"
"""Folder of what we write beside data."""
VERSION = 1
ABOUT = b"proclip"
CAPTION = "caption"
"""Column of the texts of ``.txt`` members."""
OF_CAPTION = "caption:"
"""Before the names of caption columns in the table."""
FIRST_FAULTS = 100
"""Faults of a shard that its index lists; the others are counted."""

Texts = dict[str, str]


class Fault(NamedTuple):
    """Something wrong with a shard or a sample of it."""

    kind: str
    """``truncated``, ``damaged``, ``duplicate key``, ``no picture``, ``bad name``, ``bad json``, ``bad text``."""
    key: str
    """Of the sample; of a whole shard its file's name."""
    why: str
    """What was found."""


@dataclass(frozen=True)
class ShardAbout:
    """What an index says of its archive."""

    size: int
    """Bytes of the archive."""
    mtime_ns: int
    """Its time of change."""
    fields: tuple[str, ...]
    """JSON fields that are caption columns."""
    samples: int
    """Rows."""
    faults: int
    """How many."""
    first_faults: tuple[Fault, ...]
    """The first of them."""
    version: int = VERSION
    """Of the format."""


def shards_of(folder: Path) -> list[Path]:
    """The tar archives of a folder, by name."""
    return sorted(path for path in folder.glob("*.tar") if path.is_file())


def unfinished(folder: Path) -> list[str]:
    """Shards that are still being written or fetched.

    ``.incomplete`` files, and archives without the ``_stats.json`` that img2dataset writes last, where others have it.
    """
    found = [path.name for path in folder.glob("*.incomplete")]
    shards = shards_of(folder)
    with_stats = {path.name.removesuffix("_stats.json") for path in folder.glob("*_stats.json")}
    return sorted(found + [p.name for p in shards if with_stats and p.stem not in with_stats])


def index_path(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.parent / INDEX / f"{shard.stem}.arrow"


def index_folder(
    folder: Path,
    fields: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[ShardAbout]:
    """Index every shard that has no index of its present state; one that is interrupted goes on with the next call.

    Args:
        folder: with ``*.tar`` as img2dataset or webdataset write them.
        fields: fields of the ``.json`` members that become caption columns, beside ``caption`` of ``.txt``; None for
            those that were chosen before.
        workers: processes; as many as there are cores if None.
        progress: called with shards done and all shards.

    Returns:
        what is known of each shard, in the order of their names.

    Raises:
        ProclipError: no such folder or no archive in it; an archive that was indexed is gone; no sample of the first
            shard has a text in one of `fields`. What is wrong inside an archive is counted, not raised.
    """
    if not folder.is_dir():
        raise ProclipError(f"no folder {folder}")
    waiting = set(unfinished(folder))
    shards = [shard for shard in shards_of(folder) if f"{shard.name}.incomplete" not in waiting]
    if not shards:
        other = sorted(path.name for path in folder.glob("*.tar.*") if path.suffix != ".incomplete")
        hint = f"; {other[0]} cannot be read at any place: unpack it to .tar" if other else ""
        raise ProclipError(f"{folder} holds no tar archives (*.tar){hint}")
    _check_none_gone(folder)
    make_folder(folder / INDEX)
    chosen = _fields_before(shards) if fields is None else tuple(sorted(set(fields)))
    todo = [shard for shard in shards if not _is_current(shard, chosen)]
    if todo and fields:
        _check_fields(shards[0], chosen)
    done = len(shards) - len(todo)
    if progress is not None:
        progress(done, len(shards))
    for _ in _indexed(todo, chosen, min(workers or os.cpu_count() or 1, len(todo))):
        done += 1
        if progress is not None:
            progress(done, len(shards))
    return [read_about(shard) for shard in shards]


def _check_none_gone(folder: Path) -> None:
    stems = {shard.stem for shard in shards_of(folder)}
    if gone := sorted(path.stem for path in (folder / INDEX).glob("*.arrow") if path.stem not in stems):
        raise ProclipError(
            f"{folder}: {gone[0]}.tar is indexed but gone: bring it back, or delete its index in {INDEX}"
        )


def _fields_before(shards: Sequence[Path]) -> tuple[str, ...]:
    """The fields of the first index that can be read."""
    for shard in shards:
        with suppress(ProclipError):
            return read_about(shard).fields
    return ()


def _check_fields(shard: Path, fields: Sequence[str]) -> None:
    """Raise `ProclipError` for a field in which no sample of a shard has a text, if any has JSON, or that is taken."""
    if taken := [field for field in fields if field in SPECIAL]:
        raise ProclipError(f"--fields: {taken[0]!r} is no caption; {', '.join(SPECIAL)} mean something else")
    members, _ = _members(shard)
    known: dict[str, None] = {CAPTION: None}  # of the .txt, if not of the .json
    with shard.open("rb") as file:
        for of_sample in members.values():
            values = _json_member(file.fileno(), "", of_sample, []) if "json" in of_sample else {}
            known |= dict.fromkeys(name for name, value in values.items() if isinstance(value, str))
            if known.keys() >= set(fields):
                return
    if len(known) > 1 and (missing := [field for field in fields if field not in known]):
        raise ProclipError(f"--fields: no sample of {shard} has a text in {missing[0]!r}, but in {', '.join(known)}")


def _indexed(todo: Sequence[Path], fields: tuple[str, ...], workers: int) -> Iterator[None]:
    if workers <= 1:
        for shard in todo:
            index_shard(shard, fields)
            yield
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(index_shard, shard, fields) for shard in todo]):
            done.result()
            yield


def index_shard(shard: Path, fields: tuple[str, ...]) -> None:
    """Read one archive and write its index."""
    status = shard.stat()
    rows, faults = scan(shard, fields)
    about = ShardAbout(status.st_size, status.st_mtime_ns, fields, len(rows), len(faults), tuple(faults[:FIRST_FAULTS]))
    captions = [CAPTION, *(field for field in fields if field != CAPTION)]
    schema = pa.schema(
        [("key", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("extension", pa.string()),
         ("url", pa.string()), *((OF_CAPTION + column, pa.string()) for column in captions)],
        metadata={ABOUT: json.dumps(asdict(about))},
    )  # fmt: skip
    parts = (rows[start : start + ROWS_A_BATCH] for start in range(0, len(rows), ROWS_A_BATCH))
    write_table(index_path(shard), schema, (pa.RecordBatch.from_pylist(part, schema=schema) for part in parts))


def read_about(shard: Path) -> ShardAbout:
    """What a shard's index says of it.

    Raises:
        ProclipError: there is no index, or it is damaged or of another version.
    """
    return _about(index_path(shard), map_table(index_path(shard)).schema)


def _about(path: Path, schema: pa.Schema) -> ShardAbout:
    try:
        values = json.loads((schema.metadata or {})[ABOUT])
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}, not {VERSION}")
        faults = tuple(Fault(*fault) for fault in values.pop("first_faults"))
        return ShardAbout(**values | {"fields": tuple(values["fields"]), "first_faults": faults})
    except (KeyError, TypeError, ValueError) as error:
        raise ProclipError(f"{path} is no index of this version ({error}): delete it and index again") from None


def _is_current(shard: Path, fields: tuple[str, ...]) -> bool:
    try:
        about, status = read_about(shard), shard.stat()
    except ProclipError:
        return False
    return (about.size, about.mtime_ns, about.fields) == (status.st_size, status.st_mtime_ns, fields)


def open_index(folder: Path) -> tuple[pa.Table, list[Path], list[int]]:
    """The indexes of a folder's shards as one table, mapped.

    Returns:
        the table; the archives in its order; the rows of each.

    Raises:
        ProclipError: shards without index, a shard that has changed or gone since, or indexes with other columns; the
            message says what to do.
    """
    shards, again = shards_of(folder), f"run  proclip data index {folder}"
    if bare := [shard.name for shard in shards if not index_path(shard).is_file()]:
        raise ProclipError(f"{folder}: {len(bare)} of {len(shards)} shards are not indexed ({bare[0]} ...): {again}")
    _check_none_gone(folder)
    tables: list[pa.Table] = []
    for shard in shards:
        table = map_table(index_path(shard))
        about, status = _about(index_path(shard), table.schema), shard.stat()
        if (about.size, about.mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise ProclipError(f"{shard} has changed since it was indexed (size or time of change): {again}")
        if tables and table.schema.names != tables[0].schema.names:
            raise ProclipError(f"{folder}: {shard.name} was indexed with other --fields than {shards[0].name}: {again}")
        tables.append(table.replace_schema_metadata(None))
    return pa.concat_tables(tables), shards, [table.num_rows for table in tables]


def scan(shard: Path, fields: Sequence[str]) -> tuple[list[dict[str, Any]], list[Fault]]:
    """Rows and faults of an archive; of a damaged one, the samples before the damage."""
    members, faults = _members(shard)
    rows = []
    with shard.open("rb") as file:
        for name, of_sample in members.items():
            key = f"{shard.stem}/{name}"
            extension = next((extension for extension in PICTURES if extension in of_sample), None)
            if extension is None:
                faults.append(Fault("no picture", key, f"only {', '.join(of_sample)}"))
                continue
            picture = of_sample[extension]
            row = {"key": key, "offset": picture.offset, "size": picture.size, "extension": extension}
            rows.append(row | _texts(file.fileno(), key, of_sample, fields, faults))
    return rows, faults


def _members(shard: Path) -> tuple[dict[str, dict[str, Member]], list[Fault]]:
    """Members by sample and by extension."""
    samples: dict[str, dict[str, Member]] = {}
    faults: list[Fault] = []
    try:
        for member in members_of(shard):
            if (printable := member.name.encode(errors="backslashreplace").decode()) != member.name:
                faults.append(Fault("bad name", shard.name, f"{printable} is not UTF-8"))
                continue
            of_sample = samples.setdefault(member.sample, {})
            if member.extension in of_sample:
                why = f"a second {member.name}; the first is kept"
                faults.append(Fault("duplicate key", f"{shard.stem}/{member.sample}", why))
                continue
            of_sample[member.extension] = member
    except CutShort as error:
        faults.append(Fault("truncated", shard.name, str(error)))
        samples.pop(error.sample or "", None)
    except (tarfile.TarError, OSError) as error:
        faults.append(Fault("damaged", shard.name, f"after {len(samples):,} samples: {error}"))
    return samples, faults


def _texts(file: int, key: str, members: dict[str, Member], fields: Sequence[str], faults: list[Fault]) -> Texts:
    """URL and captions of a sample: ``.txt``, else the ``caption`` of its ``.json``, and the chosen fields."""
    texts: Texts = {}
    values = _json_member(file, key, members, faults) if "json" in members else {}
    if isinstance(values.get("url"), str):
        texts["url"] = values["url"]
    texts |= {OF_CAPTION + f: values[f] for f in (CAPTION, *fields) if isinstance(values.get(f), str)}
    if "txt" in members:
        try:
            texts[OF_CAPTION + CAPTION] = _content(file, members["txt"]).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            faults.append(Fault("bad text", key, str(error)))
    return texts


def _json_member(file: int, key: str, members: dict[str, Member], faults: list[Fault]) -> dict[str, Any]:
    try:
        values = parse_json(_content(file, members["json"]))
    except ValueError as error:
        faults.append(Fault("bad json", key, str(error)))
        return {}
    return values if isinstance(values, dict) else {}


def _content(file: int, member: Member) -> bytes:
    return os.pread(file, member.size, member.offset)
