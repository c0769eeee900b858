"""Draws the pictures: SVG to a PNG of 96 x 96 on white, and what its pixels show."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ProclipError
from .facts import PictureFacts, measure

SIZE = 96
"""Width and height of a picture in pixels."""

_CHUNK = 64

Job = tuple[str, str, str]
"""Image key, SVG file, PNG file to write."""


def render_svg(path: str | Path) -> Image.Image:
    """Renders an SVG file at 96 x 96 with transparency.

    Raises:
        ProclipError: the file cannot be drawn.
    """
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(svg_path=str(path), width=SIZE, height=SIZE, skip_system_fonts=True)
    except ValueError as error:
        raise ProclipError(f"{path} cannot be drawn: {error}") from None
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    if drawing.size == (SIZE, SIZE):
        return drawing
    canvas = Image.new("RGBA", (SIZE, SIZE))  # a drawing that is not square: centred, not stretched
    drawing.thumbnail((SIZE, SIZE))
    canvas.paste(drawing, ((SIZE - drawing.width) // 2, (SIZE - drawing.height) // 2))
    return canvas


def on_white(drawing: Image.Image) -> Image.Image:
    """Puts a transparent drawing on a white canvas."""
    canvas = Image.new("RGBA", drawing.size, "white")
    canvas.alpha_composite(drawing)
    return canvas.convert("RGB")


def draw(jobs: Sequence[Job]) -> list[tuple[str, PictureFacts]]:
    """Writes the PNG of each job and returns the facts of each image key."""
    facts = []
    for key, svg, png in jobs:
        drawing = render_svg(svg)
        picture = on_white(drawing)
        picture.save(png, compress_level=6)
        pixels = np.asarray(picture)
        measured = measure(np.asarray(drawing), pixels)
        facts.append((key, replace(measured, digest=hashlib.sha256(pixels.tobytes()).hexdigest())))
    return facts


def draw_all(jobs: Sequence[Job], workers: int, progress: Callable[[int, int], None] | None) -> dict[str, PictureFacts]:
    """Draws every job with ``workers`` processes; ``progress(done, total)`` is called as they come in."""
    chunks = [jobs[i : i + _CHUNK] for i in range(0, len(jobs), _CHUNK)]
    facts: dict[str, PictureFacts] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for drawn in pool.map(draw, chunks):
            facts.update(drawn)
            if progress is not None:
                progress(len(facts), len(jobs))
    return facts
