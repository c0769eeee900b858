"""A figure of its own: points of a trade-off, joined in their order, as an SVG file that needs no style sheet."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from .svg import ticks

STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1c1d20}.soft{fill:#5b5e66}.grid{stroke:#e7e5de}"
    ".path{fill:none;stroke:#1d54a8;stroke-width:2}.dot{fill:#1d54a8}"
)


def trade_off(points: Mapping[str, tuple[float, float]], across: str, up: str) -> str:
    """One line through labelled points, such as alpha to (what is kept, what is gained).

    Args:
        points: label to (x, y), in the order in which they are joined; at least one.
        across: what x is, with its unit.
        up: what y is, with its unit.

    Returns:
        the text of an SVG file.
    """
    width, height, left, right, top, bottom = 560, 380, 60, 70, 30, 56
    x_ticks, y_ticks = (ticks(min(v), max(v)) for v in zip(*points.values(), strict=True))

    def place(x: float, y: float) -> tuple[float, float]:
        horizontal = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        vertical = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return left + horizontal * (width - left - right), height - bottom - vertical * (height - top - bottom)

    parts = [f'<rect width="{width}" height="{height}" fill="#fdfdfb"/>']
    for mark in y_ticks:
        y = place(x_ticks[0], mark)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for mark in x_ticks:
        x = place(mark, y_ticks[0])[0]
        parts.append(f'<text class="soft" x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{mark:g}</text>')
    placed = {label: place(*point) for label, point in points.items()}
    parts.append(f'<polyline class="path" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in placed.values())}"/>')
    for label, (x, y) in placed.items():
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text x="{x + 8:.1f}" y="{y - 6:.1f}">{escape(label)}</text>')
    parts.append(
        f'<text x="{(left + width - right) / 2}" y="{height - 12}" text-anchor="middle">{escape(across)}</text>'
    )
    parts.append(f'<text x="{left - 44}" y="18">{escape(up)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(up)} against {escape(across)}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )
