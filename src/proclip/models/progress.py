"""The bar of a long call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import ProclipError


@contextmanager
def bar(what: str, total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if it is to be shown.

    Args:
        what: is counted.
        total: how many there are.
        show: whether there is a bar at all.

    Yields:
        what is told how many more are done.

    Raises:
        ProclipError: it is to be shown, and rich is not installed.
    """
    if not show:
        yield lambda done: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        raise ProclipError("show_progress_bar needs the package rich: pip install rich") from None

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        row = progress.add_task(what, total=total)
        yield lambda done: progress.advance(row, done)
