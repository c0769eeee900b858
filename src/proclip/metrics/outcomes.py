"""What each item of a benchmark scored, the figure that it comes to, and how sure that figure is.

A figure without its outcomes cannot be compared: with them, two models on the same items are compared pair by pair.

Letters: n items, r resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ..errors import ProclipError

Statistic = Literal["mean", "median", "cka"]
RESAMPLES = 2000
LEVEL = 0.95
"""Share of the resamples inside an interval."""
TINY = float(np.finfo(np.float64).tiny)
CELLS = 250_000
"""Items drawn at once: few enough for a processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What each item scored.

    The figure of the statistic ``mean`` is the mean over strata of the mean over a stratum's items; without strata
    the plain mean. ``median`` and ``cka`` have no strata.
    """

    values: NDArray[np.float32]
    """[n]: 0 or 1 for a miss or a hit, a rank, ...; for ``cka`` [n, 3], the HSIC of (K, L), (K, K) and (L, L) of each
    minibatch."""
    strata: NDArray[np.int32] | None = None
    """[n]: the class, pattern or language of each item, of which the figure is a mean of means."""
    clusters: NDArray[np.int32] | None = None
    """[n]: items with the same number are drawn together, such as the captions of one image; None: each alone."""
    statistic: Statistic = "mean"

    def __post_init__(self) -> None:
        good = self.values.shape[1:] == (3,) if self.statistic == "cka" else self.values.ndim == 1
        if not good or len(self.values) == 0:
            wanted = "[n, 3]" if self.statistic == "cka" else "[n]"
            raise ProclipError(f"outcomes must be {wanted}, n >= 1, not {list(self.values.shape)}")
        if not np.isfinite(self.values).all():
            raise ProclipError("outcomes must be finite")
        if self.statistic != "mean" and self.strata is not None:
            raise ProclipError(f"a {self.statistic} has no strata")
        for name in ("strata", "clusters"):
            labels = getattr(self, name)
            if labels is not None and labels.shape != (len(self.values),):
                raise ProclipError(f"{name} must be [{len(self.values)}], not {labels.shape}")

    def figure(self) -> float:
        """What the outcomes come to."""
        items = _Items(self)
        return float(items.figure_of(self)(np.ones((1, items.clusters)))[0])


class Interval(NamedTuple):
    """A bootstrap interval."""

    low: float
    high: float


class PairedDifference(NamedTuple):
    """What one model has over another on the same items."""

    difference: float
    """First minus second."""
    low: float
    high: float
    p_value: float
    """Two-sided: twice the smaller share of resamples on either side of 0, at least 1 / (r + 1) and at most 1."""

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def resampled(outcomes: Outcomes, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """The figure of each of `resamples` bootstrap resamples, [r].

    Clusters are drawn with replacement, as many as there are; where every cluster lies in one stratum, each stratum
    is drawn by itself and keeps its number of clusters, so that no class vanishes. The draw depends on seed, strata
    and clusters alone: the same items get the same draws whatever they scored.
    """
    return resampled_together([outcomes], resamples, seed)[0]


def resampled_together(
    outcomes: Sequence[Outcomes], resamples: int = RESAMPLES, seed: int = 0
) -> list[NDArray[np.float64]]:
    """`resampled` of each, in a fraction of the time where several are of the same items: those are drawn once."""
    same_items: dict[tuple[object, ...], list[int]] = {}
    for place, one in enumerate(outcomes):
        labels = (None if part is None else part.tobytes() for part in (one.strata, one.clusters))
        same_items.setdefault((len(one.values), *labels), []).append(place)
    figures = [np.empty(resamples) for _ in outcomes]
    for places in same_items.values():
        items = _Items(outcomes[places[0]])
        figure_of = {place: items.figure_of(outcomes[place]) for place in places}
        rng = np.random.Generator(np.random.SFC64(seed))
        step = max(1, CELLS // items.clusters)
        for start in range(0, resamples, step):
            weights = items.drawn(rng, min(step, resamples - start))
            for place, figure in figure_of.items():
                figures[place][start : start + step] = figure(weights)
    return figures


def interval(outcomes: Outcomes, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Bootstrap percentile interval of `LEVEL` of the figure.

    It has no width where the items do not differ: where all are hits, or there is one cluster.
    """
    return interval_of(resampled(outcomes, resamples, seed))


def intervals(outcomes: Mapping[str, Outcomes], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """`interval` of each, by key, quicker: figures of the same items share their draws."""
    draws = resampled_together(list(outcomes.values()), resamples, seed)
    return {key: interval_of(figures) for key, figures in zip(outcomes, draws, strict=True)}


def interval_of(figures: NDArray[np.float64]) -> Interval:
    """The percentile interval of resampled figures, [r]."""
    low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def paired_difference(first: Outcomes, second: Outcomes, resamples: int = RESAMPLES, seed: int = 0) -> PairedDifference:
    """Paired bootstrap of the difference of two models' figures: both see the same draw of items.

    Raises:
        ProclipError: the outcomes are not of the same items: another number, other strata, clusters or statistic.
    """
    check_paired(first, second)
    draws = resampled_together([first, second], resamples, seed)
    return difference_of(first.figure() - second.figure(), draws[0] - draws[1])


def check_paired(first: Outcomes, second: Outcomes) -> None:
    """Raise `ProclipError` unless two outcomes are of the same items, as far as they say."""
    for name in ("strata", "clusters"):
        one, other = getattr(first, name), getattr(second, name)
        if (one is None) != (other is None) or (one is not None and not np.array_equal(one, other)):
            raise ProclipError(f"the two models were not measured on the same items: their {name} differ")
    if first.values.shape != second.values.shape or first.statistic != second.statistic:
        raise ProclipError(
            f"the two models were not measured on the same items: {first.statistic} of {len(first.values)} against "
            f"{second.statistic} of {len(second.values)}"
        )


def paired_mean_difference(
    pairs: Sequence[tuple[Outcomes, Outcomes]], resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """The same for the mean of several benchmarks' figures, each of which is drawn by itself."""
    if not pairs:
        raise ProclipError("a mean needs at least one figure")
    drawn = [resampled_together(pair, resamples, seed + i) for i, pair in enumerate(pairs)]
    draws = np.mean([first - second for first, second in drawn], axis=0)
    return difference_of(float(np.mean([a.figure() - b.figure() for a, b in pairs])), draws)


def mean_interval(outcomes: Sequence[Outcomes], resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Interval of the mean of several benchmarks' figures, each of which is drawn by itself."""
    if not outcomes:
        raise ProclipError("a mean needs at least one figure")
    return interval_of(np.mean([resampled(one, resamples, seed + i) for i, one in enumerate(outcomes)], axis=0))


def joined(parts: Mapping[str, Outcomes]) -> Outcomes:
    """One set of outcomes whose figure is the mean of the parts' (plain means of one model on one benchmark).

    The parts become the strata. Cluster numbers keep their meaning across parts: an image that stands in several
    languages is drawn with all of them.

    Raises:
        ProclipError: no parts, or a part that is not a plain mean.
    """
    if not parts or any(p.statistic != "mean" or p.strata is not None for p in parts.values()):
        raise ProclipError("only plain means can be joined, one or more")
    values = np.concatenate([p.values for p in parts.values()])
    strata = np.repeat(np.arange(len(parts), dtype=np.int32), [len(p.values) for p in parts.values()])
    clusters = None
    if any(p.clusters is not None for p in parts.values()):
        if not all(p.clusters is not None for p in parts.values()):
            raise ProclipError("either all parts have clusters or none has")
        clusters = np.concatenate([p.clusters for p in parts.values() if p.clusters is not None])
    return dataclasses.replace(next(iter(parts.values())), values=values, strata=strata, clusters=clusters)


def difference_of(figure: float, draws: NDArray[np.float64]) -> PairedDifference:
    """The difference of two figures with its interval and p-value, from the difference of their resamples, [r]."""
    figure, draws = round(figure, 12), draws.round(12)  # sums that are equal but for their order are equal
    low, high = interval_of(draws)
    side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return PairedDifference(figure, low, high, min(1.0, 2 * (side + 1) / (len(draws) + 1)))


Figures = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""How often each cluster is drawn, [r, c], to the figure of each row, [r]."""


@final
class _Items:
    """How items lie in clusters and strata, and what that makes of drawn clusters.

    Clusters are numbered so that those of one stratum lie side by side, if none lies in several. Letters: c clusters,
    s strata.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        count = len(outcomes.values)
        labels = np.arange(count) if outcomes.clusters is None else _numbered(outcomes.clusters)
        self.stratum = np.zeros(count, dtype=np.int64) if outcomes.strata is None else _numbered(outcomes.strata)  # [n]
        self.clusters = int(labels.max()) + 1
        home = np.zeros(self.clusters, dtype=np.int64)  # a stratum of each cluster
        home[labels] = self.stratum
        self.apart = bool((home[labels] == self.stratum).all())
        """Whether each cluster lies in one stratum, so that strata are drawn one by one."""
        order = np.argsort(home, kind="stable") if self.apart else np.arange(self.clusters)
        self.cluster = np.argsort(order)[labels]  # [n]
        sizes = np.bincount(home) if self.apart else np.array([self.clusters])
        self.starts = np.cumsum(sizes) - sizes
        self._size, self._start = (
            np.repeat(sizes, sizes),
            np.repeat(self.starts, sizes),
        )  # [c], of what it is drawn from

    def drawn(self, rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
        """How often each cluster is drawn, [rows, c]."""
        picked = (rng.random((rows, self.clusters)) * self._size).astype(np.int64)
        picked += self._start + self.clusters * np.arange(rows)[:, None]
        counts = np.bincount(picked.ravel(), minlength=picked.size)
        return counts.reshape(picked.shape).astype(np.float64)

    def figure_of(self, outcomes: Outcomes) -> Figures:
        """The statistic of outcomes that lie as those that this was made of."""
        values = outcomes.values.astype(np.float64)
        if outcomes.statistic == "cka":
            return self._cka(values)
        if outcomes.statistic == "median":
            return self._median(values)
        return self._mean_in_each(values) if self.apart and len(self.starts) > 1 else self._mean_across(values)

    def _cka(self, values: NDArray[np.float64]) -> Figures:
        sums = np.stack([np.bincount(self.cluster, column) for column in values.T])  # [3, c]

        def figures(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            cross, own, other = sums @ weights.T
            return np.asarray(cross / np.sqrt(np.maximum(own, TINY) * np.maximum(other, TINY)))

        return figures

    def _median(self, values: NDArray[np.float64]) -> Figures:
        distinct, place = np.unique(values, return_inverse=True)
        order = np.argsort(place, kind="stable")
        starts, cluster = np.searchsorted(place[order], np.arange(len(distinct))), self.cluster[order]

        def figures(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            upto = np.cumsum(np.add.reduceat(weights[:, cluster], starts, axis=1), axis=1)
            half = upto[:, -1:] / 2
            lower, upper = (upto < half).sum(axis=1), (upto <= half).sum(axis=1)
            return np.asarray((distinct[lower] + distinct[upper]) / 2)

        return figures

    def _mean_in_each(self, values: NDArray[np.float64]) -> Figures:
        """Where strata, any number of them, have their own clusters, and none can vanish."""
        sums, counts = np.bincount(self.cluster, values), np.bincount(self.cluster)  # [c]

        def figures(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            totals = np.add.reduceat(weights * counts, self.starts, axis=1)
            return np.asarray((np.add.reduceat(weights * sums, self.starts, axis=1) / totals).mean(axis=1))

        return figures

    def _mean_across(self, values: NDArray[np.float64]) -> Figures:
        """Where there is one stratum, or clusters cross a few: the mean over those that the draw holds."""
        strata = int(self.stratum.max()) + 1
        cell, shape = self.cluster * strata + self.stratum, (self.clusters, strata)
        sums = np.bincount(cell, values, minlength=self.clusters * strata).reshape(shape)
        counts = np.bincount(cell, minlength=self.clusters * strata).reshape(shape).astype(np.float64)

        def figures(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            totals = weights @ counts  # [r, s]
            means = np.divide(weights @ sums, totals, out=np.zeros_like(totals), where=totals > 0)
            return np.asarray(means.sum(axis=1) / (totals > 0).sum(axis=1))

        return figures


def _numbered(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Labels as 0, 1, 2, ..., in their order."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
