"""Models beside each other: figures, intervals, and differences on the same items."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..errors import ProclipError
from ..metrics.outcomes import (
    RESAMPLES,
    Interval,
    PairedDifference,
    check_paired,
    difference_of,
    interval_of,
    resampled_together,
)
from ..results import Figure, ModelResults
from ..results.compare import check_same_items
from .columns import Column
from .names import TONES

NO_OUTCOMES = "what each item scored is not known"
OTHER_DATA = "measured on other data or by another protocol"


@final
class Compared:
    """Results of some models, the first or a named one being what the others are compared with.

    Args:
        results: in the order in which they are shown.
        reference: name of the model that others are compared with; the first if None.
        resamples: of the bootstrap.

    Raises:
        ProclipError: there are no results, two have the same name, or there is none with the reference's.
    """

    def __init__(
        self, results: Sequence[ModelResults], reference: str | None = None, resamples: int = RESAMPLES
    ) -> None:
        names = [model.name for model in results]
        if not names:
            raise ProclipError("a report needs the results of one model or more")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ProclipError(f"two results are called {twice!r}: give one of them another name")
        if reference is not None and reference not in names:
            close = difflib.get_close_matches(reference, names, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
            raise ProclipError(f"no results of a model called {reference!r}: {hint}")
        self.results, self.resamples = tuple(results), resamples
        self.reference = results[names.index(reference)] if reference else results[0]
        self._draws: dict[tuple[str, str, int], NDArray[np.float64]] = {}

    @property
    def others(self) -> tuple[ModelResults, ...]:
        """All but the reference."""
        return tuple(model for model in self.results if model is not self.reference)

    @property
    def drawn(self) -> tuple[ModelResults, ...]:
        """Those that charts show, for more could not be told apart: the reference and the first of the others."""
        first = self.others[: len(TONES) - 1]
        return tuple(model for model in self.results if model is self.reference or model in first)

    def tone(self, name: str) -> int:
        """Number of a model's colour, below 8: 0 is the reference's, one that is not drawn has the last."""
        names = [self.reference.name, *(model.name for model in self.others)]
        return min(names.index(name) if name in names else len(TONES), len(TONES) - 1)

    def value(self, model: ModelResults, column: Column) -> float | None:
        """A model's figure; None if it lacks one of the column's."""
        figures = _figures(model, column)
        return math.fsum(f.value for f in figures) / len(figures) if figures else None

    def interval(self, model: ModelResults, column: Column) -> Interval | None:
        """Its interval; None where the figure alone is known."""
        figures = _figures(model, column)
        if len(figures) == 1:
            only = figures[0]
            return None if math.isnan(only.low) else Interval(only.low, only.high)
        if not figures or not all(_has_outcomes(model, key) for key in column.keys):
            return None
        return interval_of(self._drawn(model, column))

    def chance(self, column: Column) -> float | None:
        """What a guess gets; None where that means nothing or is not known."""
        for model in self.results:
            levels = [figure.chance for figure in _figures(model, column)]
            known = [level for level in levels if level is not None]
            if known and len(known) == len(levels):
                return math.fsum(known) / len(known)
        return None

    def obstacle(self, model: ModelResults, other: ModelResults, column: Column) -> str | None:
        """Why two models' figures cannot be compared item by item; None if they can. Both must have the figure."""
        for key in column.keys:
            name, _, rest = key.partition("/")
            if not (_has_outcomes(model, key) and _has_outcomes(other, key)):
                return NO_OUTCOMES
            one, two = model.benchmarks[name], other.benchmarks[name]
            try:
                check_same_items(model, one, other, two)
                check_paired(one.outcomes[rest], two.outcomes[rest])
            except ProclipError:
                return OTHER_DATA
        return None

    def difference(self, model: ModelResults, other: ModelResults, column: Column) -> PairedDifference | None:
        """What a model has over another on the same items; None if a figure is missing or cannot be compared."""
        first, second = self.value(model, column), self.value(other, column)
        if first is None or second is None or self.obstacle(model, other, column):
            return None
        return difference_of(first - second, self._drawn(model, column) - self._drawn(other, column))

    def _drawn(self, model: ModelResults, column: Column) -> NDArray[np.float64]:
        """Resampled figures, [r]: a column's parts are drawn one by one, as `paired_mean_difference` does."""
        parts = []
        for seed, key in enumerate(column.keys):
            if (model.name, key, seed) not in self._draws:
                self._draw(key, seed)
            parts.append(self._draws[model.name, key, seed])
        drawn: NDArray[np.float64] = np.mean(parts, axis=0)
        return drawn

    def _draw(self, key: str, seed: int) -> None:
        """Resample a figure of every model that has its outcomes: together, for they are mostly of the same items."""
        name, _, rest = key.partition("/")
        outcomes = {m.name: m.benchmarks[name].outcomes[rest] for m in self.results if _has_outcomes(m, key)}
        for model, draws in zip(
            outcomes, resampled_together(list(outcomes.values()), self.resamples, seed), strict=True
        ):
            self._draws[model, key, seed] = draws


def _figures(model: ModelResults, column: Column) -> list[Figure]:
    """The figures of a column's keys; empty if one is missing."""
    figures = [model.figure(key) for key in column.keys]
    known = [figure for figure in figures if figure is not None]
    return known if len(known) == len(figures) else []


def _has_outcomes(model: ModelResults, key: str) -> bool:
    name, _, rest = key.partition("/")
    return name in model.benchmarks and rest in model.benchmarks[name].outcomes
