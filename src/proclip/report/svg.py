"""Charts as SVG text: a few small functions, coloured by the page's CSS variables so that light and dark both work.

A mark of a method has the class that `tone` gives it; the style sheet turns the class into the variable ``--c``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from .table import METHODS, method_label

DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "", "10 4")
"""Dash patterns of lines, by method, so that colour is not all that tells them apart."""
MAX_POINTS = 120
"""Points of a curve; more are averaged in equal parts."""

Points = Sequence[tuple[float, float]]


def tone(method: str) -> str:
    """CSS class that carries a method's colour."""
    known = list(METHODS)
    return f"m{known.index(method) if method in known else len(known)}"


def _dash(method: str) -> str:
    known = list(METHODS)
    pattern = DASHES[known.index(method)] if method in known else "1 2"
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about `count` of them."""
    if high <= low:
        high = low + 1.0
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−").replace(",", "\u2009")


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def _bar(x: float, y: float, width: float, height: float, method: str, tip: str) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.75):.2f}" height="{max(height, 0.75):.2f}" '
        f'class="bar {tone(method)}"><title>{escape(tip)}</title></rect>'
    )


def _svg(width: int, height: int, label: str, parts: Sequence[str], least: int = 0) -> str:
    style = f"min-width: {least}px; max-width: {1.3 * width:.0f}px"  # a chart with little in it stays small
    return (
        f'<svg viewBox="0 0 {width} {height}" style="{style}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def legend(methods: Sequence[str], *, lines: bool = False, chance: bool = False) -> str:
    """The methods' names beside a swatch, or beside a piece of their line, as HTML."""
    entries = []
    for method in methods:
        mark = (
            f'<line x1="0" y1="6" x2="26" y2="6" class="curve {tone(method)}"{_dash(method)}/>'
            if lines
            else f'<rect width="12" height="12" class="bar {tone(method)}"/>'
        )
        entries.append((mark, 26 if lines else 12, method_label(method)))
    if chance:
        entries.append(('<line x1="0" y1="6" x2="20" y2="6" class="chance"/>', 20, "chance"))
    items = "".join(
        f'<li><svg viewBox="0 0 {width} 12" width="{width}" height="12" aria-hidden="true">{mark}</svg>'
        f"{escape(name)}</li>"
        for mark, width, name in entries
    )
    return f'<ul class="legend">{items}</ul>'


def change_bars(title: str, changes: Mapping[str, float], low: float, high: float) -> str:
    """One panel: a horizontal bar for each method from a zero line, left for less, right for more.

    Args:
        title: what was measured.
        changes: points, by method.
        low: left end of the scale, 0 or less; the same for all panels of a figure.
        high: right end, 0 or more.
    """
    width, left, right, top, pitch = 340, 136, 12, 8, 21
    height = top + pitch * len(changes) + 6
    room = 46.0  # beside either end, for the figure
    scale = (width - left - right - 2 * room) / max(high - low, 1e-9)
    zero = left + room - low * scale
    parts = []
    for row, (method, change) in enumerate(changes.items()):
        y = top + row * pitch
        start, end = sorted((zero, zero + change * scale))
        unchanged = abs(change) < 0.05
        figure = "0.0" if unchanged else f"{change:+.1f}".replace("-", "−")
        parts.append(_text(left - 8, y + 13, method_label(method), "label", "end"))
        if not unchanged:
            parts.append(_bar(start, y + 3, end - start, 13, method, f"{method_label(method)}: {figure} points"))
        if change >= 0 or unchanged:
            parts.append(_text(end + 5, y + 13.5, figure, "figure"))
        else:
            parts.append(_text(start - 5, y + 13.5, figure, "figure", "end"))
    parts.append(_line(zero, 2, zero, height - 2, "zero"))
    return _svg(width, height, f"{title}: change against CLIP in points", parts)


def grouped_bars(
    label: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]], chance: Sequence[float | None]
) -> str:
    """Vertical bars in per cent, one group for each name in `groups`, in it one bar for each method.

    Args:
        label: what the chart shows, for those who do not see it.
        groups: names below the groups.
        series: shares from 0 to 1 for each group, by method; None leaves a gap.
        chance: level of a guess in each group, drawn as a line across it.
    """
    left, top, bottom, plot = 36, 12, 30, 230
    bar = 9.0
    pitch = bar * len(series) + 16
    width, height = round(left + pitch * len(groups) + 8), top + plot + bottom
    highest = max((100 * v for values in series.values() for v in values if v is not None), default=1.0)
    marks = ticks(0.0, highest)
    scale = plot / marks[-1]
    base = top + plot
    parts = []
    for mark in marks:
        parts.append(_line(left, base - mark * scale, width - 4, base - mark * scale, "grid"))
        parts.append(_text(left - 6, base - mark * scale + 4, _number(mark), "tick", "end"))
    for column, group in enumerate(groups):
        start = left + 8 + column * pitch
        for slot, (method, values) in enumerate(series.items()):
            value = values[column]
            if value is not None:
                tip = f"{group}, {method_label(method)}: {100 * value:.1f}"
                height_of = 100 * value * scale
                parts.append(_bar(start + slot * bar, base - height_of, bar - 1.2, height_of, method, tip))
        level = chance[column]
        if level is not None:
            y = base - 100 * level * scale
            parts.append(_line(start - 3, y, start + bar * len(series) + 2, y, "chance"))
        parts.append(_text(start + bar * len(series) / 2, base + 18, group, "label", "middle"))
    return _svg(width, height, label, parts, least=min(width, 900))


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points, each the mean of an equal part of the curve."""
    count = len(points)
    if count <= MAX_POINTS:
        return list(points)
    edges = [round(i * count / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    parts = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def curves_chart(label: str, series: Mapping[str, Points]) -> str:
    """Loss against step, one line for each method; at least one curve must have a point."""
    width, height, left, right, top, bottom = 440, 270, 48, 10, 10, 40
    thin = {method: thinned(points) for method, points in series.items() if points}
    ys = [y for points in thin.values() for _, y in points]
    last = max(x for points in thin.values() for x, _ in points)
    x_ticks = [t for t in ticks(0.0, last) if t <= last] or [0.0]
    y_ticks = ticks(min(ys), max(ys))
    low, high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + x / max(last, 1e-9) * (width - left - right)
        return across, top + (high - y) / (high - low) * (height - top - bottom)

    parts = []
    for mark in y_ticks:
        y = place(0, mark)[1]
        parts += [_line(left, y, width - right, y, "grid"), _text(left - 6, y + 4, _number(mark), "tick", "end")]
    for mark in x_ticks:
        parts.append(_text(place(mark, low)[0], height - bottom + 17, _number(mark), "tick", "middle"))
    parts.append(_text((left + width - right) / 2, height - 5, "step", "label", "middle"))
    for method, points in thin.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        tip = f"<title>{escape(method_label(method))}</title>"
        parts.append(f'<polyline points="{path}" class="curve {tone(method)}"{_dash(method)}>{tip}</polyline>')
    return _svg(width, height, label, parts)
