"""Figures, intervals and paired differences against slow loops, scipy and the textbook's widths."""

from __future__ import annotations

import resource
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from proclip.errors import ProclipError
from proclip.metrics import outcomes as module
from proclip.metrics.outcomes import (
    Outcomes,
    interval,
    interval_of,
    intervals,
    joined,
    mean_interval,
    paired_difference,
    paired_mean_difference,
    resampled,
    resampled_together,
)


def ints(values: Any) -> NDArray[np.int32]:
    return np.asarray(values, dtype=np.int32)


def floats(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def slow_figure(outcomes: Outcomes, times: NDArray[np.float64]) -> float:
    """The figure of the items, each written out as often as `times` says."""
    rows = np.repeat(np.arange(len(outcomes.values)), times.astype(int))
    values = outcomes.values[rows].astype(float)
    if outcomes.statistic == "median":
        return float(np.median(values))
    if outcomes.statistic == "cka":
        cross, own, other = values.mean(axis=0)
        return float(cross / np.sqrt(own * other))
    if outcomes.strata is None:
        return float(values.mean())
    strata = outcomes.strata[rows]
    return float(np.mean([values[strata == s].mean() for s in np.unique(strata)]))


@st.composite
def some_outcomes(draw: st.DrawFn) -> Outcomes:
    n = draw(st.integers(1, 12))
    statistic = draw(st.sampled_from(["mean", "median", "cka"]))
    labels = st.none() | st.lists(st.integers(-3, 3), min_size=n, max_size=n).map(ints)
    strata = draw(labels) if statistic == "mean" else None
    numbers = st.lists(st.integers(0, 4), min_size=n, max_size=n)
    values = floats(draw(numbers)) if statistic != "cka" else floats([draw(numbers), [2] * n, [1] * n]).T
    return Outcomes(values=values, strata=strata, clusters=draw(labels), statistic=statistic)


@settings(max_examples=150, deadline=None)
@given(outcomes=some_outcomes(), seed=st.integers(0, 5))
def test_every_resample_is_the_slow_figure_of_its_draw(outcomes: Outcomes, seed: int) -> None:
    ones = np.ones(len(outcomes.values))
    assert outcomes.figure() == pytest.approx(slow_figure(outcomes, ones), abs=1e-12)
    items = module._Items(outcomes)
    weights = items.drawn(np.random.Generator(np.random.SFC64(seed)), 5)
    wanted = [slow_figure(outcomes, row[items.cluster]) for row in weights]
    assert resampled(outcomes, 5, seed).tolist() == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(outcomes=some_outcomes())
def test_clusters_are_drawn_whole_and_strata_keep_their_number(outcomes: Outcomes) -> None:
    items = module._Items(outcomes)
    weights = items.drawn(np.random.Generator(np.random.SFC64(0)), 20)
    clusters = np.arange(len(outcomes.values)) if outcomes.clusters is None else outcomes.clusters
    assert weights.shape == (20, len(np.unique(clusters))) and (weights.sum(axis=1) == weights.shape[1]).all()
    for label in np.unique(clusters):
        assert len(set(items.cluster[clusters == label].tolist())) == 1
    assert len(set(zip(clusters.tolist(), items.cluster.tolist(), strict=True))) == weights.shape[1]
    strata = np.zeros(len(clusters)) if outcomes.strata is None else outcomes.strata
    if all(len(set(strata[clusters == label].tolist())) == 1 for label in clusters):
        for stratum in np.unique(strata):
            own = np.unique(items.cluster[strata == stratum])
            assert (weights[:, own].sum(axis=1) == len(own)).all()


def test_draws_have_the_law_of_drawing_with_replacement() -> None:
    """Mean 1, variance 1 - 1/m, covariance -1/m within a stratum of m, none across strata."""
    strata = ints([0] * 4 + [7] * 6)
    items = module._Items(Outcomes(values=floats(np.zeros(10)), strata=strata))
    weights = items.drawn(np.random.Generator(np.random.SFC64(1)), 100_000)
    wanted = np.zeros((10, 10))
    for rows in (slice(0, 4), slice(4, 10)):
        m = rows.stop - rows.start
        wanted[rows, rows] = np.eye(m) - 1 / m
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.02)
    assert np.cov(weights.T) == pytest.approx(wanted, abs=0.02)


def test_the_draw_does_not_depend_on_what_was_scored() -> None:
    rng = np.random.default_rng(0)
    clusters = ints(rng.integers(0, 50, 200))
    a = Outcomes(values=floats(rng.integers(0, 2, 200)), clusters=clusters)
    b = Outcomes(values=1 - a.values, clusters=clusters)
    assert resampled(a) + resampled(b) == pytest.approx(np.ones(2000))
    assert resampled(a).tolist() == resampled(a).tolist() != resampled(a, seed=1).tolist()


def test_figures_drawn_together_are_those_drawn_alone() -> None:
    rng = np.random.default_rng(1)
    hits, clusters = floats(rng.integers(0, 2, 90)), ints(np.arange(90) // 3)
    several = {
        "hits": Outcomes(values=hits),
        "same items": Outcomes(values=1 - hits),
        "rank": Outcomes(values=floats(rng.integers(1, 30, 90)), statistic="median"),
        "clustered": Outcomes(values=hits, clusters=clusters),
        "strata": Outcomes(values=hits, strata=ints(np.arange(90) % 4)),
        "across": Outcomes(values=hits, strata=ints(np.arange(90) % 3), clusters=clusters),
    }
    together = resampled_together(list(several.values()), 300)
    for drawn, one in zip(together, several.values(), strict=True):
        assert drawn.tolist() == resampled(one, 300).tolist()
    assert intervals(several, 300) == {key: interval(one, 300) for key, one in several.items()}


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Outcomes(values=floats(np.arange(30) % 3), strata=ints(np.arange(30) // 10))
    whole = resampled(one, 100)
    monkeypatch.setattr(module, "CELLS", 100)
    assert resampled(one, 100).tolist() == whole.tolist()


def test_the_interval_is_scipys_and_as_wide_as_the_normal_one() -> None:
    hits = floats(np.random.default_rng(2).random(400) < 0.3)
    found = interval(Outcomes(values=hits), resamples=20_000)
    reference = stats.bootstrap(
        (hits,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert found == pytest.approx((reference.low, reference.high), abs=0.003)
    p = hits.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 400), rel=0.05)


def test_the_interval_of_a_median_is_scipys() -> None:
    ranks = floats(np.random.default_rng(4).geometric(0.05, 300))
    found = interval(Outcomes(values=ranks, statistic="median"), resamples=5000)
    reference = stats.bootstrap(
        (ranks,), np.median, n_resamples=5000, method="percentile", rng=np.random.default_rng(5), batch=500
    ).confidence_interval
    assert found == pytest.approx((reference.low, reference.high), abs=0.6)


def test_strata_give_the_width_of_stratified_sampling_and_clusters_that_of_clusters() -> None:
    rng = np.random.default_rng(6)
    strata = ints(np.repeat([0, 1], [300, 100]))
    hits = floats(rng.random(400) < np.where(strata == 0, 0.9, 0.2))
    variance = sum(hits[strata == s].var() / (strata == s).sum() for s in (0, 1)) / 4
    low, high = interval(Outcomes(values=hits, strata=strata), resamples=10_000)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.06)

    of_image = floats(rng.random(200) < 0.5)  # all five captions of an image agree: 200 draws, not 1,000
    low, high = interval(Outcomes(values=np.repeat(of_image, 5), clusters=ints(np.arange(1000) // 5)), 10_000)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(of_image.var() / 200), rel=0.06)


def test_ragged_clusters_are_a_ratio_estimate() -> None:
    """Standard error of sum(y) / sum(m) over clusters, by the textbook's linearisation."""
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 9, 400)
    clusters = np.repeat(np.arange(400), sizes)
    hits = floats(rng.random(len(clusters)) < 0.4 + 0.4 * (clusters % 2))
    sums = np.bincount(clusters, hits)
    residual = sums - hits.mean() * sizes
    error = np.sqrt(residual.var() / 400) / sizes.mean()
    low, high = interval(Outcomes(values=hits, clusters=ints(clusters)), 10_000)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.06)


@pytest.mark.parametrize(("n", "p"), [(150, 0.3), (400, 0.85)])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int, p: float) -> None:
    rng = np.random.default_rng(8)
    samples = {str(i): Outcomes(values=floats(rng.random(n) < p)) for i in range(600)}
    covered = np.mean([low <= p <= high for low, high in intervals(samples, 500).values()])
    assert covered == pytest.approx(0.95, abs=0.03)


def test_a_difference_of_nothing_is_rarely_significant_and_a_real_one_mostly_is() -> None:
    rng = np.random.default_rng(9)
    null, real = [], []
    for _ in range(200):
        difficulty = rng.random(200)
        a, b, better = (Outcomes(values=floats(rng.random(200) < difficulty + s)) for s in (0, 0, 0.2))
        null.append(paired_difference(a, b, 400))
        real.append(paired_difference(better, a, 400))
    assert 0.01 <= np.mean([one.significant for one in null]) <= 0.10
    assert 0.01 <= np.mean([one.p_value < 0.05 for one in null]) <= 0.10
    assert np.mean([one.significant for one in real]) > 0.9


def test_pairing_takes_the_items_difficulty_out() -> None:
    rng = np.random.default_rng(10)
    easy = rng.random(1000) < 0.5
    a = Outcomes(values=floats(easy))
    b = Outcomes(values=floats(easy & (rng.random(1000) < 0.96)))
    paired = paired_difference(a, b)
    assert paired.difference == pytest.approx(a.figure() - b.figure())
    assert paired.low <= paired.difference <= paired.high and paired.significant and paired.p_value < 0.01
    assert paired.high - paired.low < 0.5 * (interval(a).high - interval(a).low)
    itself = paired_difference(a, a)
    assert itself == (0.0, 0.0, 0.0, 1.0) and not itself.significant


def test_a_difference_by_strata_that_cancels_is_zero() -> None:
    """0.1 + 0.2 - 0.3: what is equal but for rounding is no difference."""
    strata = ints(np.repeat([0, 1, 2], 10))
    a = Outcomes(values=floats([1] + [0] * 9 + [1] * 2 + [0] * 8 + [0] * 10), strata=strata)
    b = Outcomes(values=floats([0] * 20 + [1] * 3 + [0] * 7), strata=strata)
    draws = resampled(a, 4000) - resampled(b, 4000)
    near, exact = np.abs(draws) < 1e-12, draws == 0
    assert near.sum() > exact.sum()  # so that it matters
    assert paired_difference(a, b, 4000).p_value == 1.0


def test_means_of_benchmarks_draw_each_by_itself() -> None:
    rng = np.random.default_rng(11)
    ones = [Outcomes(values=floats(rng.random(300) < p)) for p in (0.2, 0.5, 0.8)]
    low, high = mean_interval(ones, 10_000)
    variance = sum(one.values.var() / 300 for one in ones) / 9
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.06)
    pairs = [(one, Outcomes(values=1 - one.values)) for one in ones]
    mean = paired_mean_difference(pairs)
    assert mean.difference == pytest.approx(np.mean([a.figure() - b.figure() for a, b in pairs]))
    assert mean.low < mean.difference < mean.high
    for call in (mean_interval, paired_mean_difference):
        with pytest.raises(ProclipError, match="at least one figure"):
            call([])


def test_joined_languages_share_their_images() -> None:
    """Every image is drawn with all its languages, so perfectly correlated languages do not narrow the interval."""
    rng = np.random.default_rng(12)
    hits = floats(rng.random(200) < 0.5)
    one = Outcomes(values=hits, clusters=ints(np.arange(200)))
    three = joined({"de": one, "fr": one, "ja": one})
    assert three.figure() == pytest.approx(hits.mean()) and len(three.values) == 600
    assert interval(three) == pytest.approx(interval(one), abs=1e-9)
    alone = joined({"de": Outcomes(values=hits), "fr": Outcomes(values=hits[:50])})
    assert alone.figure() == pytest.approx((hits.mean() + hits[:50].mean()) / 2) and alone.clusters is None
    with pytest.raises(ProclipError, match="only plain means"):
        joined({"a": three})
    with pytest.raises(ProclipError, match="all parts have clusters or none"):
        joined({"a": one, "b": Outcomes(values=hits)})


def test_what_does_not_fit_is_an_error() -> None:
    hits = floats([0, 1, 1])
    with pytest.raises(ProclipError, match=r"must be \[n\], n >= 1, not \[0\]"):
        Outcomes(values=hits[:0])
    with pytest.raises(ProclipError, match=r"must be \[n, 3\], n >= 1, not \[3\]"):
        Outcomes(values=hits, statistic="cka")
    with pytest.raises(ProclipError, match="finite"):
        Outcomes(values=floats([np.nan]))
    with pytest.raises(ProclipError, match="a median has no strata"):
        Outcomes(values=hits, strata=ints([0, 0, 1]), statistic="median")
    with pytest.raises(ProclipError, match=r"clusters must be \[3\], not \(2,\)"):
        Outcomes(values=hits, clusters=ints([0, 1]))
    with pytest.raises(ProclipError, match="their strata differ"):
        paired_difference(Outcomes(values=hits), Outcomes(values=hits, strata=ints([0, 0, 1])))
    with pytest.raises(ProclipError, match="mean of 3 against mean of 2"):
        paired_difference(Outcomes(values=hits), Outcomes(values=hits[:2]))
    with pytest.raises(ProclipError, match="mean of 3 against median of 3"):
        paired_difference(Outcomes(values=hits), Outcomes(values=hits, statistic="median"))


def test_a_large_benchmark_is_quick_and_small() -> None:
    """50,000 items of 1,000 classes, 2,000 resamples: an item by class matrix alone would take 400 MB."""
    rng = np.random.default_rng(13)
    one = Outcomes(values=floats(rng.random(50_000) < 0.6), strata=ints(rng.integers(0, 1000, 50_000)))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    low, high = interval(one)
    seconds, grown = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert low < one.figure() < high and high - low == pytest.approx(4 * np.sqrt(0.24 / 50_000), rel=0.15)
    assert seconds < 10 and grown < 200_000  # about 1 s and 20 MB; the rest is for a busy machine


def test_percentiles() -> None:
    assert interval_of(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))
