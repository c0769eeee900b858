"""Two models on the same items, figure by figure, so that "better" means something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..errors import ProclipError
from ..metrics.outcomes import RESAMPLES, PairedDifference, check_paired, difference_of, resampled_together
from .format import BenchmarkResult, ModelResults


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of two models."""

    key: str
    """``BENCHMARK/KEY``."""
    first: float
    """The first model's figure."""
    second: float
    """The second's."""
    paired: PairedDifference
    """First minus second, over the same items."""

    @property
    def first_is(self) -> Literal["better", "worse", ""]:
        """Whether the interval leaves 0 out, and which way; of a rank, lower is better."""
        if not self.paired.significant:
            return ""
        lower = self.key.endswith("median_rank")
        return "better" if (self.paired.high < 0) == lower else "worse"


class Comparisons(NamedTuple):
    """Two models."""

    rows: list[Comparison]
    """Every figure that both have of the same items, in the order of the first's."""
    left_out: dict[str, str]
    """Benchmarks, and figures (``BENCHMARK/KEY``), that both have but not of the same items: and why not."""


def compare(
    first: ModelResults, second: ModelResults, keys: Sequence[str] | None = None, resamples: int = RESAMPLES
) -> Comparisons:
    """Every figure that both have.

    Args:
        first: with its outcomes.
        second: with its outcomes.
        keys: ``BENCHMARK/KEY`` of those that are wanted; all if None.
        resamples: of the bootstrap.

    Raises:
        ProclipError: they have nothing of the same items; the message says what they have and why it is not the same.
    """
    left_out: dict[str, str] = {}
    rows = list(_comparisons(first, second, keys, resamples, left_out))
    if not rows:
        why = "".join(f"\n  {key}: {reason}" for key, reason in left_out.items())
        raise ProclipError(f"{first.name} and {second.name} have no figure of the same items in common{why}")
    return Comparisons(rows, left_out)


def _comparisons(
    first: ModelResults,
    second: ModelResults,
    keys: Sequence[str] | None,
    resamples: int,
    left_out: dict[str, str],
) -> Iterator[Comparison]:
    for name, one in first.benchmarks.items():
        other = second.benchmarks.get(name)
        shared = [
            key for key in one.figures if other and key in other.figures and (keys is None or f"{name}/{key}" in keys)
        ]
        if other is None or not shared:
            continue
        if reason := _other_items(first, one, second, other):
            left_out[name] = reason
            continue
        for key in list(shared):
            try:
                check_paired(one.outcomes[key], other.outcomes[key])
            except ProclipError as error:  # such as means over the languages that each was trained on
                left_out[f"{name}/{key}"] = str(error)
                shared.remove(key)
        if not shared:
            continue
        ours, theirs = [one.outcomes[key] for key in shared], [other.outcomes[key] for key in shared]
        drawn = resampled_together([*ours, *theirs], resamples)
        for place, key in enumerate(shared):
            values = one.figures[key].value, other.figures[key].value
            paired = difference_of(values[0] - values[1], drawn[place] - drawn[len(shared) + place])
            yield Comparison(key=f"{name}/{key}", first=values[0], second=values[1], paired=paired)


def _other_items(first: ModelResults, one: BenchmarkResult, second: ModelResults, other: BenchmarkResult) -> str | None:
    """Why two results are not of the same items, or do not say what each scored; None if they are and do."""
    for what in ("checksum", "pictures"):
        if one.data.get(what) != other.data.get(what):
            return f"not the same data ({what} {one.data.get(what)} and {other.data.get(what)}): evaluate one again"
    if one.protocol != other.protocol:
        return "not the same protocol"
    for results, benchmark in ((first, one), (second, other)):
        if not benchmark.outcomes:
            return f"{results.name}.outcomes.safetensors is missing beside the result file (what each item scored)"
    return None


def check_same_items(first: ModelResults, one: BenchmarkResult, second: ModelResults, other: BenchmarkResult) -> None:
    """Raise `ProclipError` unless two results are of the same items and say what each scored."""
    if reason := _other_items(first, one, second, other):
        raise ProclipError(f"{one.name}: {reason}")
