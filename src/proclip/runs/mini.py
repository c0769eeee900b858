"""``proclip mini``: build the mini world."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def build(out: Path) -> dict[str, Any]:
    """Build the mini world, or find it built, and say what it holds.

    Returns:
        its manifest.
    """
    from rich.console import Console

    from ..mini.build import PUBLISHED_CHECKSUM, build_mini_world

    console = Console(stderr=True)
    with console.status("building the mini world"):
        manifest = build_mini_world(out)
    benchmark = manifest["benchmark"]
    console.print(
        f"{out}: {benchmark['name']} version {benchmark['version']}, checksum {benchmark['checksum'][:12]}",
        highlight=False,
    )
    if benchmark["checksum"] != PUBLISHED_CHECKSUM:
        console.print(
            f"not the published world ({PUBLISHED_CHECKSUM[:12]}): other versions of its packages are installed, "
            "so figures do not compare with the documentation's",
            style="yellow",
            highlight=False,
        )
    return manifest
