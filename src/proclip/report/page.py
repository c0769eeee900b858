"""The page: one HTML file that holds all it shows. A section is a function; an empty one is ""."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape

from ..results import ModelResults
from ..results.gallery import Gallery
from .cards import data_cards, environment_card, model_cards
from .columns import (
    CLASSIFICATION,
    LONG_RETRIEVAL,
    SHORT_RETRIEVAL,
    Column,
    marked,
    per_cent,
    summary_columns,
    zero_shot_key,
)
from .compared import Compared
from .curves import Curves
from .drawing import Drawing, inline_svg
from .figures import make_drawings
from .gallery import gallery_html
from .html_table import arrow, scroll, swatch, table_html
from .names import benchmark_label
from .style import CSS
from .tables import CHANCE, MISSING, Table, ablation_table, make_tables

HEADLINES = {
    "Zero-shot, mean of 11 sets": tuple(zero_shot_key(name) for name in CLASSIFICATION),
    "Retrieval, text to image": tuple(f"{name}/t2i_r@1" for name in (*SHORT_RETRIEVAL, *LONG_RETRIEVAL)),
    "XM3600, mean of languages": ("xm3600/mean/t2i_r@1",),
    "MMVP, mean of patterns": ("mmvp_vlm/mean",),
    "Finding by long captions": ("mini-world/retrieval_long/t2i_r@1",),
    "Finding in other languages": ("mini-world/multilingual/mean/t2i_r@1",),
    "Telling near twins apart": ("mini-world/pairs/mean",),
    "Zero-shot classes": ("mini-world/zero_shot/openmoji/mean_per_class",),
}
"""Figures shown large; the first four that any model has."""
LAST = ("other", "ranks", "k-nn")
"""Tables that stand below the others."""
TITLE = "What was gained, and what was forgotten"
"""Of a page that compares models."""


def page(
    results: Sequence[ModelResults],
    *,
    title: str | None,
    lead: str = "",
    reference: str | None = None,
    galleries: Sequence[Gallery] = (),
    curves: Curves | None = None,
    ablation: Mapping[str, Sequence[ModelResults]] | None = None,
    acknowledgement: str = "",
) -> str:
    """The text of the page; see `write_report`."""
    compared = Compared(results, reference)
    title = title or (TITLE if compared.others else f"What {compared.reference.name} can do")
    tables = {table.name: table for table in make_tables(compared)}
    drawings = {drawing.name: drawing for drawing in make_drawings(compared, curves)}
    said = next(iter(tables.values())).notes
    by_task = [name for name in tables if name in drawings]
    sections = [
        headline(compared),
        *(
            table_section(tables[name], compared, () if place == 0 else said)
            for place, name in enumerate(tables)
            if name not in (*by_task, *LAST)
        ),
        change_section(compared, drawings),
        *(table_section(tables[name], compared, said, drawings[name]) for name in by_task),
        *(table_section(tables[name], compared, said) for name in LAST if name in tables),
        ablation_section(ablation, compared),
        figure_section(drawings["training"]) if "training" in drawings else "",
        gallery_html(galleries, compared),
        model_cards(compared),
        data_cards(compared),
        environment_card(compared.results),
        every_figure(compared),
    ]
    below = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(title)}</title><style>{CSS}</style></head><body><main>'
        f"<header><h1>{escape(title)}</h1>{below}{meta(compared)}</header>{''.join(sections)}"
        "<footer>Drawn from result files by <code>proclip report</code>. Every figure has its interval, its data and "
        f"its model above. {escape(acknowledgement)}</footer></main></body></html>\n"
    )


def meta(compared: Compared) -> str:
    """A line of what the page is about."""
    benchmarks = list(dict.fromkeys(name for model in compared.results for name in model.benchmarks))
    named = ", ".join(map(benchmark_label, benchmarks)) if len(benchmarks) <= 3 else str(len(benchmarks))
    seeds = {str(model.model["seed"]) for model in compared.results if model.model.get("seed") is not None}
    entries = [("Models", str(len(compared.results))), ("Benchmarks", named)]
    if compared.others:
        entries.append(("Compared with", compared.reference.name))
    if len(seeds) == 1:
        entries.append(("Seed", seeds.pop()))
    if hidden := len(compared.results) - len(compared.drawn):
        entries.append(("In tables but not in charts", f"the last {hidden} models"))
    return '<ul class="meta">' + "".join(f"<li>{escape(k)} <b>{escape(v)}</b></li>" for k, v in entries) + "</ul>"


def headline(compared: Compared) -> str:
    """The best of a few figures, large; the reference's and the best other model's, their difference, and chance."""
    columns = [Column(keys=keys, group=name, label="") for name, keys in HEADLINES.items()]
    columns = [c for c in columns if any(compared.value(m, c) is not None for m in compared.results)]
    columns = list(marked(columns, compared.results))
    if not columns:
        columns = [column for column in summary_columns(compared.results) if column.is_score]
    tiles = "".join(_tile(compared, column) for column in columns[:4])
    return f'<div class="stats">{tiles}</div>' if tiles else ""


def _tile(compared: Compared, column: Column) -> str:
    values = {m.name: v for m in compared.results if (v := compared.value(m, column)) is not None}
    best = max(values, key=lambda name: values[name])
    interval = compared.interval(next(m for m in compared.results if m.name == best), column)
    ends = f"95 %: {column.shown(interval.low)}–{column.shown(interval.high)}" if interval else ""
    reference = compared.reference.name
    others = sorted((name for name in values if name != reference), key=lambda name: -values[name])[:1]
    beside = [(name, values[name]) for name in (reference, *others) if name in values and name != best]
    if (chance := compared.chance(column)) is not None:
        beside.append((CHANCE, chance))
    listed = "".join(f"<li>{escape(name)} <b>{column.shown(value)}</b></li>" for name, value in beside)
    against = "".join(_against(compared, column, name) for name in others) if reference in values else ""
    return (
        f'<div class="stat"><em>{escape(column.title)}</em><strong>{column.shown(values[best])} '
        f"<small>{swatch(compared, best)}{escape(best)}</small></strong><p>{ends}</p>{against}<ul>{listed}</ul></div>"
    )


def _against(compared: Compared, column: Column, name: str) -> str:
    """What a model has over the reference in points, marked if that is told from 0; nothing if it cannot be asked."""
    model = next(m for m in compared.results if m.name == name)
    found = compared.difference(model, compared.reference, column)
    if found is None:
        return ""
    change, low, high = (per_cent(value, sign=True) for value in found[:3])
    mark = arrow("better" if found.low > 0 else "worse", compared.reference.name) if found.significant else ""
    said = f"{escape(name)} against {escape(compared.reference.name)}"
    return f"<p>{said}: <b>{change}</b>{mark} ({low} to {high})</p>"


def table_section(table: Table, compared: Compared, said: Collection[str] = (), drawing: Drawing | None = None) -> str:
    """A table, below its figure if there is one; notes that are `said` already are left out."""
    shown = table_html(table, compared, said)
    if drawing is None:
        return f'<section><h2>{escape(table.title)}</h2><p class="lead">{escape(table.about)}</p>{shown}</section>'
    return (
        f'<section><h2>{escape(drawing.title)}</h2><p class="lead">{escape(drawing.about)}</p>'
        f"<figure>{inline_svg(drawing)}</figure><details><summary>The figures as a table</summary>{shown}</details>"
        "</section>"
    )


def figure_section(drawing: Drawing) -> str:
    """A figure alone."""
    return (
        f'<section><h2>{escape(drawing.title)}</h2><p class="lead">{escape(drawing.about)}</p>'
        f"<figure>{inline_svg(drawing)}</figure></section>"
    )


def change_section(compared: Compared, drawings: Mapping[str, Drawing]) -> str:
    """Forgetting against gain, then task by task."""
    shown = [name for name in drawings if name.startswith("forgetting-") or name == "changes"]
    return "".join(figure_section(drawings[name]) for name in shown)


def ablation_section(ablation: Mapping[str, Sequence[ModelResults]] | None, compared: Compared) -> str:
    """The ablation's table, if there is one."""
    if not ablation:
        return ""
    columns = summary_columns([model for seeds in ablation.values() for model in seeds])
    return table_section(ablation_table(ablation, columns), compared)


def every_figure(compared: Compared) -> str:
    """All that was measured, folded away."""
    keys = dict.fromkeys(
        f"{name}/{key}" for model in compared.results for name, one in model.benchmarks.items() for key in one.figures
    )
    head = "".join(f'<th scope="col">{escape(model.name)}</th>' for model in compared.results)
    rows = ""
    for key in keys:
        (column,) = marked([Column(keys=(key,), group="", label=key)], compared.results)
        values = [compared.value(model, column) for model in compared.results]
        cells = "".join(f"<td>{MISSING if value is None else column.shown(value)}</td>" for value in values)
        rows += f'<tr><th scope="row"><code>{escape(column.heading)}</code></th>{cells}</tr>'
    table = f'<table><thead class="one"><tr><th scope="col">Figure</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return (
        f"<section><h2>Every figure</h2><details><summary>{len(keys)} figures</summary>"
        f"{scroll('Every figure', table)}</details></section>"
    )
