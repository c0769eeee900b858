"""``proclip index``: one's own pictures into an index that ``proclip search`` and ``proclip serve`` search."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from ..errors import ProclipError
from ..models.devices import pick_device
from ..search import Index, IndexReport, update_index
from ..search.indexing import NAMED
from ..search.indexing import Progress as Told
from ..search.pictures import HEIC_EXTRA

TASKS = {"pictures": "files read", "graph": "pictures in the graph"}


def index_command(arguments: argparse.Namespace) -> None:
    """Bring an index up to date, or print what is in it.

    Raises:
        ProclipError: what `update_index` or `Index.open` raise; or options that do not go together.
    """
    if arguments.stats:
        if arguments.folders or arguments.forget or arguments.graph:
            raise ProclipError("--stats only reads: it goes with --index, --model, --texts and --json")
        print_stats(arguments.index, arguments.model, arguments.texts, arguments.json)
        return
    if arguments.texts or arguments.json:
        raise ProclipError("--texts and --json go with --stats")
    console = Console(stderr=True)
    with _bars(console) as progress:
        report = update_index(
            arguments.index,
            arguments.folders,
            arguments.model,
            forget=arguments.forget,
            graph=arguments.graph,
            device=pick_device(),
            progress=progress,
        )
    for line in report_lines(report):
        print(line)


def report_lines(report: IndexReport) -> list[str]:
    """What a run did, for a reader."""
    rate = f", {report.encoded / report.encoding_seconds:,.0f} a second" if report.encoded else ""
    lines = [
        f"{report.pictures:,} pictures in {report.files:,} files: {report.encoded:,} encoded now{rate}, "
        f"{report.removed:,} left"
    ]
    if report.unreadable:
        lines.append(f"{report.unreadable:,} cannot be read:")
        lines += [f"  {path}: {reason}" for path, reason in report.first_unreadable]
        if report.unreadable > NAMED:
            lines.append(f"  and {report.unreadable - NAMED:,} more")
    if report.left_out:
        lines.append(f"{report.left_out:,} HEIC pictures are left out: {HEIC_EXTRA}")
    return [*lines, report.note] if report.note else lines


def print_stats(path: Path, model: str | None, texts: Path | None, as_json: bool) -> dict[str, Any]:
    """Print what is in an index.

    Args:
        path: of the index.
        model: as for `Index.open`.
        texts: file of texts, one a line, whose recall is measured too.
        as_json: print JSON in place of the table.

    Returns:
        what is printed.
    """
    lines = _lines(texts) if texts is not None else []
    with Index.open(path, model, pick_device()) as index:
        stats = index.stats
        if lines:
            stats["recall_of_texts"] = index.recall(lines)
    if as_json:
        print(json.dumps(stats, indent=2, ensure_ascii=False))
        return stats
    table = Table("", Column(overflow="fold"), show_header=False)
    for key, value in stats.items():
        if key != "identity":
            table.add_row(key.replace("_", " "), escape(_shown(value)))
    Console().print(table)
    return stats


def _lines(path: Path) -> list[str]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        reason = "" if lines else "it has no text"
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error.strerror) if isinstance(error, OSError) else "it is not UTF-8"
    if reason:
        raise ProclipError(f"--texts {path}: {reason}; texts in UTF-8, one a line, are wanted")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextmanager
def _bars(console: Console) -> Iterator[Told]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        rows: dict[str, TaskID] = {}

        def told(kind: str, done: int, total: int) -> None:
            if kind not in rows:
                rows[kind] = bar.add_task(TASKS[kind], total=total)
            bar.update(rows[kind], completed=done, total=total)

        yield told
