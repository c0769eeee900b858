"""What of a benchmark's data is missing or too few, found before any model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..benchmark import Benchmark, Entry, some
from ..contents import captions_of, image_keys, measured_on
from ..tasks import Task


def counts(tasks: Mapping[str, Task]) -> dict[str, int]:
    """``images`` (distinct) that the tasks measure on and ``texts`` (all of them)."""
    return {
        "images": len({key for task in tasks.values() for key in measured_on(task)}),
        "texts": sum(len(captions_of(task)) for task in tasks.values()),
    }


def checked(entry: Entry, benchmark: Benchmark, partial: bool) -> tuple[Benchmark, list[str]]:
    """The benchmark, complete or not, and what is wrong with it.

    Args:
        entry: of the catalogue.
        benchmark: what it loaded.
        partial: other counts than the authors' are no problem, but make the benchmark incomplete.
    """
    have = counts(benchmark.tasks)
    wrong = []
    for what, want in entry.expected.items():
        versions = (want,) if isinstance(want, int) else want
        if have[what] not in versions:
            wrong.append(f"{have[what]:,} {what} instead of {' or '.join(f'{count:,}' for count in versions)}")
    problems = []
    if wrong and not partial:
        problems.append(f"{entry.name}: {' and '.join(wrong)}: --partial measures what is there")
    if not benchmark.complete and not wrong and not partial:
        problems.append(
            f"{entry.name}: not the counts that its authors give ({benchmark.protocol}): --partial measures it"
        )
    distinct = image_keys(benchmark.tasks.values())
    if absent := benchmark.images.missing(distinct):
        many = f"{len(absent):,} of {len(distinct):,} pictures are missing or no pictures"
        problems.append(f"{entry.name}: {many}: {some(absent)}")
    return replace(benchmark, complete=benchmark.complete and not wrong), problems
