"""The page: one HTML file that holds all it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .gallery import GalleryItem, gallery_html
from .style import CSS
from .svg import change_bars, curves_chart, grouped_bars, legend, tone
from .table import (
    COLUMNS,
    MISSING,
    ORIGINAL,
    Column,
    Row,
    method_label,
    ordered_methods,
    shown,
    summary_rows,
    used_columns,
)

Curves = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Rows of metrics.jsonl by method and stage."""

HEADLINE = {
    "retrieval_long/t2i_r@1": "Finding by long captions",
    "multilingual/mean": "Finding in other languages",
    "pairs/mean": "Telling near twins apart",
    "zero_shot/openmoji": "Zero-shot classes",
}
"""Figures shown large, above the table."""
SUBJECT = "proclip"
"""The method whose figures are shown large."""
NOTES = {
    "clip": "the original model with its own text encoder; nothing is trained",
    "llm2clip": "the language model and an adapter from scratch, contrastive tuning alone",
    "lit": "the adapter alone is tuned contrastively; the image encoder is locked",
    "stage1": "the adapter is taught by CLIP’s text encoder; no image is seen",
    "stage1_contrastive": "stage 1, then contrastive tuning with nothing that holds the image encoder back",
    "proclip": "stage 1, then contrastive tuning held back by self-distillation",
    "proclip_multilingual": "ProCLIP whose stage 1 also reads captions in other languages",
}
STAGES = {
    "distill": "Stage 1: representation inheritance",
    "tune": "Stage 2: contrastive tuning",
    "pretrain": "Pretraining of CLIP",
}
LANGUAGES = {
    "ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fa": "Persian", "fr": "French",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "pt": "Portuguese", "ru": "Russian",
    "tr": "Turkish", "zh": "Chinese",
}  # fmt: skip


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _scroll(label: str, content: str, css: str = "") -> str:
    """A box of its own for what may be wider than a phone."""
    return f'<div class="scroll {css}" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>'


def _meta(results: Mapping[str, Any]) -> str:
    benchmark, entries = results.get("benchmark", {}), []
    if "name" in benchmark:
        entries.append(("Benchmark", f"{benchmark['name']}, version {benchmark.get('version', '?')}"))
    if "checksum" in benchmark:
        entries.append(("Checksum", str(benchmark["checksum"])[:12]))
    if "seed" in results:
        entries.append(("Seed", str(results["seed"])))
    if results.get("seconds"):
        entries.append(("Time in all", _duration(sum(results["seconds"].values()))))
    items = "".join(f"<li>{escape(name)} <b>{escape(value)}</b></li>" for name, value in entries)
    return f'<ul class="meta">{items}</ul>'


def _headline(results: Mapping[str, Any]) -> str:
    methods, columns = results["methods"], {column.key: column for column in COLUMNS}
    tiles = []
    for key, name in HEADLINE.items():
        if key not in methods.get(SUBJECT, {}):
            continue
        beside = [ORIGINAL, "llm2clip", *(["proclip_multilingual"] if key == "multilingual/mean" else [])]
        others = [(method_label(m), methods[m][key]) for m in beside if key in methods.get(m, {})]
        if key in results.get("chance", {}):
            others.append(("Chance", results["chance"][key]))
        listed = "".join(f"<li>{escape(who)} <b>{shown(value, columns[key])}</b></li>" for who, value in others)
        tiles.append(
            f'<div class="stat"><em>{escape(name)}</em><strong>{shown(methods[SUBJECT][key], columns[key])} '
            f"<small>{escape(method_label(SUBJECT))}</small></strong><ul>{listed}</ul></div>"
        )
    return f'<div class="stats">{"".join(tiles)}</div>' if tiles else ""


def _table_head(columns: Sequence[Column]) -> str:
    first, second = '<th rowspan="2" scope="col">Method</th>', ""
    for group, members in groupby(columns, key=lambda column: column.group):
        labels = [column.label for column in members]
        span = f' colspan="{len(labels)}" scope="colgroup"' if len(labels) > 1 else ' scope="col"'
        first += f"<th{span}>{escape(group)}</th>"
        second += "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    return f"<thead><tr>{first}</tr><tr>{second}</tr></thead>"


def _table_row(row: Row) -> str:
    css = "chance" if row.method == "chance" else "ours" if row.method.startswith(SUBJECT) else ""
    cells = "".join(
        f"<td>{'<strong>' if c.best else ''}{c.text}{'</strong>' if c.best else ''}</td>" for c in row.cells
    )
    swatch = f'<span class="swatch {"" if row.method == "chance" else tone(row.method)}"></span>'
    return f'<tr class="{css}"><th scope="row">{swatch}{escape(row.label)}</th>{cells}</tr>'


def _summary(results: Mapping[str, Any]) -> str:
    body = "".join(_table_row(row) for row in summary_rows(results))
    table = f"<table>{_table_head(used_columns(results))}<tbody>{body}</tbody></table>"
    notes = "".join(
        f"<dt>{escape(method_label(method))}</dt><dd>{escape(NOTES[method])}</dd>"
        for method in ordered_methods(results)
        if method in NOTES
    )
    return (
        "<h2>All methods, all tasks</h2>"
        '<p class="lead">Per cent right on concepts that were never trained on; the best of each column is bold. '
        "Zero-shot is the mean over classes, retrieval is recall at 1 (i→t: an image’s text; t→i: a text’s image), "
        "languages are t→i over all but English. CKA compares the image encoder with the original "
        "one: 1 is unmoved, and it is no score.</p>"
        f'{_scroll("Figures of all methods", table)}<dl class="methods">{notes}</dl>'
    )


def _forgetting(results: Mapping[str, Any]) -> str:
    methods = results["methods"]
    original = methods.get(ORIGINAL, {})
    panels: list[tuple[Column, dict[str, float]]] = []
    for column in used_columns(results):
        if column.is_score and column.key in original:
            changes = {
                method: 100 * (methods[method][column.key] - original[column.key])
                for method in ordered_methods(results)
                if method != ORIGINAL and column.key in methods[method]
            }
            if changes:
                panels.append((column, changes))
    if not panels:
        return ""
    every = [change for _, changes in panels for change in changes.values()]
    low, high = min(0.0, *every), max(0.0, *every)
    figures = "".join(
        f"<figure><h3>{escape(column.title)}</h3>{change_bars(column.title, changes, low, high)}</figure>"
        for column, changes in panels
    )
    return (
        "<h2>Gained and forgotten, task by task</h2>"
        '<p class="lead">Each bar is a method’s figure minus the original CLIP’s, in points, on one scale for all '
        f'tasks. Left of the line is what was forgotten.</p><div class="panels">{figures}</div>'
    )


def _languages(results: Mapping[str, Any]) -> str:
    methods, start, end = results["methods"], "multilingual/", "/t2i_r@1"
    keys = {key for figures in methods.values() for key in figures if key.startswith(start) and key.endswith(end)}
    if not keys:
        return ""
    codes = sorted((key.removeprefix(start).removesuffix(end) for key in keys), key=lambda c: (c != "en", c))
    names = [LANGUAGES.get(code, code) for code in codes]
    series = {
        method: [methods[method].get(f"{start}{code}{end}") for code in codes]
        for method in ordered_methods(results)
        if keys & methods[method].keys()
    }
    chance = [results.get("chance", {}).get(f"{start}{code}{end}") for code in codes]
    chart = grouped_bars("Text-to-image recall at 1 by language and method", names, series, chance)
    has_chance = any(level is not None for level in chance)
    return (
        "<h2>Language by language</h2>"
        '<p class="lead">Text-to-image recall at 1, per cent, for each concept’s name in a language. The adapter is '
        "trained in English unless a method’s name says otherwise.</p>"
        f"<figure>{legend(list(series), chance=has_chance)}{_scroll('Recall by language', chart, 'languages')}</figure>"
    )


def _training(curves: Curves) -> str:
    stages: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for method, by_stage in curves.items():
        for stage, rows in by_stage.items():
            points = [(float(row["step"]), float(row["loss"])) for row in rows if "loss" in row and "step" in row]
            if points:
                stages.setdefault(stage, {})[method] = points
    if not stages:
        return ""
    order = [s for s in STAGES if s in stages] + [s for s in stages if s not in STAGES]
    figures = "".join(
        f"<figure><h3>{escape(STAGES.get(stage, stage))}</h3>{legend(list(stages[stage]), lines=True)}"
        f"{curves_chart(f'Loss by step, {STAGES.get(stage, stage)}', stages[stage])}</figure>"
        for stage in order
    )
    return (
        "<h2>Training</h2>"
        '<p class="lead">The loss that is differentiated, by optimiser step. In stage 2, ProCLIP’s has the regulariser '
        f'added, so its level is not to be compared with the others’.</p><div class="wide">{figures}</div>'
    )


def _gallery(items: Sequence[GalleryItem]) -> str:
    if not items:
        return ""
    return (
        "<h2>What is found</h2>"
        '<p class="lead">A text, the picture it means, and the nearest five pictures under each method, best first. '
        f"The right one has a frame and a tick.</p>{gallery_html(items)}"
    )


def _details(results: Mapping[str, Any]) -> str:
    methods, chance = ordered_methods(results), results.get("chance", {})
    keys = list(dict.fromkeys(key for method in methods for key in results["methods"][method]))
    head = "".join(f'<th scope="col">{escape(method_label(method))}</th>' for method in methods)
    body = ""
    for key in sorted(keys):
        values = [results["methods"][method].get(key) for method in methods]
        column = Column(key=key, group="", label="", is_score=key != "cka")
        cells = "".join(f"<td>{shown(value, column)}</td>" for value in (*values, chance.get(key)))
        body += f'<tr><th scope="row"><code>{escape(key)}</code></th>{cells}</tr>'
    figures = f'<table><thead><tr><th scope="col">Figure</th>{head}<th scope="col">Chance</th></tr></thead>'
    figures = _scroll("Every figure", f"{figures}<tbody>{body}</tbody></table>")
    html = f"<h2>Details</h2><details><summary>Every figure ({len(keys)})</summary>{figures}</details>"
    if results.get("seconds"):
        steps = "".join(
            f'<tr><th scope="row">{escape(step)}</th><td>{_duration(seconds)}</td></tr>'
            for step, seconds in results["seconds"].items()
        )
        html += (
            "<details><summary>Time of each step</summary>"
            f'<table class="narrow"><tbody>{steps or MISSING}</tbody></table></details>'
        )
    return html


def write_report(
    results: Mapping[str, Any],
    *,
    curves: Curves,
    gallery: Sequence[GalleryItem],
    out: Path,
    acknowledgement: str = "",
) -> None:
    """Write the page of a comparison: one HTML file, pictures and charts inside, nothing loaded from elsewhere.

    Args:
        results: what ``results.json`` holds: ``methods`` (figures from 0 to 1 by method), and if there ``benchmark``,
            ``seed``, ``seconds`` and ``chance``.
        curves: by method and stage the rows of ``metrics.jsonl``; those with ``step`` and ``loss`` are drawn.
        gallery: queries and what was found.
        out: the file to write; its folder is made.
        acknowledgement: who made the pictures of the gallery, and under which licences.

    Raises:
        ProclipError: the results have no methods, or an image of the gallery cannot be read.
    """
    name = str(results.get("benchmark", {}).get("name", "a benchmark"))
    summary = _summary(results)  # first, for it refuses results that have no methods
    sections = "".join(
        (
            _meta(results),
            _headline(results),
            summary,
            _forgetting(results),
            _languages(results),
            _training(curves),
            _gallery(gallery),
            _details(results),
        )
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>ProCLIP on {escape(name)}</title><style>{CSS}</style></head><body><main>"
        f'<h1>ProCLIP on {escape(name)}</h1><p class="lead">What a language model’s embeddings bring to CLIP, '
        f"and what CLIP forgets on the way.</p>{sections}"
        "<footer>Drawn from the <code>results.json</code> beside this page; "
        "<code>proclip report</code> draws it again. "
        f"{escape(acknowledgement)}</footer></main></body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
