"""What result files say: as a page that needs nothing beside it, as tables, and as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ProclipError
from ..files import write_atomically
from ..results import ModelResults
from ..results.gallery import Gallery
from .columns import summary_columns
from .compared import Compared
from .curves import Curves
from .figures import write_figures
from .page import page
from .tables import Table, ablation_table, make_tables
from .text_tables import csv_text, latex, markdown, print_tables

__all__ = [
    "Compared",
    "Curves",
    "Table",
    "ablation_table",
    "make_tables",
    "print_tables",
    "write_figures",
    "write_report",
]

WRITERS = {".md": markdown, ".tex": latex, ".csv": csv_text}


def write_report(
    results: Sequence[ModelResults],
    out: Path,
    *,
    title: str | None = None,
    lead: str = "",
    reference: str | None = None,
    galleries: Sequence[Gallery] = (),
    curves: Curves | None = None,
    ablation: Mapping[str, Sequence[ModelResults]] | None = None,
    acknowledgement: str = "",
) -> None:
    """Write what the results say: a page, or the tables alone, as the ending of `out` says.

    Args:
        results: models in the order in which they are shown.
        out: ``.html``: the page, with pictures and charts inside and nothing loaded from elsewhere; ``.md``, ``.tex``,
            ``.csv``: the tables. Its folder is made.
        title: of the page; one that fits a comparison, or a model alone, if None.
        lead: a sentence below the title.
        reference: name of the model that others are compared with; the first if None.
        galleries: of the models, by their names.
        curves: by model and stage the rows of its training's ``metrics.jsonl``.
        ablation: settings and the results of each seed.
        acknowledgement: who made the pictures of the galleries, and under which licences.

    Raises:
        ProclipError: another ending, no results or no figure in them, two results of one name, no such reference, or
            for the page matplotlib is not installed.
    """
    if out.suffix not in (".html", *WRITERS):
        raise ProclipError(f"{out}: a report's name ends in .html, {', '.join(WRITERS)}")
    if out.suffix == ".html":
        text = page(
            results, title=title, lead=lead, reference=reference, galleries=galleries, curves=curves,
            ablation=ablation, acknowledgement=acknowledgement,
        )  # fmt: skip
    else:
        tables = make_tables(Compared(results, reference))
        if ablation:
            columns = summary_columns([model for seeds in ablation.values() for model in seeds])
            tables.append(ablation_table(ablation, columns))
        text = WRITERS[out.suffix](tables)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)
