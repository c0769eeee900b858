"""The one table of a report: methods by families of tasks, for the terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ProclipError

if TYPE_CHECKING:
    from rich.console import Console

METHODS = {
    "clip": "CLIP",
    "llm2clip": "LLM2CLIP",
    "lit": "LiT",
    "stage1": "Stage 1 only",
    "stage1_contrastive": "Stage 1 + contrastive",
    "proclip": "ProCLIP",
    "proclip_multilingual": "ProCLIP multilingual",
}
"""Names of the methods, in the order of the table; others follow under the key that they have."""
ORIGINAL = "clip"
"""The method that all others start from: what is forgotten is measured against it."""
MISSING = "–"
"""Shown where a method has no such figure."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A family of tasks, shown by one figure."""

    key: str
    """Key of the figure in results.json."""
    group: str
    """First line of the heading."""
    label: str
    """Second line of the heading."""
    is_score: bool = True
    """Whether more is better; then the best is marked and the figure is shown in per cent."""

    @property
    def title(self) -> str:
        """Heading in one line."""
        return f"{self.group} {self.label}".strip()


COLUMNS = (
    Column(key="zero_shot/openmoji", group="Zero-shot", label="OpenMoji"),
    Column(key="zero_shot/twemoji", group="Zero-shot", label="Twemoji"),
    Column(key="retrieval_short/i2t_r@1", group="Short", label="i→t"),
    Column(key="retrieval_short/t2i_r@1", group="Short", label="t→i"),
    Column(key="retrieval_long/i2t_r@1", group="Long", label="i→t"),
    Column(key="retrieval_long/t2i_r@1", group="Long", label="t→i"),
    Column(key="multilingual/mean", group="Languages", label="mean"),
    Column(key="pairs/mean", group="Pairs", label="mean"),
    Column(key="hard_negatives/mean", group="Hard", label="negatives"),
    Column(key="linear_probe/openmoji", group="Linear", label="probe"),
    Column(key="cka", group="CKA", label="to CLIP", is_score=False),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure as it is shown."""

    value: float | None
    """The figure, 0 to 1; None where there is none."""
    text: str
    """The figure in per cent with one digit, CKA with three."""
    best: bool = False
    """Whether no other method shows a higher one."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method's figures, or the chance levels."""

    method: str
    """Key of the method; ``chance`` for the last row."""
    label: str
    """Its name."""
    cells: tuple[Cell, ...]
    """One for each column."""


def method_label(method: str) -> str:
    """Name of a method as it is shown."""
    return METHODS.get(method, method)


def ordered_methods(results: Mapping[str, Any]) -> list[str]:
    """Methods that the results have, known ones first and in the order of `METHODS`.

    Raises:
        ProclipError: there are none.
    """
    methods = results.get("methods")
    if not isinstance(methods, Mapping) or not methods:
        raise ProclipError("the results have no figures: 'methods' must map each method to its figures")
    return [m for m in METHODS if m in methods] + [m for m in methods if m not in METHODS]


def used_columns(results: Mapping[str, Any]) -> tuple[Column, ...]:
    """Columns of which at least one method has the figure."""
    return tuple(c for c in COLUMNS if any(c.key in results["methods"][m] for m in ordered_methods(results)))


def shown(value: float | None, column: Column) -> str:
    """A figure as text."""
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" if column.is_score else f"{value:.3f}"


def summary_rows(results: Mapping[str, Any]) -> list[Row]:
    """Rows for `used_columns`: the methods in order, then chance if the results have it.

    The best of a column is marked, and so is every other that reads the same. CKA says how far the image encoder
    moved, which is no score: none is marked.

    Raises:
        ProclipError: the results have no methods.
    """
    methods, columns = ordered_methods(results), used_columns(results)
    figures: dict[str, Mapping[str, float]] = {m: results["methods"][m] for m in methods}
    best: dict[str, str] = {}
    for column in columns:
        if column.is_score:
            best[column.key] = shown(max(f[column.key] for f in figures.values() if column.key in f), column)

    def row(method: str, label: str, values: Mapping[str, float], *, compete: bool) -> Row:
        cells = []
        for column in columns:
            text = shown(values.get(column.key), column)
            cells.append(Cell(value=values.get(column.key), text=text, best=compete and best.get(column.key) == text))
        return Row(method=method, label=label, cells=tuple(cells))

    rows = [row(method, method_label(method), figures[method], compete=True) for method in methods]
    if results.get("chance"):
        rows.append(row("chance", "Chance", results["chance"], compete=False))
    return rows


def markdown_table(results: Mapping[str, Any]) -> str:
    """The table in Markdown: per cent, the best of each column in bold."""
    rows, columns = summary_rows(results), used_columns(results)
    lines = [
        "| Method | " + " | ".join(column.title for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for row in rows:
        label = row.label.replace("|", "\\|")
        lines.append(f"| {label} | " + " | ".join(f"**{c.text}**" if c.best else c.text for c in row.cells) + " |")
    return "\n".join(lines) + "\n"


def _print_columns(rows: Sequence[Row], columns: Sequence[Column], first: int, console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    table.add_column("\nMethod", no_wrap=True)
    for column in columns:
        table.add_column(f"{column.group}\n{column.label}", justify="right", no_wrap=True)
    for row in rows:
        if row.method == "chance":
            table.add_section()
        cells = row.cells[first : first + len(columns)]
        style = "dim" if row.method == "chance" else ""
        table.add_row(Text(row.label, style=style), *(Text(c.text, style="bold" if c.best else style) for c in cells))
    console.print(table)


def print_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the table in per cent, the best of each column in bold; in several parts where the terminal is narrow.

    Raises:
        ProclipError: the results have no methods.
    """
    from rich.console import Console

    console = console or Console()
    rows, columns = summary_rows(results), used_columns(results)
    space = console.width - max(len(row.label) for row in rows) - 3
    widths = [max(len(column.group), len(column.label), 5) + 2 for column in columns]
    first = 0
    while first < len(columns):
        count = 1
        while first + count < len(columns) and sum(widths[first : first + count + 1]) <= space:
            count += 1
        _print_columns(rows, columns[first : first + count], first, console)
        first += count
