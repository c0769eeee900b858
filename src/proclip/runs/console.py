"""What a run tells its user."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ..distributed import is_main


def say(line: str) -> None:
    """Print a line to stderr, of several processes by the main one."""
    if is_main():
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def print_whole(table: Table) -> None:
    """Print a table to stdout, wider than the terminal rather than with keys and numbers cut."""
    console = Console()
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(width=max(needed, console.width)).print(table)
