"""Tables with intervals and marks, before they are written in any format."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import ProclipError
from ..metrics.outcomes import Interval, PairedDifference
from ..results import ModelResults
from .columns import DAGGER, Column, TableSpec, is_complete, marked, table_specs
from .compared import Compared
from .names import benchmark_label

MISSING = "–"
"""Shown where a model has no such figure."""
CHANCE = "Chance"

Mark = Literal["", "better", "worse"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure."""

    text: str
    """As it is shown."""
    value: float | None = None
    """0 to 1, or a rank; None where there is none."""
    interval: Interval | None = None
    """Its 95 % interval; None where the figure alone is known."""
    aside: str = ""
    """What is shown beside it: the interval, or the deviation over seeds."""
    spread: float | None = None
    """Standard deviation over seeds, in the figure's own unit, where it is a mean over seeds."""
    difference: PairedDifference | None = None
    """Against the reference, where both were measured on the same items."""
    mark: Mark = ""
    """Whether the difference leaves 0 out, and which way."""
    best: bool = False
    """Whether it is the column's highest, or not told from it by the paired bootstrap."""
    complete: bool = True
    """Whether its data have the counts that their authors give, as far as its result file says."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model's figures, or the levels of chance."""

    label: str
    """Name of the model."""
    cells: tuple[Cell, ...]
    """One for each column."""
    kind: Literal["reference", "model", "chance"] = "model"
    """What it is."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table."""

    name: str
    """Short name."""
    title: str
    """Heading."""
    about: str
    """What its figures are."""
    columns: tuple[Column, ...]
    """Columns."""
    rows: tuple[Row, ...]
    """Rows; chance is the last, if it is there."""
    notes: tuple[str, ...]
    """What marks and bold mean, and which comparisons could not be made."""
    by_model: bool = True
    """Whether it is laid out with models as rows; else they are its columns."""
    corner: str = "Model"
    """What a row is."""


def make_tables(compared: Compared) -> list[Table]:
    """Every table of which any model has a figure.

    Raises:
        ProclipError: no model has a figure.
    """
    tables = [make_table(compared, spec) for spec in table_specs(compared.results)]
    if not tables:
        raise ProclipError("the results have no figures")
    return tables


def make_table(compared: Compared, spec: TableSpec) -> Table:
    """One table: the models that have a figure of it, then chance if that is known."""
    models = [m for m in compared.results if any(compared.value(m, column) is not None for column in spec.columns)]
    by_column = [_column(compared, models, column) for column in spec.columns]
    rows = [
        Row(
            label=model.name,
            cells=tuple(cells[place] for cells in by_column),
            kind="reference" if model is compared.reference else "model",
        )
        for place, model in enumerate(models)
    ]
    chance = [compared.chance(column) for column in spec.columns]
    if any(level is not None for level in chance):
        cells = tuple(
            Cell(text=MISSING if level is None else column.shown(level), value=level, complete=column.complete)
            for column, level in zip(spec.columns, chance, strict=True)
        )
        rows.append(Row(label=CHANCE, cells=cells, kind="chance"))
    return Table(
        name=spec.name, title=spec.title, about=spec.about, columns=spec.columns, rows=tuple(rows),
        notes=tuple(_notes(compared, models, spec)), by_model=spec.by_model,
    )  # fmt: skip


def _column(compared: Compared, models: Sequence[ModelResults], column: Column) -> list[Cell]:
    """The cells of one column, the best of them marked."""
    values = {model.name: compared.value(model, column) for model in models}
    known = {name: value for name, value in values.items() if value is not None}
    top = max(known, key=lambda name: known[name]) if known and column.is_score else None
    leader = next((model for model in models if model.name == top), None)
    cells = []
    for model in models:
        value = values[model.name]
        if value is None:
            cells.append(Cell(text=MISSING))
            continue
        difference = None
        if column.is_score and model is not compared.reference:
            difference = compared.difference(model, compared.reference, column)
        found = compared.interval(model, column)
        mark: Mark = ""
        if difference is not None and difference.significant:
            mark = "better" if difference.low > 0 else "worse"
        cells.append(
            Cell(
                text=column.shown(value),
                value=value,
                interval=found,
                aside=f"{column.shown(found.low)}–{column.shown(found.high)}" if found else "",
                difference=difference,
                mark=mark,
                best=leader is not None and _level(compared, model, leader, column),
                complete=is_complete(model, column),
            )
        )
    return cells


def _level(compared: Compared, model: ModelResults, leader: ModelResults, column: Column) -> bool:
    """Whether a model's figure is the highest, or is not told from it."""
    if compared.value(model, column) == compared.value(leader, column):
        return True
    against = compared.difference(leader, model, column)
    return against is not None and not against.significant


def _notes(compared: Compared, models: Sequence[ModelResults], spec: TableSpec) -> Iterator[str]:
    """What the reader must know of intervals, marks and bold."""
    scores = [column for column in spec.columns if column.is_score]
    if len(models) > 1 and scores:
        yield (
            "Bold: the highest of its kind, and every figure that a paired bootstrap over the same items does not tell "
            "from it (95 %); where that cannot be asked, the highest alone."
        )
    reference = compared.reference
    if reference in models and len(models) > 1 and scores:
        yield (
            f"▲ ▼: better or worse than {reference.name} on the same items (paired bootstrap, 95 %, "
            "each figure by itself: of twenty equal ones, one is marked by chance)."
        )
        reasons: dict[str, list[str]] = {}
        for model in models:
            if model is reference:
                continue
            shared = [c for c in scores if None not in (compared.value(model, c), compared.value(reference, c))]
            found = [compared.obstacle(model, reference, column) for column in shared]
            for reason in dict.fromkeys(one for one in found if one):
                some = f" ({found.count(reason)} of {len(shared)} figures)" if found.count(reason) < len(shared) else ""
                reasons.setdefault(reason, []).append(f"{model.name}{some}")
        for reason, names in reasons.items():
            yield f"Not compared with {reference.name}: {', '.join(names)}; {reason}."
    yield from incomplete_note(spec.columns, models)


def incomplete_note(columns: Sequence[Column], models: Sequence[ModelResults]) -> Iterator[str]:
    """What the dagger means, and of which data and models; nothing where there is none."""
    found: dict[str, list[str]] = {}
    names = dict.fromkeys(key.partition("/")[0] for c in columns if not c.complete for key in c.keys)
    for name in names:
        having = [(model, model.benchmarks[name]) for model in models if name in model.benchmarks]
        for model, result in having:
            if result.data.get("complete") is False:
                count = f", {result.data['images']:,} pictures" if "images" in result.data else ""
                found.setdefault(f"{benchmark_label(name)}{count}", []).append(model.name)
    if found:
        listed = "; ".join(
            what if len(found) == 1 and len(of) == len(models) else f"{what} ({', '.join(of)})"
            for what, of in found.items()
        )
        yield (
            f"{DAGGER}: the data do not have the counts that their authors give, so the figure is not that of the "
            f"published benchmark: {listed}."
        )


def ablation_table(rows: Mapping[str, Sequence[ModelResults]], columns: Sequence[Column]) -> Table:
    """Mean and standard deviation over seeds: a row for each setting, no interval and no mark.

    Args:
        rows: settings and the results of each seed.
        columns: those of which any row has the figure are shown.

    Raises:
        ProclipError: there is no row, or none has a figure.
    """
    cells: dict[Column, list[Cell]] = {}
    every = [model for seeds in rows.values() for model in seeds]
    for column in marked(columns, every):
        of_rows = [[_mean_of(model, column) for model in seeds] for seeds in rows.values()]
        values = [[one for one in per_seed if one is not None] for per_seed in of_rows]
        if not any(values):
            continue
        cells[column] = [_over_seeds(column, found) for found in values]
        if column.is_score:
            best = max(cell.value for cell in cells[column] if cell.value is not None)
            cells[column] = [replace(cell, best=cell.value == best) for cell in cells[column]]
    if not cells:
        raise ProclipError("the ablation has no figures")
    counts = sorted({len(seeds) for seeds in rows.values()})
    seeds = (
        "one seed" if counts == [1] else " to ".join(f"{c}" for c in dict.fromkeys((counts[0], counts[-1]))) + " seeds"
    )
    return Table(
        name="ablation",
        title="Ablation",
        about=f"Each row is one setting. Per cent, mean and standard deviation over {seeds}.",
        columns=tuple(cells),
        rows=tuple(
            Row(label=label, cells=tuple(column[place] for column in cells.values()))
            for place, label in enumerate(rows)
        ),
        notes=("Bold: the highest of its column.", *incomplete_note(tuple(cells), every)),
        corner="Setting",
    )


def _mean_of(model: ModelResults, column: Column) -> float | None:
    figures = [model.figure(key) for key in column.keys]
    values = [figure.value for figure in figures if figure is not None]
    return statistics.fmean(values) if len(values) == len(figures) else None


def _over_seeds(column: Column, values: Sequence[float]) -> Cell:
    if not values:
        return Cell(text=MISSING)
    spread = statistics.stdev(values) if len(values) > 1 else None
    mean = statistics.fmean(values)
    aside = "" if spread is None else f"± {column.shown(spread)}"
    return Cell(text=column.shown(mean), value=mean, spread=spread, aside=aside, complete=column.complete)
