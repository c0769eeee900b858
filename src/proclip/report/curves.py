"""Curves: the loss of a training, and a trade-off between two figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .drawing import DASHES, INK, NARROW, WIDE, Drawing
from .names import TONES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Rows of ``metrics.jsonl`` by model and stage; those with ``step`` and ``loss`` are drawn."""
Points = Sequence[tuple[float, float]]
STAGES = {
    "distill": "Stage 1: representation inheritance",
    "tune": "Stage 2: contrastive tuning",
    "pretrain": "Pretraining of CLIP",
}
MAX_POINTS = 120
"""Points of a curve; more are averaged in equal parts."""


def thinned(points: Points) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points, each the mean of an equal part of the curve."""
    count = len(points)
    if count <= MAX_POINTS:
        return list(points)
    edges = [round(i * count / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    parts = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def training_curves(curves: Curves, tone: Callable[[str], int]) -> list[Drawing]:
    """Loss by step, a panel for each stage; no drawing where nothing was logged.

    Args:
        curves: of the models.
        tone: model to the number of its colour.
    """
    stages: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for model, by_stage in curves.items():
        for stage, rows in by_stage.items():
            points = [(float(row["step"]), float(row["loss"])) for row in rows if "loss" in row and "step" in row]
            if points:
                stages.setdefault(stage, {})[model] = thinned(points)
    if not stages:
        return []
    known = list(STAGES)
    ordered = sorted(stages, key=lambda stage: known.index(stage) if stage in known else len(known))
    panels = {STAGES.get(stage, stage): stages[stage] for stage in ordered}
    told = "; ".join(
        f"{stage}: "
        + ", ".join(f"{model} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for model, points in of.items())
        for stage, of in panels.items()
    )
    return [
        Drawing(
            name="training",
            title="Training",
            about="Loss by step, averaged where there are many steps. Losses of different stages, and with another "
            "weight of a term, do not compare.",
            description=f"Loss at the first and the last step. {told}.",
            draw=partial(_draw_training, panels, tone),
        )
    ]


def _draw_training(panels: Mapping[str, Mapping[str, Points]], tone: Callable[[str], int], narrow: bool) -> Figure:
    from matplotlib.figure import Figure

    down = len(panels) if narrow else 1
    figure = Figure(figsize=(NARROW, 2.5 * down + 0.6) if narrow else (min(WIDE, 5.6 * len(panels)), 3.4))
    grid = figure.subplots(down, 1 if narrow else len(panels), squeeze=False)
    handles: dict[str, Any] = {}
    for axes, (stage, series) in zip(grid.flat, panels.items(), strict=True):
        axes.set_title(stage)
        axes.set_xlabel("step")
        for model, points in series.items():
            place = tone(model)
            (handles[model],) = axes.plot(*zip(*points, strict=True), color=TONES[place], linestyle=DASHES[place])
        axes.set_xlim(left=0)
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper left", ncols=2 if narrow else min(len(handles), 7)
    )
    return figure


def trade_off(name: str, title: str, points: Mapping[str, tuple[float, float]], across: str, up: str) -> Drawing:
    """One line through labelled points, such as alpha to (what is kept, what is gained).

    Args:
        name: of the files.
        title: heading.
        points: label to (x, y), in the order in which they are joined; at least one.
        across: what x is, with its unit.
        up: what y is, with its unit.
    """
    told = ", ".join(f"{label}: {x:.1f} and {y:.1f}" for label, (x, y) in points.items())
    return Drawing(
        name=name,
        title=title,
        about=f"{up} against {across}.",
        description=f"{across} and {up}: {told}.",
        draw=partial(_draw_trade_off, dict(points), across, up),
    )


def _draw_trade_off(points: Mapping[str, tuple[float, float]], across: str, up: str, narrow: bool) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(NARROW if narrow else 5.6, 3.8))
    axes = figure.add_subplot()
    axes.plot(*zip(*points.values(), strict=True), "o-", color=TONES[2], markersize=5)
    for label, place in points.items():
        axes.annotate(label, place, (6, 5), textcoords="offset points", color=INK)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.margins(0.1)
    return figure
