"""Tables as Markdown, LaTeX, CSV and on a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .grid import Grid, Line, grid
from .tables import Cell, Table

if TYPE_CHECKING:
    from rich.console import Console

ARROWS = {"better": "▲", "worse": "▼", "": ""}
LATEX_ARROWS = {"better": r"$^{\uparrow}$", "worse": r"$^{\downarrow}$", "": ""}
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\rightarrow$", "▲": r"$\uparrow$",
    "▼": r"$\downarrow$", "–": "--", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}", "’": "'",
    "|": r"\textbar{}", "†": r"\textdagger{}", '"': r"\textquotedbl{}", "\n": " ",
}  # fmt: skip
CSV_FIELDS = (
    "table", "model", "group", "label", "keys", "value", "low", "high", "seed_deviation", "difference",
    "difference_low", "difference_high", "p_value", "best", "complete",
)  # fmt: skip


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    interval = f" <sub>{cell.aside}</sub>" if cell.aside else ""
    return f"{text}{ARROWS[cell.mark]}{interval}"


def markdown(tables: Sequence[Table]) -> str:
    """Tables in Markdown, each below its title, with its notes."""
    parts = []
    for table in tables:
        laid = grid(table)
        heads = [column.title for column in table.columns] if table.by_model else list(laid.labels)
        lines = [_markdown_line([laid.corner, *heads]), "|---|" + "---:|" * len(heads)]
        lines += [_markdown_line([line.label, *map(_markdown_cell, line.cells)]) for line in laid.lines]
        notes = " ".join(table.notes)
        parts.append("\n".join([f"### {table.title}", "", table.about, "", *lines, *(["", notes] if notes else [])]))
    return "\n\n".join(parts) + "\n"


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def escape_latex(text: str) -> str:
    """A text in which nothing means anything to LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = (rf"\textbf{{{text}}}" if cell.best else text) + LATEX_ARROWS[cell.mark]
    return text + (rf" {{\tiny {escape_latex(cell.aside)}}}" if cell.aside else "")


def latex(tables: Sequence[Table]) -> str:
    """Tables in LaTeX, for a document that reads them in and has the packages booktabs and graphicx."""
    return "\n".join(
        ["% Needs \\usepackage{booktabs,graphicx}; read it with \\input.", *(_latex_table(table) for table in tables)]
    )


def _latex_table(table: Table) -> str:
    laid = grid(table)
    head = []
    if laid.groups:
        first, rules, place = [""], [], 2
        for text, span in laid.groups:
            first.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(text)}}}")
            rules += [rf"\cmidrule(lr){{{place}-{place + span - 1}}}"] if text else []
            place += span
        head = [" & ".join(first) + r" \\", "".join(rules)]
    head.append(" & ".join([laid.corner, *map(escape_latex, laid.labels)]) + r" \\")
    body = []
    for place, line in enumerate(laid.lines):
        if place and line.kind in ("chance", "mean") and laid.lines[place - 1].kind != line.kind:
            body.append(r"\midrule")
        body.append(" & ".join([escape_latex(line.label), *map(_latex_cell, line.cells)]) + r" \\")
    caption = escape_latex(" ".join([f"{table.title}.", table.about, *table.notes]))
    return "\n".join(
        [
            r"\begin{table*}", r"\centering", rf"\caption{{{caption}}}", rf"\label{{tab:{table.name}}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(laid.labels)}}}", r"\toprule",
            *head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}}", r"\end{table*}", "",
        ]
    )  # fmt: skip


def csv_text(tables: Sequence[Table]) -> str:
    """A line for each figure: shares from 0 to 1, as measured, none rounded; empty where it is not known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if cell.value is None:
                    continue
                difference = cell.difference
                writer.writerow(
                    [
                        table.name, row.label, column.group, column.label, ";".join(column.keys), cell.value,
                        *(cell.interval or ("", "")), "" if cell.spread is None else cell.spread,
                        *(difference or ("", "", "", "")), int(cell.best), int(cell.complete),
                    ]
                )  # fmt: skip
    return out.getvalue()


def print_tables(tables: Sequence[Table], console: Console | None = None) -> None:
    """Print tables, the best bold; in several parts where the terminal is narrow."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    for table in tables:
        console.print(Text(f"\n{table.title}", style="bold"))
        _print_grid(table, grid(table), console)
        for note in table.notes:
            console.print(Text(note, style="dim"))


def _print_grid(table: Table, laid: Grid, console: Console) -> None:
    heads = [f"{c.group}\n{c.heading}" if laid.groups else c.heading for c in table.columns] if table.by_model else []
    heads = heads or list(laid.labels)
    widths = [
        3 + max(*(len(part) for part in head.split("\n")), *(len(line.cells[place].text) for line in laid.lines))
        for place, head in enumerate(heads)
    ]
    space, first = console.width - max(len(line.label) for line in laid.lines) - 3, 0
    while first < len(heads):
        count = 1
        while first + count < len(heads) and sum(widths[first : first + count + 1]) <= space:
            count += 1
        _print_part(laid.corner, heads[first : first + count], laid.lines, first, console)
        first += count


def _print_part(corner: str, heads: Sequence[str], lines: Sequence[Line], first: int, console: Console) -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    deep = any("\n" in head for head in heads)
    shown.add_column(f"\n{corner}" if deep else corner, no_wrap=True)
    for head in heads:
        shown.add_column(Text(head, justify="right"), justify="right", no_wrap=True)
    for place, line in enumerate(lines):
        if place and line.kind in ("chance", "mean") and lines[place - 1].kind != line.kind:
            shown.add_section()
        style = "dim" if line.kind == "chance" else ""
        cells = line.cells[first : first + len(heads)]
        texts = [Text(f"{c.text}{ARROWS[c.mark] or ' '}", style="bold" if c.best else style) for c in cells]
        shown.add_row(Text(line.label, style=style), *texts)
    console.print(shown)
