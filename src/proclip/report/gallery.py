"""The retrieval gallery: a query, its answer, and what each method found, as pictures inside the page."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path

from ..errors import ProclipError
from .svg import tone
from .table import method_label


@dataclass(frozen=True, kw_only=True)
class GalleryItem:
    """A text query and the nearest images under some methods."""

    query: str
    """The text."""
    kind: str
    """What sort of query it is, such as "Long caption" or "German"."""
    answer: Path
    """The image that is meant."""
    results: Mapping[str, Sequence[tuple[Path, bool]]]
    """By method: the nearest images, best first, and whether each is right."""


@lru_cache(maxsize=512)
def data_uri(path: Path) -> str:
    """An image file as a ``data:`` address.

    Raises:
        ProclipError: there is no such file, or its ending is not an image's.
    """
    mime = mimetypes.guess_type(path.name)[0] or ""
    if not mime.startswith("image/"):
        raise ProclipError(f"gallery: {path} is not an image file (its name must end as .png, .jpg, ...)")
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ProclipError(f"gallery: no image at {path}") from None
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def _picture(path: Path, alt: str) -> str:
    return f'<img src="{data_uri(path)}" alt="{escape(alt)}" width="96" height="96">'


def _found(method: str, found: Sequence[tuple[Path, bool]]) -> str:
    rank = next((place for place, (_, right) in enumerate(found, start=1) if right), None)
    verdict = f"right at {rank}" if rank else f"not in the first {len(found)}"
    tiles = "".join(
        f'<li class="{"right" if right else "wrong"}">'
        f"{_picture(path, f'{place}: {path.stem}' + (', the right one' if right else ''))}"
        f"{'<span class=tick-mark aria-hidden=true>✓</span>' if right else ''}</li>"
        for place, (path, right) in enumerate(found, start=1)
    )
    return (
        f'<div class="found"><p class="by {tone(method)}"><b>{escape(method_label(method))}</b> '
        f'<span>{verdict}</span></p><ol class="tiles">{tiles}</ol></div>'
    )


def gallery_html(items: Sequence[GalleryItem]) -> str:
    """One card for each query.

    Raises:
        ProclipError: an image cannot be read.
    """
    cards = []
    for item in items:
        rows = "".join(_found(method, found) for method, found in item.results.items())
        cards.append(
            f'<article class="card"><div class="asked">{_picture(item.answer, f"wanted: {item.answer.stem}")}'
            f'<div><p class="kind">{escape(item.kind)}</p><blockquote dir="auto">{escape(item.query)}</blockquote>'
            f"</div></div>{rows}</article>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'
