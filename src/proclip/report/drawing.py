"""From a drawn figure to files and to a piece of a page. matplotlib is imported only here and where figures are drawn.

Figures are drawn in the light colours below. In a page each of these becomes the style sheet's variable of the same
name, so that a figure follows light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ..errors import ProclipError
from ..files import write_atomically
from .names import TONES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, GRID, PAPER = "#1c1d20", "#5b5e66", "#e7e5de", "#fdfdfb"
VARIABLES = {
    INK: "--ink", SOFT: "--soft", GRID: "--grid", PAPER: "--paper",
    **{colour: f"--m{place}" for place, colour in enumerate(TONES)},
}  # fmt: skip
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
"""What tells models apart beside colour."""
STYLE: dict[Any, Any] = {
    "font.family": ["Liberation Sans", "Arial", "DejaVu Sans"], "font.size": 9, "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT, "axes.titlecolor": INK, "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.titlepad": 7, "axes.facecolor": "none", "axes.linewidth": 0.7,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.unicode_minus": True, "grid.color": GRID, "grid.linewidth": 0.8, "xtick.color": SOFT, "ytick.color": SOFT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "xtick.major.size": 0, "ytick.major.size": 0,
    "figure.facecolor": PAPER, "figure.dpi": 100, "savefig.dpi": 200, "legend.frameon": False, "legend.fontsize": 9,
    "lines.linewidth": 1.6, "hatch.linewidth": 0.6, "svg.fonttype": "none", "svg.hashsalt": "proclip",
    "figure.constrained_layout.use": True, "figure.constrained_layout.h_pad": 0.07,
}  # fmt: skip
FONTS = "font-family: 'Liberation Sans', Arial, Helvetica, 'DejaVu Sans', sans-serif"
"""Of an SVG file; in a page a figure has the page's."""
WIDE, NARROW = 10.8, 3.65
"""Widths in inches: of a page, and of a phone."""
Draw = Callable[[bool], "Figure"]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure of a report, drawn when it is asked for."""

    name: str
    """Name of its files."""
    title: str
    """Heading."""
    about: str
    """What it shows, in a sentence; stands above it."""
    description: str
    """What is to be seen, for those who do not see it."""
    draw: Draw
    """Draws it: as wide as a page, or, if its argument is true, as narrow as a phone."""


@contextmanager
def style() -> Iterator[None]:
    """Our style within matplotlib, and as it was afterwards.

    Raises:
        ProclipError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.font_manager import fontManager
    except ModuleNotFoundError:
        raise ProclipError("figures need matplotlib: pip install 'proclip-align[eval]'") from None
    there = {font.name for font in fontManager.ttflist}
    families = [name for name in STYLE["font.family"] if name in there]
    with rc_context({**STYLE, "font.family": families}):
        yield


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue()


def svg_file(drawing: Drawing) -> str:
    """The figure as the text of an SVG file."""
    with style():
        root = _cleaned(_svg(drawing.draw(False)), f"{FONTS};")
    _describe(root, drawing)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def png_file(drawing: Drawing) -> bytes:
    """The figure as the content of a PNG file."""
    out = io.BytesIO()
    with style():
        drawing.draw(False).savefig(out, format="png", metadata={"Title": drawing.title, "Software": None})
    return out.getvalue()


def save_drawing(drawing: Drawing, folder: Path) -> list[Path]:
    """Write ``NAME.png`` and ``NAME.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{drawing.name}.png", folder / f"{drawing.name}.svg"]
    write_atomically(paths[0], png_file(drawing))
    write_atomically(paths[1], svg_file(drawing))
    return paths


def inline_svg(drawing: Drawing) -> str:
    """The figure as HTML, wide and narrow, of which the style sheet shows one; its colours are the page's variables."""
    with style():
        both = [_inline(drawing, narrow) for narrow in (False, True)]
    label = escape(drawing.title, quote=True)
    return (
        f'<div class="chart wide-chart scroll" tabindex="0" role="region" aria-label="{label}">{both[0]}</div>'
        f'<div class="chart narrow-chart">{both[1]}</div>'
    )


def _inline(drawing: Drawing, narrow: bool) -> str:
    root = _cleaned(_svg(drawing.draw(narrow)), "")
    for background in [(p, c) for p in root.iter() for c in p if c.get("id") == "patch_1"]:
        background[0].remove(background[1])
    prefix = f"{drawing.name}-{'narrow' if narrow else 'wide'}-"
    _describe(root, drawing, prefix)
    width = float(root.attrib["viewBox"].split()[2])
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("style", f"width: {width * 4 / 3:.0f}px")  # a point is 4/3 of a pixel
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.set(name, prefix + value)
            elif name == "href" and value.startswith("#"):
                element.set(name, f"#{prefix}{value[1:]}")
            else:
                element.set(name, _in_page(value, prefix))
    return ElementTree.tostring(root, encoding="unicode")


def _in_page(value: str, prefix: str) -> str:
    """An attribute's value with variables for colours and names of its own."""
    value = value.replace("url(#", f"url(#{prefix}")
    for colour, variable in VARIABLES.items():
        value = value.replace(colour, f"var({variable})")
    return value


def _cleaned(text: str, font: str) -> ElementTree.Element:
    """What matplotlib wrote, without name spaces, metadata and style elements, and shorter numbers."""
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in list(element.attrib):
            value = re.sub(r"rotate\(-0 [^)]*\)", "", element.attrib.pop(name)).replace("\n", "")
            if name in ("d", "x", "y", "transform", "width", "height"):
                value = re.sub(r"(\.\d\d)\d+", r"\1", value)
            if value := re.sub(r"font-family: [^;]*;?", font, value):
                element.set(name.rpartition("}")[2], value)
        element.text = element.text if (element.text or "").strip() else None
        element.tail = None
    return root


def _describe(root: ElementTree.Element, drawing: Drawing, prefix: str = "") -> None:
    """Give it a role, a title and a description that screen readers speak."""
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}title {prefix}desc" if prefix else "title desc")
    for place, (kind, text) in enumerate((("title", drawing.title), ("desc", drawing.description))):
        element = ElementTree.Element(kind, {"id": kind})
        element.text = text
        root.insert(place, element)
