"""``proclip search``: find one's own pictures by text, by picture, or by both."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import ProclipError
from ..models.devices import pick_device
from ..search import Hit, Index
from ..search.terminal import inline_picture, open_in_viewer, picture_protocol


def search_command(arguments: argparse.Namespace) -> None:
    """Search and print what is found.

    Raises:
        ProclipError: what `Index.open` and `Index.search` raise.
    """
    with Index.open(arguments.index, arguments.model, pick_device()) as index:
        hits = index.search(
            text=arguments.text,
            image=arguments.image,
            minus=[*arguments.minus, *arguments.minus_image],
            weights=_weights(arguments.weights),
            k=arguments.k,
            near=arguments.near,
            after=arguments.after,
            before=arguments.before,
            folder=arguments.folder,
        )
    if arguments.json:
        print(json.dumps([as_json(hit) for hit in hits], indent=2, ensure_ascii=False))
    elif arguments.paths:
        for hit in hits:
            print(hit.path)
    else:
        _show(hits)
    if arguments.open and hits:
        open_in_viewer(hits[0].path)


def as_json(hit: Hit) -> dict[str, Any]:
    """A hit as JSON values."""
    return {
        "path": str(hit.path),
        "score": hit.score,
        "width": hit.width,
        "height": hit.height,
        "taken": hit.taken.isoformat(),
        "copies": [str(path) for path in hit.copies],
    }


def _weights(given: str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        raise ProclipError(f"--weights {given!r}: numbers with commas between are wanted, as in 1,0.5") from None


def _show(hits: Sequence[Hit]) -> None:
    """As pictures with a line each where the terminal shows pictures, else as a table."""
    protocol = picture_protocol(sys.stdout, os.environ)
    if not hits:
        print("nothing found")
    elif protocol is None:
        table = Table("score", "taken", "size", "path")
        for hit in hits:
            path = Text(_path(hit), overflow="fold")
            table.add_row(f"{hit.score:.4f}", f"{hit.taken:%Y-%m-%d}", f"{hit.width} x {hit.height}", path)
        Console().print(table)
    else:
        for hit in hits:
            with contextlib.suppress(ProclipError):  # gone since it was indexed: the line still says where it was
                sys.stdout.write(inline_picture(hit.thumbnail(), protocol))
            print(f"{hit.score:.4f}  {hit.taken:%Y-%m-%d}  {hit.width} x {hit.height}  {_path(hit)}")


def _path(hit: Hit) -> str:
    return f"{hit.path}" + (f" (and {len(hit.copies)} more)" if hit.copies else "")
