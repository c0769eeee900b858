"""A table as HTML."""

from __future__ import annotations

from collections.abc import Collection
from html import escape

from .compared import Compared
from .grid import Grid, grid
from .tables import CHANCE, MISSING, Cell, Mark, Table


def scroll(label: str, content: str, css: str = "") -> str:
    """A box of its own for what may be wider than a phone."""
    return f'<div class="scroll {css}" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>'


def swatch(compared: Compared, name: str) -> str:
    """The colour of a model's marks in charts."""
    tone = compared.tone(name) if any(model.name == name for model in compared.drawn) else None
    return "" if tone is None else f'<i class="swatch m{tone}"></i>'


def table_html(table: Table, compared: Compared, said: Collection[str] = ()) -> str:
    """Heading, figures with their intervals, marks, and below them the notes that are not `said` already."""
    laid = grid(table)
    rows = []
    for place, line in enumerate(laid.lines):
        ruled = place and line.kind in ("chance", "mean") and laid.lines[place - 1].kind != line.kind
        css = f"{line.kind} ruled" if ruled else line.kind
        mark = swatch(compared, line.model) if line.model else ""
        tag = ' <small class="tag">reference</small>' if line.kind == "reference" and compared.others else ""
        cells = "".join(_cell(cell, compared.reference.name) for cell in line.cells)
        rows.append(f'<tr class="{css}"><th scope="row">{mark}{escape(line.label)}{tag}</th>{cells}</tr>')
    css = "figures by-figure" if not table.by_model else "figures dense" if len(laid.labels) > 12 else "figures"
    content = f'<table class="{css}">{_head(laid, table, compared)}<tbody>{"".join(rows)}</tbody></table>'
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes if note not in said)
    return scroll(table.title, content) + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _head(laid: Grid, table: Table, compared: Compared) -> str:
    models = set() if table.by_model else {row.label for row in table.rows if row.label != CHANCE}
    labels = "".join(
        f'<th scope="col">{swatch(compared, label) if label in models else ""}{escape(label)}</th>'
        for label in laid.labels
    )
    if not laid.groups:
        return f'<thead class="one"><tr><th scope="col">{escape(laid.corner)}</th>{labels}</tr></thead>'
    groups = "".join(
        f'<th colspan="{span}" scope="colgroup">{escape(text)}</th>' if span > 1 else f"<th>{escape(text)}</th>"
        for text, span in laid.groups
    )
    corner = f'<th rowspan="2" scope="col">{escape(laid.corner)}</th>'
    return f"<thead><tr>{corner}{groups}</tr><tr>{labels}</tr></thead>"


def arrow(mark: Mark, reference: str) -> str:
    """A mark against the reference; nothing where there is none."""
    if not mark:
        return ""
    said = escape(f"{mark} than {reference}")
    return f'<sup class="{mark}" title="{said}" aria-label="{said}">{"▲" if mark == "better" else "▼"}</sup>'


def _cell(cell: Cell, reference: str) -> str:
    if cell.value is None:
        return f'<td class="none">{MISSING}</td>'
    text = f"<b>{cell.text}</b>" if cell.best else cell.text
    mark = arrow(cell.mark, reference)
    interval = f'<span class="ci">{cell.aside}</span>' if cell.aside else ""
    return f"<td>{text}{mark}{interval}</td>"
