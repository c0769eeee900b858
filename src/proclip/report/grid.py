"""A table as lines of cells: heading and body, whichever of models and figures are its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from .tables import Cell, Table


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the body."""

    label: str
    """Its heading."""
    cells: tuple[Cell, ...]
    """Its figures."""
    model: str | None
    """The model that it is, None for chance or a figure."""
    kind: str
    """``reference``, ``model``, ``chance``, ``figure`` or ``mean``."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Heading and body of a table."""

    corner: str
    """Heading of the first column."""
    groups: tuple[tuple[str, int], ...]
    """First line of the heading: texts and how many columns each spans; empty where there is one line alone."""
    labels: tuple[str, ...]
    """Last line of the heading, one for each column."""
    lines: tuple[Line, ...]
    """The body."""


def grid(table: Table) -> Grid:
    """Lay a table out."""
    if table.by_model:
        grouped = any(column.group for column in table.columns)
        groups = [(name, len(list(members))) for name, members in groupby(table.columns, key=lambda c: c.group)]
        lines = [
            Line(label=row.label, cells=row.cells, model=row.label if row.kind != "chance" else None, kind=row.kind)
            for row in table.rows
        ]
        return Grid(
            corner=table.corner,
            groups=tuple(groups) if grouped else (),
            labels=tuple(column.heading for column in table.columns),
            lines=tuple(lines),
        )
    return Grid(corner="", groups=(), labels=tuple(row.label for row in table.rows), lines=tuple(_figure_lines(table)))


def _figure_lines(table: Table) -> Sequence[Line]:
    same_group = len({column.group for column in table.columns}) == 1
    return [
        Line(
            label=column.heading if same_group else column.title,
            cells=tuple(row.cells[place] for row in table.rows),
            model=None,
            kind="mean" if column.label.startswith("Mean") else "figure",
        )
        for place, column in enumerate(table.columns)
    ]
