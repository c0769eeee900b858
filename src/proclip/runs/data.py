"""``proclip data``: index tar shards, check a data set, describe it, and join captions to it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..data.checking import Found, check_shards, check_source
from ..data.joining import join, new_columns
from ..data.sources import Source, open_sources
from ..data.statistics import caption_statistics, picture_statistics
from ..data.tar_index import INDEX, index_folder, unfinished
from ..errors import ProclipError
from ..evaluate.benchmarks.own import language_columns
from .embed import progress


def data_command(arguments: argparse.Namespace) -> int:
    """One of the verbs of ``proclip data``.

    Returns:
        exit status: 1 if a check found something, else 0.

    Raises:
        ProclipError: the data cannot be read, or what is asked for cannot be done.
    """
    if arguments.action == "index":
        fields = None if arguments.fields is None else [field for field in arguments.fields.split(",") if field]
        return index_command(arguments.folder, fields, arguments.workers)
    if arguments.action == "check":
        captions = [column for column in arguments.captions.split(",") if column]
        return check_command(arguments.folder, captions, arguments.min_side, arguments.json)
    if arguments.action == "stats":
        return stats_command(arguments.folder, arguments.json)
    return join_command(arguments.folder, arguments.file, arguments.on, arguments.columns)


def index_command(folder: str, fields: Sequence[str] | None, workers: int | None) -> int:
    """Index a folder's shards, and say what was wrong with them."""
    _check_count("--workers", workers)
    with progress("shards", "indexed") as report:
        shards = index_folder(Path(folder), fields, workers, report)
    faults = sum(shard.faults for shard in shards)
    samples, columns = sum(shard.samples for shard in shards), list(dict.fromkeys(("caption", *shards[0].fields)))
    _say(f"{folder}: samples: {samples:,}, shards: {len(shards):,}, captions: {', '.join(columns)}; {folder}/{INDEX}")
    if faults:
        _say(f"faults in the shards: {faults:,}; what can be used is indexed, the rest:  proclip data check {folder}")
    if waiting := unfinished(Path(folder)):
        _say(f"shards that look unfinished: {len(waiting):,}, such as {waiting[0]}: index again when they are whole")
    return 0


def check_command(folder: str, captions: Sequence[str], min_side: int, as_json: bool) -> int:
    """Check every source at a path; exit status 1 if anything was found."""
    _check_count("--min-side", min_side)
    found: dict[str, Found] = {}
    samples = 0
    for source in open_sources(folder):
        samples += len(source)
        if source.in_shards:
            _merge(found, check_shards(Path(folder)))
        with progress("pictures", "checked") as report:
            _merge(found, check_source(source, captions, min_side, progress=report))
    if as_json:
        print(json.dumps({"data": folder, "samples": samples, "found": {k: asdict(v) for k, v in found.items()}},
                         indent=2, ensure_ascii=False))  # fmt: skip
    elif not found:
        print(f"{folder}: {samples:,} samples, nothing found")
    else:
        print(f"{folder}: {samples:,} samples")
        for kind, one in found.items():
            print(f"{kind}: {one.count:,}")
            for line in one.first:
                print(f"    {line}")
    return 1 if found else 0


def _merge(found: dict[str, Found], more: Mapping[str, Found]) -> None:
    for kind, one in more.items():
        found.setdefault(kind, Found()).add(one.first, one.count)


def stats_command(folder: str, as_json: bool) -> int:
    """Describe every source at a path."""
    sources = open_sources(folder)
    with progress("pictures", "looked at") as report:
        pictures = picture_statistics(sources, report)
    values = {
        "data": folder,
        "samples": sum(map(len, sources)),
        "pictures": pictures,
        "captions": {source.where: caption_statistics(source) for source in sources},
        "languages": language_columns(list(dict.fromkeys(name for source in sources for name in source.texts))),
        "splits": sorted(set[str]().union(*(source.split_names() for source in sources))),
    }
    if as_json:
        print(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        _print_stats(values, sources)
    return 0


def _print_stats(values: Mapping[str, Any], sources: Sequence[Source]) -> None:
    console, pictures = Console(), values["pictures"]
    formats = ", ".join(f"{kind} {count:,}" for kind, count in pictures["formats"].items())
    console.print(f"{values['data']}: {values['samples']:,} samples; pictures looked at: {pictures['looked_at']:,} "
                  f"({formats})", markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    rows = {name: pictures[name] for name in ("width", "height", "shorter_side", "bytes")}
    _print_table(console, "picture", rows)
    for source in sources:
        captions = values["captions"][source.where]
        for unit in ("words", "characters"):
            _print_table(console, f"{unit} of", {n: {"texts": c["texts"], **c[unit]} for n, c in captions.items()})
    for stem, columns in values["languages"].items():
        console.print(f"languages of {stem}: {', '.join(columns)}", markup=False, highlight=False, soft_wrap=True)


def _print_table(console: Console, title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table(box=None)
    table.add_column(title)
    for name in names:
        table.add_column(name, justify="right")
    for title, row in rows.items():
        table.add_row(title, *(f"{row[name]:,}" if name in row else "" for name in names))
    console.print(table)


def join_command(folder: str, file: Path, on: str, columns: str) -> int:
    """Join a table's captions to the samples at a path, and say what did not match."""
    sources = open_sources(folder)
    if len(sources) != 1:
        raise ProclipError(f"{folder} has several splits: captions are joined to a folder or list of one's own")
    ours, _, theirs = on.partition("=")
    if ours not in ("url", "key"):
        raise ProclipError(f"--on is url or key, or url=COLUMN where the table calls it otherwise, not {on!r}")
    done = join(sources[0], file, (ours, theirs or ours), new_columns(columns))
    _say(f"{done.matched:,} of {done.samples:,} samples have a row: {done.file}")
    if done.matched < done.samples:
        first = ", ".join(done.first_unmatched)
        _say(f"{done.samples - done.matched:,} samples have none, such as {first} (data.incomplete = 'leave_out' trains"
             " on the others)")  # fmt: skip
    unused = done.rows - done.repeated - done.used
    _say(f"{unused:,} of {done.rows:,} rows belong to no sample; {done.repeated:,} repeat another")
    return 0


def _check_count(option: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ProclipError(f"{option} is {value}: 1 or more is right")


def _say(line: str) -> None:
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
