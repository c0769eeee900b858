"""What the pixels of one drawing show: colours and where they lie, size, place, symmetry, parts, brightness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .colours import COLOURS, colour_words

_SAME = 8  # two neighbours are of one flat colour if no channel differs by more than this
_OPAQUE = 128


@dataclass(frozen=True, kw_only=True)
class PictureFacts:
    """Measured on the rendered picture; the drawing is what its renderer made opaque, the canvas all of it."""

    shares: Mapping[str, float]
    """Share of the drawing's flat pixels by colour word, largest first; sums to 1."""
    centres: Mapping[str, tuple[float, float]]
    """Mean (x, y) of each colour's pixels, in [0, 1] from the left and the top of the canvas."""
    halves: Mapping[str, str]
    """Most common colour in the upper, lower, left and right half of the drawing's bounding box."""
    coverage: float
    """Share of the canvas that is drawn on."""
    aspect: float
    """Width of the bounding box by its height."""
    centre: tuple[float, float]
    """Mean (x, y) of the drawing's pixels, in [0, 1]."""
    symmetry: float
    """1 = the left half is the mirror image of the right one; 1 minus the mean difference over the drawing."""
    parts: int
    """Connected parts of the drawing of at least 12 pixels."""
    outlined: float
    """Share of the drawing's outer edge that is black."""
    brightness: float
    """Mean luma of the drawing in [0, 1]."""
    contrast: float
    """Standard deviation of the luma of the drawing in [0, 1]."""
    digest: str = ""
    """SHA-256 of the pixels: equal only for identical pictures."""


def _flat(rgb: NDArray[np.uint8], drawn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Marks pixels that match at least two of four neighbours: leaves out the mixed colours along edges."""
    values = rgb.astype(np.int16)
    matches = np.zeros(drawn.shape, dtype=np.int8)
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)) <= _SAME
        near = steps[..., 0] & steps[..., 1] & steps[..., 2]
        near &= (drawn[1:] & drawn[:-1]) if axis == 0 else (drawn[:, 1:] & drawn[:, :-1])
        if axis == 0:
            matches[1:] += near
            matches[:-1] += near
        else:
            matches[:, 1:] += near
            matches[:, :-1] += near
    return drawn & (matches >= 2)


def count_parts(drawn: NDArray[np.bool_], least: int) -> int:
    """Counts 8-connected parts of at least ``least`` pixels, joining the runs of each row to those of the row above."""
    parent: list[int] = []
    size: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above: list[tuple[int, int, int]] = []
    padded = np.pad(drawn, ((0, 0), (1, 1))).astype(np.int8)
    for edges in np.diff(padded, axis=1):
        bounds = np.flatnonzero(edges).tolist()
        runs = []
        for start, stop in zip(bounds[::2], bounds[1::2], strict=True):
            label = len(parent)
            parent.append(label)
            size.append(stop - start)
            for other_start, other_stop, other in above:
                if other_start <= stop and start <= other_stop:
                    a, b = root(other), root(label)
                    if a != b:
                        parent[b] = a
                        size[a] += size[b]
            runs.append((start, stop, label))
        above = runs
    return sum(1 for i, p in enumerate(parent) if i == p and size[i] >= least)


def _outline_share(words: NDArray[np.uint8], drawn: NDArray[np.bool_]) -> float:
    """Share of the edge of ``drawn`` that has black at the edge or up to three pixels inside."""
    inside = np.pad(drawn, 1)
    inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    edge = drawn & ~inner
    black = (words == COLOURS.index("black")) & drawn
    for _ in range(2):
        wide = np.pad(black, 1)
        black = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:] | black
    return float((edge & black).sum() / max(int(edge.sum()), 1))


def _main_colour(words: NDArray[np.uint8], mask: NDArray[np.bool_]) -> str:
    counts = np.bincount(words[mask], minlength=len(COLOURS))
    return COLOURS[int(counts.argmax())] if counts.sum() else ""


def _on_canvas(x: float, y: float, size: int) -> tuple[float, float]:
    """Turns mean pixel indices into places in [0, 1]."""
    return round((float(x) + 0.5) / size, 4), round((float(y) + 0.5) / size, 4)


def measure(rgba: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> PictureFacts:
    """Measures one picture.

    Args:
        rgba: ``[h, w, 4]`` as rendered, its alpha the mask of the drawing.
        rgb: ``[h, w, 3]`` the same on white.
    """
    size = rgba.shape[0]
    drawn = rgba[..., 3] >= _OPAQUE
    words = colour_words(np.ascontiguousarray(rgba[..., :3]))
    flat = _flat(rgb, drawn)
    if flat.sum() < 0.2 * drawn.sum():  # thin strokes all over: edges are all there is
        flat = drawn
    counts = np.bincount(words[flat], minlength=len(COLOURS))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: (-int(counts[i]), i))
    ys, xs = np.nonzero(flat)
    sums = [np.bincount(words[flat], weights=at, minlength=len(COLOURS)) for at in (xs, ys)]
    centres = {COLOURS[i]: _on_canvas(sums[0][i] / counts[i], sums[1][i] / counts[i], size) for i in order}
    ys, xs = np.nonzero(drawn)
    top, bottom, left, right = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
    middle_y, middle_x = (top + bottom) // 2, (left + right) // 2
    upper, lefts = np.zeros_like(flat), np.zeros_like(flat)
    upper[:middle_y], lefts[:, :middle_x] = True, True
    halves = {"upper": flat & upper, "lower": flat & ~upper, "left": flat & lefts, "right": flat & ~lefts}
    luma = rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    either = drawn | drawn[:, ::-1]
    mirrored = np.abs(rgb.astype(np.int16) - rgb[:, ::-1].astype(np.int16))
    return PictureFacts(
        shares={COLOURS[i]: round(float(counts[i] / counts.sum()), 4) for i in order},
        centres=centres,
        halves={half: _main_colour(words, mask) for half, mask in halves.items()},
        coverage=round(float(drawn.mean()), 4),
        aspect=round((right - left) / (bottom - top), 4),
        centre=_on_canvas(xs.mean(), ys.mean(), size),
        symmetry=round(1 - float(mirrored[either].mean()) / 255, 4),
        parts=count_parts(drawn, 12),
        outlined=round(_outline_share(words, drawn), 4),
        brightness=round(float(luma[drawn].mean()), 4),
        contrast=round(float(luma[drawn].std()), 4),
    )
