"""What a run tells its user."""

from __future__ import annotations

from rich.console import Console

from ..distributed import is_main


def say(line: str) -> None:
    """Print a line to stderr, of several processes by the main one."""
    if is_main():
        Console(stderr=True).print(line, highlight=False, soft_wrap=True)
