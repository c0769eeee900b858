"""Galleries of several models on one page: what each found for a query, and what it got wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import zip_longest
from typing import TypeVar, final

from ..results.gallery import Found, Gallery, Query, WrongChoice, WrongClass
from .compared import Compared
from .html_table import swatch
from .names import benchmark_label, part_label, task_label

MOST_QUERIES, MOST_ERRORS = 24, 12
"""Cards of queries, and of errors of one sort, that a page shows."""
T = TypeVar("T")


@final
class _Pictures:
    """Pictures of all galleries, each of which stands once in the page."""

    def __init__(self, galleries: Sequence[Gallery]) -> None:
        self.uris = {key: uri for gallery in galleries for key, uri in gallery.pictures.items()}
        self.used: dict[str, int] = {}

    def show(self, key: str, alt: str) -> str:
        """A picture that refers to where it stands."""
        number = self.used.setdefault(key, len(self.used))
        use = f'<use href="#pic{number}"/>'
        return f'<svg class="pic" viewBox="0 0 128 128" role="img" aria-label="{escape(alt)}">{use}</svg>'

    def defined(self) -> str:
        """All pictures that were shown."""
        images = "".join(
            f'<image id="pic{number}" width="128" height="128" href="{escape(self.uris[key])}"/>'
            for key, number in self.used.items()
        )
        return f'<svg class="store" width="0" height="0" aria-hidden="true"><defs>{images}</defs></svg>'


def gallery_html(galleries: Sequence[Gallery], compared: Compared) -> str:
    """Sections of what was found and of errors; nothing where there is no gallery."""
    pictures = _Pictures(galleries)
    queries = _merged(galleries, lambda g: g.queries, lambda q: (q.benchmark, q.task, q.direction, q.asked))
    classes = _merged(galleries, lambda g: g.wrong_classes, lambda w: (w.benchmark, w.task, w.picture))
    choices = _merged(galleries, lambda g: g.wrong_choices, lambda w: (w.benchmark, w.task, w.pictures, w.texts))
    text = (
        _section(
            "What is found",
            "A query, its answer, and the nearest five under each model, best first; the right ones have a frame and a "
            "tick. Queries are drawn by a fixed seed, not chosen.",
            [(_task(found), _query(found, pictures, compared)) for found in queries],
            MOST_QUERIES,
        )
        + _section(
            "Wrong classes",
            "Pictures that zero-shot classification got wrong: what is right, what each model took instead, and the "
            "cosine of each. The first errors in an order drawn by a fixed seed; a model that is not listed may have "
            "been right, or wrong elsewhere sooner.",
            [(_task(found), _wrong_class(found, pictures, compared)) for found in classes],
            MOST_ERRORS,
        )
        + _section(
            "Wrong details",
            "Pairs and captions that differ in one thing, and that a model got wrong. The figures are cosines of each "
            "picture (a line) with each text (a column); the right ones are framed.",
            [(_task(found), _wrong_choice(found, pictures, compared)) for found in choices],
            MOST_ERRORS,
        )
    )
    return text + pictures.defined() if text else ""


def _task(found: Mapping[str, Query | WrongClass | WrongChoice]) -> object:
    first = next(iter(found.values()))
    return first.benchmark, first.task


def _merged(
    galleries: Sequence[Gallery], items: Callable[[Gallery], Sequence[T]], same: Callable[[T], tuple[object, ...]]
) -> list[dict[str, T]]:
    """Items of all models that are about the same thing, by model, those of one task side by side.

    Args:
        galleries: of the models.
        items: which of their items.
        same: what an item is about; benchmark and task come first.
    """
    merged: dict[tuple[object, ...], dict[str, T]] = {}
    for together in zip_longest(*(items(gallery) for gallery in galleries)):  # so that no model's come first
        for gallery, item in zip(galleries, together, strict=True):
            if item is not None:
                merged.setdefault(same(item), {})[gallery.name] = item
    order = [gallery.name for gallery in galleries]
    by_task: dict[object, list[dict[str, T]]] = {}
    for key, found in merged.items():
        by_task.setdefault(key[:2], []).append({name: found[name] for name in order if name in found})
    return [found for group in by_task.values() for found in group]


def _share(cards: Sequence[tuple[object, str]], most: int) -> list[str]:
    """At most so many cards, an equal share of every task's, in their order; a card comes with its task."""
    by_task: dict[object, list[int]] = {}
    for place, (task, _) in enumerate(cards):
        by_task.setdefault(task, []).append(place)
    turns = [place for turn in zip_longest(*by_task.values()) for place in turn if place is not None]
    return [cards[place][1] for place in sorted(turns[:most])]


def _section(title: str, about: str, cards: Sequence[tuple[object, str]], most: int) -> str:
    if not cards:
        return ""
    shown = "".join(_share(cards, most))
    more = f'<p class="note">{len(cards) - most} more are not shown.</p>' if len(cards) > most else ""
    return f'<section><h2>{title}</h2><p class="lead">{about}</p><div class="cards">{shown}</div>{more}</section>'


def _where(benchmark: str, *parts: str) -> str:
    labels = dict.fromkeys([benchmark_label(benchmark), *(part for part in parts if part)])
    return f'<p class="kind">{escape(" · ".join(labels))}</p>'


def _by(name: str, verdict: str, compared: Compared) -> str:
    return f'<p class="by">{swatch(compared, name)}<b>{escape(name)}</b> <span>{escape(verdict)}</span></p>'


def _query(found: Mapping[str, Query], pictures: _Pictures, compared: Compared) -> str:
    first = next(iter(found.values()))
    where = _where(first.benchmark, task_label(first.benchmark, first.task))
    if first.direction == "t2i":
        asked = pictures.show(first.answers[0], "the picture that is meant")
        asked += f'<div>{where}<blockquote dir="auto">{escape(first.asked)}</blockquote></div>'
    else:
        answers = "".join(f'<blockquote dir="auto">{escape(text)}</blockquote>' for text in first.answers[:2])
        asked = pictures.show(first.asked, "the picture that asks") + f"<div>{where}{answers}</div>"
    rows = []
    for name, query in found.items():
        inside = any(one.right for one in query.found)
        verdict = "first" if query.rank == 1 else f"{'right at' if inside else 'right only at'} {query.rank:,}"
        shown = _tiles(query.found, pictures) if query.direction == "t2i" else _texts(query.found)
        rows.append(f'<div class="found">{_by(name, verdict, compared)}{shown}</div>')
    return f'<article class="card"><div class="asked">{asked}</div>{"".join(rows)}</article>'


def _tiles(found: Sequence[Found], pictures: _Pictures) -> str:
    tiles = ""
    for place, one in enumerate(found, start=1):
        alt = f"{place}: {one.what.partition('/')[2]}" + (", right" if one.right else "")
        tick = '<span class="tick-mark" aria-hidden="true">✓</span>' if one.right else ""
        tiles += f'<li class="{"right" if one.right else "wrong"}">{pictures.show(one.what, alt)}{tick}</li>'
    return f'<ol class="tiles">{tiles}</ol>'


def _texts(found: Sequence[Found]) -> str:
    lines = "".join(
        f'<li class="{"right" if one.right else "wrong"}" dir="auto">{escape(one.what)}{" ✓" if one.right else ""}</li>'
        for one in found[:3]
    )
    return f'<ol class="texts">{lines}</ol>'


def _wrong_class(found: Mapping[str, WrongClass], pictures: _Pictures, compared: Compared) -> str:
    first = next(iter(found.values()))
    rows = "".join(
        f'<tr><th scope="row">{swatch(compared, name)}{escape(name)}</th><td>{escape(wrong.predicted)}</td>'
        f"<td>{wrong.predicted_score:.2f}</td><td>{wrong.truth_score:.2f}</td></tr>"
        for name, wrong in found.items()
    )
    labels = ("taken for", "cosine", "of the right one")
    head = "<tr><td></td>" + "".join(f'<th scope="col">{label}</th>' for label in labels) + "</tr>"
    return (
        f'<article class="card small"><div class="asked">{pictures.show(first.picture, first.truth)}<div>'
        f'{_where(first.benchmark, task_label(first.benchmark, first.task))}<p class="truth">{escape(first.truth)}</p>'
        f'</div></div><div class="scroll" tabindex="0" role="region" aria-label="What models took it for">'
        f'<table class="errors"><thead>{head}</thead><tbody>{rows}</tbody></table></div></article>'
    )


def _wrong_choice(found: Mapping[str, WrongChoice], pictures: _Pictures, compared: Compared) -> str:
    first = next(iter(found.values()))
    letters = "AB"
    one = len(first.pictures) == 1
    shown = ""
    for place, key in enumerate(first.pictures, start=1):
        number = "" if one else f"<figcaption>{place}</figcaption>"
        shown += f"<figure>{pictures.show(key, f'picture {place}')}{number}</figure>"
    ticks = (" ✓" if one else "", "")
    texts = "".join(f'<li dir="auto">{escape(text)}{tick}</li>' for text, tick in zip(first.texts, ticks, strict=True))
    tables = ""
    for name, wrong in found.items():
        head = "".join(f'<th scope="col">{letter}</th>' for letter in letters[: len(wrong.texts)])
        lines = "".join(
            f'<tr><th scope="row">{"" if one else line + 1}</th>'
            + "".join(f"<td{' class=right' if line == place else ''}>{x:.3f}</td>" for place, x in enumerate(row))
            + "</tr>"
            for line, row in enumerate(wrong.scores)
        )
        tables += (
            f'<div class="scores">{_by(name, "", compared)}<table><thead><tr><td></td>{head}</tr></thead>'
            f"<tbody>{lines}</tbody></table></div>"
        )
    where = _where(first.benchmark, task_label(first.benchmark, first.task), part_label(first.kind))
    return (
        f'<article class="card small">{where}<div class="twins">{shown}<ol type="A">{texts}</ol></div>'
        f'<div class="score-row">{tables}</div></article>'
    )
