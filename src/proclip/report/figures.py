"""The figures of a report: figures by language, pattern or kind, what was gained and forgotten, training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..metrics.outcomes import PairedDifference
from ..results import ModelResults
from .columns import (
    CLASSIFICATION,
    LONG_RETRIEVAL,
    SHORT_RETRIEVAL,
    Column,
    TableSpec,
    language_tables,
    marked,
    part_tables,
    per_cent,
    summary_columns,
    zero_shot_key,
)
from .compared import Compared
from .curves import Curves, training_curves
from .drawing import INK, MARKERS, NARROW, SOFT, WIDE, Drawing, save_drawing
from .names import TONES
from .tables import incomplete_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORLDS = {
    "mini-world": (
        ("mini-world/zero_shot/openmoji/mean_per_class", "mini-world/zero_shot/twemoji/mean_per_class"),
        tuple(f"mini-world/retrieval_{text}/{way}_r@1" for text in ("short", "long") for way in ("i2t", "t2i")),
    ),
    "paper": (
        tuple(zero_shot_key(name) for name in CLASSIFICATION),
        tuple(f"{name}/{way}_r@1" for name in (*SHORT_RETRIEVAL, *LONG_RETRIEVAL) for way in ("i2t", "t2i")),
    ),
}
"""What may be forgotten, and what is to be gained: figures whose means are the axes of the scatter."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model's change against the reference, in points."""

    name: str
    tone: int
    kept: float
    gained: float
    kept_ends: tuple[float, float] | None
    gained_ends: tuple[float, float] | None


def make_drawings(compared: Compared, curves: Curves | None = None) -> list[Drawing]:
    """Every figure for which the results have what it shows."""
    drawings = [*_scatters(compared), *_changes(compared)]
    drawings += [_by_group(compared, spec) for spec in language_tables(compared.results)]
    drawings += [_by_group(compared, spec) for spec in part_tables(compared.results)]
    return [*drawings, *training_curves(curves or {}, compared.tone)]


def write_figures(
    results: Sequence[ModelResults], folder: Path, *, reference: str | None = None, curves: Curves | None = None
) -> list[Path]:
    """Write every figure for which the results have what it shows, each as PNG and SVG.

    Args:
        results: models in the order in which they are shown; charts show the first eight.
        folder: is made if it is not there.
        reference: name of the model that others are compared with; the first if None.
        curves: by model and stage the rows of its training's ``metrics.jsonl``.

    Returns:
        the files.

    Raises:
        ProclipError: no results, two of one name, no such reference, or matplotlib is not installed.
    """
    drawings = make_drawings(Compared(results, reference), curves)
    return [path for drawing in drawings for path in save_drawing(drawing, folder)]


def _drawn_others(compared: Compared) -> list[ModelResults]:
    return [model for model in compared.drawn if model is not compared.reference]


def _by_group(compared: Compared, spec: TableSpec) -> Drawing:
    """Groups of bars, one for each column of a table; on a phone a line of dots for each."""
    models = [m for m in compared.drawn if any(compared.value(m, c) is not None for c in spec.columns)]
    columns = list(spec.columns)
    best = {}
    for column in columns:
        known = {m.name: v for m in models if (v := compared.value(m, column)) is not None}
        if known:
            name = max(known, key=lambda n: known[n])
            best[column.label] = f"{column.heading} {column.shown(known[name])} ({name})"
    return Drawing(
        name=spec.name,
        title=spec.title,
        about=f"{spec.about} Thin lines are 95 % intervals; the dashes across are chance.",
        description=f"The best model of each: {', '.join(best.values())}.",
        draw=partial(_draw_groups, compared, models, columns),
    )


def _draw_groups(compared: Compared, models: Sequence[ModelResults], columns: Sequence[Column], narrow: bool) -> Figure:
    from matplotlib.figure import Figure

    count = len(columns)
    labels = [column.heading for column in columns]
    size = (NARROW, 0.9 + 0.11 * len(models) + 0.25 * count) if narrow else (WIDE, 3.4)
    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    (_dots if narrow else _bars)(axes, compared, models, columns)
    if narrow:
        axes.set_yticks(range(count), labels)
        axes.set_ylim(count - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("per cent")
    else:
        if count > 16:
            axes.set_xticks(range(count), labels, rotation=45, ha="right", rotation_mode="anchor")
            axes.tick_params("x", pad=1)
        else:
            axes.set_xticks(range(count), [fill(label, max(12, 150 // count)) for label in labels])
        axes.set_xlim(-0.6, count - 0.4)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("per cent")
    figure.legend(loc="outside upper left", ncols=2 if narrow else len(models), handlelength=1, columnspacing=1.4)
    return figure


def _spread(compared: Compared, model: ModelResults, columns: Sequence[Column]) -> tuple[list[float], Any]:
    """Figures in per cent, and how far their intervals reach to either side, [2, n]; NaN where there is none."""
    values = [compared.value(model, column) for column in columns]
    ends = [compared.interval(model, column) for column in columns]
    low = [100 * (v - e.low) if v is not None and e else math.nan for v, e in zip(values, ends, strict=True)]
    high = [100 * (e.high - v) if v is not None and e else math.nan for v, e in zip(values, ends, strict=True)]
    clip = [[max(0.0, x) if not math.isnan(x) else x for x in side] for side in (low, high)]
    return [math.nan if v is None else 100 * v for v in values], clip


def _bars(axes: Axes, compared: Compared, models: Sequence[ModelResults], columns: Sequence[Column]) -> None:
    width, many = 0.78 / len(models), len(models) * len(columns) > 120
    for place, model in enumerate(models):
        values, reach = _spread(compared, model, columns)
        at = [group + (place - (len(models) - 1) / 2) * width for group in range(len(columns))]
        axes.bar(at, values, 0.9 * width, color=TONES[compared.tone(model.name)], label=model.name)
        axes.errorbar(at, values, reach, fmt="none", ecolor=SOFT if many else INK, elinewidth=0.4 if many else 0.7)
    for group, column in enumerate(columns):
        if (level := compared.chance(column)) is not None:
            axes.hlines(100 * level, group - 0.45, group + 0.45, color=INK, linewidth=1, linestyle=(0, (2, 1.5)))
    axes.set_ylim(bottom=0)


def _dots(axes: Axes, compared: Compared, models: Sequence[ModelResults], columns: Sequence[Column]) -> None:
    for line in range(len(columns)):
        axes.axhline(line, color=SOFT, linewidth=0.3, zorder=0)
    for model in models:
        tone = compared.tone(model.name)
        values, reach = _spread(compared, model, columns)
        axes.errorbar(
            values, range(len(columns)), xerr=reach, fmt=MARKERS[tone], color=TONES[tone], markersize=4.2,
            elinewidth=0.7, label=model.name,
        )  # fmt: skip
    for line, column in enumerate(columns):
        if (level := compared.chance(column)) is not None:
            axes.vlines(100 * level, line - 0.4, line + 0.4, color=INK, linewidth=1, linestyle=(0, (2, 1.5)))
    axes.set_xlim(left=0)


def _changes(compared: Compared) -> list[Drawing]:
    """A panel for each task: what every model has over the reference."""
    reference = compared.reference
    panels: list[tuple[Column, dict[str, tuple[float, PairedDifference | None]]]] = []
    for column in summary_columns(compared.results):
        base = compared.value(reference, column)
        if base is None or not column.is_score:
            continue
        changes = {
            model.name: (value - base, compared.difference(model, reference, column))
            for model in _drawn_others(compared)
            if (value := compared.value(model, column)) is not None
        }
        if changes:
            panels.append((column, changes))
    if not panels:
        return []
    told = "; ".join(
        f"{column.title}: "
        + ", ".join(f"{name} {per_cent(change, sign=True)}" for name, (change, _) in changes.items())
        for column, changes in panels
    )
    return [
        Drawing(
            name="changes",
            title="Gained and forgotten, task by task",
            about=f"Each bar is a model’s figure minus {reference.name}’s, in points, with the 95 % interval of the "
            "paired difference; left of the line is what was forgotten. Pale bars are not told from 0, or could not be "
            "compared item by item."
            + "".join(f" {note}" for note in incomplete_note([column for column, _ in panels], compared.results)),
            description=f"Change against {reference.name} in points. {told}.",
            draw=partial(_draw_changes, compared, panels),
        )
    ]


def _draw_changes(
    compared: Compared,
    panels: Sequence[tuple[Column, Mapping[str, tuple[float, PairedDifference | None]]]],
    narrow: bool,
) -> Figure:
    from matplotlib.figure import Figure

    across = 1 if narrow else min(3, len(panels))
    down = math.ceil(len(panels) / across)
    names = [m.name for m in _drawn_others(compared) if any(m.name in changes for _, changes in panels)]
    figure = Figure(figsize=(NARROW if narrow else WIDE, down * (0.45 + 0.2 * len(names)) + 0.3))
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        column, changes = panels[place]
        axes.set_title(column.title)
        axes.axvline(0, color=INK, linewidth=0.8)
        for line, name in enumerate(names):
            if name in changes:
                _change(axes, line, compared.tone(name), *changes[name])
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(labelbottom=place + across >= len(panels))
    grid[0, 0].set_xlim(*_limits([one for _, changes in panels for one in changes.values()], 0.3 if narrow else 0.2))
    return figure


def _limits(changes: Sequence[tuple[float, PairedDifference | None]], room: float) -> tuple[float, float]:
    """Ends of the scale that all panels share, with room beside the bars for their figures."""
    ends = [0.0]
    for change, paired in changes:
        ends += [100 * change] if paired is None else [100 * paired.low, 100 * paired.high]
    low, high = min(ends), max(ends)
    pad = room * max(high - low, 1.0)
    return low - (pad if low < 0 else 0.1 * pad), high + (pad if high > 0 else 0.1 * pad)


def _change(axes: Axes, line: int, tone: int, change: float, paired: PairedDifference | None) -> None:
    sure = paired is not None and paired.significant
    axes.barh(line, 100 * change, 0.7, color=TONES[tone], alpha=1 if sure else 0.35)
    ends = [100 * change] if paired is None else [100 * paired.low, 100 * paired.high]
    if paired is not None:
        axes.hlines(line, paired.low * 100, paired.high * 100, color=INK, linewidth=0.7)
    right = change >= 0
    at = max(0.0, *ends) if right else min(0.0, *ends)
    axes.annotate(
        per_cent(change, sign=True), (at, line), (4 if right else -4, 0), textcoords="offset points",
        va="center_baseline", ha="left" if right else "right", fontsize=8, color=SOFT,
    )  # fmt: skip


def _scatters(compared: Compared) -> list[Drawing]:
    """What was forgotten against what was gained: a point for each model."""
    drawings = []
    for world, (kept_keys, gained_keys) in WORLDS.items():
        models = [
            model
            for model in _drawn_others(compared)
            if any(model.figure(k) and compared.reference.figure(k) for k in kept_keys)
            and any(model.figure(k) and compared.reference.figure(k) for k in gained_keys)
        ]
        kept, gained = (_shared(keys, [compared.reference, *models]) for keys in (kept_keys, gained_keys))
        if not models or kept is None or gained is None:
            continue
        points = [_point(compared, model, kept, gained) for model in models]
        told = ", ".join(f"{p.name} {p.kept:+.1f} and {p.gained:+.1f}" for p in points)
        what = "the mini world’s" if world == "mini-world" else "the paper’s"
        drawings.append(
            Drawing(
                name=f"forgetting-{world}",
                title="Forgetting against gain" + (", mini world" if world == "mini-world" else ""),
                about=f"Across: mean change of zero-shot classification ({len(kept.keys)} of {what} sets). Up: mean "
                f"change of retrieval ({len(gained.keys)} figures). Both in points against {compared.reference.name}, "
                "which stands at 0; lines are 95 % intervals. Up and to the right is better."
                + "".join(f" {note}" for note in incomplete_note((kept, gained), [compared.reference, *models])),
                description=f"Change of zero-shot and of retrieval, in points: {told}.",
                draw=partial(_draw_scatter, compared.reference.name, points),
            )
        )
    return drawings


def _shared(keys: Sequence[str], models: Sequence[ModelResults]) -> Column | None:
    found = tuple(key for key in keys if all(model.figure(key) for model in models))
    return marked([Column(keys=found, group="", label="Mean")], models)[0] if found else None


def _point(compared: Compared, model: ModelResults, kept: Column, gained: Column) -> Point:
    def change(column: Column) -> tuple[float, tuple[float, float] | None]:
        first, second = compared.value(model, column), compared.value(compared.reference, column)
        assert first is not None and second is not None
        paired = compared.difference(model, compared.reference, column)
        return 100 * (first - second), (100 * paired.low, 100 * paired.high) if paired else None

    (across, across_ends), (up, up_ends) = change(kept), change(gained)
    tone = compared.tone(model.name)
    return Point(name=model.name, tone=tone, kept=across, gained=up, kept_ends=across_ends, gained_ends=up_ends)


def _draw_scatter(reference: str, points: Sequence[Point], narrow: bool) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(NARROW, 4.2) if narrow else (7.2, 4.2))
    axes = figure.add_subplot()
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.plot(0, 0, MARKERS[0], color=TONES[0], markersize=7, label=reference, linestyle="none")
    for point in points:
        colour = TONES[point.tone]
        if point.kept_ends:
            axes.hlines(point.gained, *point.kept_ends, color=colour, linewidth=0.9)
        if point.gained_ends:
            axes.vlines(point.kept, *point.gained_ends, color=colour, linewidth=0.9)
        axes.plot(
            point.kept, point.gained, MARKERS[point.tone], color=colour, markersize=7, label=point.name,
            linestyle="none",
        )  # fmt: skip
    axes.margins(0.12)
    axes.set_xlabel("zero-shot, change in points")
    axes.set_ylabel("retrieval, change in points")
    figure.legend(
        loc="outside upper left" if narrow else "outside right upper", ncols=2 if narrow else 1, handletextpad=0.3
    )
    return figure
