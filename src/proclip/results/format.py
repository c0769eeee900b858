"""A model's result file, for people and scripts, and what each item scored, beside it.

``NAME.json`` has every figure and what it was measured on, ``NAME.outcomes.safetensors`` the outcomes, with which two
models are compared item by item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ProclipError
from ..files import read_json, write_json
from ..metrics.outcomes import Outcomes
from .outcome_file import read_outcomes, write_outcomes

FORMAT = "proclip-results"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a benchmark."""

    value: float
    """0 to 1, but for a median rank."""
    low: float
    """Lower end of its 95 % bootstrap interval; NaN (null in the file) where only the figure is known."""
    high: float
    """Upper end; the same."""
    n: int
    """Items that it is a figure of; 0 where that is not known."""
    chance: float | None = None
    """What a guess gets; None where that means nothing."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """A model on one benchmark."""

    name: str
    """Name of the benchmark, such as ``flickr30k``."""
    task: str
    """Its kind: ``classification``, ``retrieval``, ``pairs``, ``hard_negatives``, ``winoground``, ``probe``,
    ``multilingual``, or ``world`` where it has tasks of several kinds."""
    headline: tuple[str, ...]
    """Keys of the figures that stand for it in a table, such as ``i2t_r@1`` and ``t2i_r@1``."""
    protocol: str
    """How it is measured, in a sentence."""
    data: Mapping[str, Any]
    """``images``, ``texts`` (counts), ``checksum`` (of ids, captions and labels), ``pictures`` (hash of some of their
    pixels), ``complete`` (whether the counts are those that its authors give), and what else its version is."""
    prompts: Mapping[str, Any] | None
    """``classes``, ``templates`` (counts) and ``checksum``; None where no class is named."""
    figures: Mapping[str, Figure]
    """By key, such as ``i2t_r@1``, ``acc1``, ``de/t2i_r@1``."""
    seconds: float
    """Of encoding and measuring, what a cache held not counted."""
    images_per_second: float | None
    """Rate of encoding; None where all came from the cache."""
    texts_per_second: float | None
    """The same for texts."""
    truncated: Mapping[str, float] | None = None
    """``texts``: how many distinct texts lost their end, ``share`` of all; None where the encoder does not say."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth knowing: ties, the probe's chosen C, whether it converged, the encoder's languages."""
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    """What each item scored, by the key of the figure; empty where the file lies without its outcomes."""


@dataclass(frozen=True, kw_only=True)
class ModelResults:
    """A model on any number of benchmarks."""

    name: str
    """What tables call it."""
    model: Mapping[str, Any]
    """``path``, ``identity`` (of image and text side), ``config_hash``, ``seed``, ``clip``; what is known of it."""
    environment: Mapping[str, Any]
    """Versions, commit, command, machine."""
    benchmarks: Mapping[str, BenchmarkResult]
    """By name."""

    def figure(self, key: str) -> Figure | None:
        """The figure of ``BENCHMARK/KEY``, None if it was not measured."""
        benchmark, _, rest = key.partition("/")
        found = self.benchmarks.get(benchmark)
        return found.figures.get(rest) if found else None

    def save(self, path: Path) -> None:
        """Write ``path`` (``NAME.json``) and, if there are any, the outcomes beside it; atomically, those first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        outcomes = {f"{b.name}/{key}": one for b in self.benchmarks.values() for key, one in b.outcomes.items()}
        if outcomes:
            write_outcomes(outcomes_path(path), outcomes)
        else:
            outcomes_path(path).unlink(missing_ok=True)  # those of an earlier file of this name
        values = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "model": dict(self.model),
            "benchmarks": {name: _plain(result) for name, result in self.benchmarks.items()},
            "environment": dict(self.environment),
        }
        write_json(path, values)


def outcomes_path(path: Path) -> Path:
    """Where the outcomes of a result file lie."""
    return path.with_name(f"{path.name.removesuffix('.json')}.outcomes.safetensors")


def _plain(result: BenchmarkResult) -> dict[str, Any]:
    values = {key: value for key, value in vars(result).items() if key not in ("outcomes", "figures", "name")}
    figures = {key: asdict(figure) for key, figure in result.figures.items()}
    for figure in figures.values():
        figure.update({end: None for end in ("low", "high") if math.isnan(figure[end])})
    return values | {"figures": figures}


def load_results(path: Path) -> ModelResults:
    """Read a result file, and its outcomes where they lie beside it.

    Raises:
        ProclipError: the file is missing, is not a result file, is of a later version, or lacks a field; the message
            names the file and the field.
    """
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise ProclipError(f"{path} is not a result file of proclip eval: its 'format' must be {FORMAT!r}")
    if values.get("version") != VERSION:
        raise ProclipError(f"{path} has version {values.get('version')!r}; this proclip reads version {VERSION}")
    beside = outcomes_path(path)
    outcomes = read_outcomes(beside) if beside.is_file() else {}
    try:
        benchmarks = {
            name: _benchmark(
                name, one, {k.partition("/")[2]: o for k, o in outcomes.items() if k.split("/")[0] == name}
            )
            for name, one in values["benchmarks"].items()
        }
        return ModelResults(
            name=values["name"], model=values["model"], environment=values["environment"], benchmarks=benchmarks
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ProclipError(f"{path}: a field is missing or not as it should be: {error}") from None


def _benchmark(name: str, values: dict[str, Any], outcomes: dict[str, Outcomes]) -> BenchmarkResult:
    figures = {key: Figure(**{**figure, **_ends(figure)}) for key, figure in values["figures"].items()}
    rest = {key: value for key, value in values.items() if key not in ("figures", "headline")}
    return BenchmarkResult(name=name, figures=figures, headline=tuple(values["headline"]), outcomes=outcomes, **rest)


def _ends(figure: dict[str, Any]) -> dict[str, float]:
    """The ends of an interval, NaN where the file has null."""
    return {end: math.nan if figure[end] is None else figure[end] for end in ("low", "high")}
