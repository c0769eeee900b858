"""The catalogue: every benchmark that is known by name, and how several are loaded and checked before a model runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.hub import PREFIX
from ...errors import ProclipError
from ..benchmark import Benchmark, Entry
from . import classification, fine_grained, hub, multilingual, probes, retrieval
from .checks import checked, counts
from .multilingual import language_means, mean_languages
from .own import class_folder, open_own, retrieval_folder, tasks_folder

__all__ = [
    "ENTRIES",
    "SUITES",
    "LoadedSuite",
    "class_folder",
    "counts",
    "find_entry",
    "language_means",
    "load_suite",
    "mean_languages",
    "open_own",
    "retrieval_folder",
    "tasks_folder",
]

ENTRIES: dict[str, Entry] = {
    **classification.ENTRIES,
    **retrieval.ENTRIES,
    **multilingual.ENTRIES,
    **fine_grained.ENTRIES,
    **probes.ENTRIES,
}
"""Every benchmark, by name."""
_FAMILIES: dict[str, tuple[str, ...]] = {
    "zero-shot": tuple(classification.ELEVEN),
    "robustness": tuple(classification.ROBUSTNESS),
    "retrieval": tuple(retrieval.PAPER),
    "multilingual": tuple(multilingual.PAPER),
    "fine-grained": ("mmvp_vlm", "sugarcrepe"),
    "probes": tuple(probes.ENTRIES),
}
SUITES: dict[str, tuple[str, ...]] = {
    "paper": tuple(name for names in _FAMILIES.values() for name in names),
    **_FAMILIES,
}
"""Names of benchmarks that belong together: ``paper`` has every row of the paper's tables."""


@dataclass(frozen=True, kw_only=True)
class LoadedSuite:
    """What became of a list of benchmarks."""

    benchmarks: tuple[Benchmark, ...]
    """Those whose data are there and without fault, in the order of the list."""
    absent: Mapping[str, str]
    """Those of a suite that have no folder: name to what is expected where."""
    problems: tuple[str, ...]
    """All that is wrong, a line each."""

    def raise_problems(self) -> None:
        """Raise one `ProclipError` with every problem, if there are any."""
        if self.problems:
            many = (
                f"{len(self.problems)} problems with the data" if len(self.problems) > 1 else "a problem with the data"
            )
            raise ProclipError("\n  ".join([f"{many}, no model was run:", *self.problems]))


def find_entry(name: str) -> Entry:
    """The benchmark of that name.

    Raises:
        ProclipError: there is none; the message has the nearest name.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    close = difflib.get_close_matches(name.lower(), [*ENTRIES, *SUITES], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join([*SUITES, *ENTRIES])}"
    raise ProclipError(f"no benchmark {name!r}: {hint}")


def load_suite(names: Sequence[str], root: Path, *, partial: bool = False) -> LoadedSuite:
    """Load and check the data of several benchmarks, all of them before any model runs.

    A benchmark without a folder is skipped and reported if it was asked for as part of a suite, and a problem if it
    was asked for by name.

    Args:
        names: of benchmarks, suites, or data sets of the hub (``hf:ID``), in any mixture.
        root: folder that has a folder for each benchmark (`Entry.folder`).
        partial: a set with other counts than its authors give is measured, and marked as not complete.

    Raises:
        ProclipError: an unknown name. What is wrong with data is in `LoadedSuite.problems`.
    """
    from_the_hub = [name for name in names if name.startswith(PREFIX)]
    listed = [name for name in names if name not in from_the_hub]
    by_name = {name for name in listed if name not in SUITES}
    wanted = [find_entry(one) for name in listed for one in SUITES.get(name, (name,))]
    if wanted and not root.is_dir():
        return LoadedSuite(benchmarks=(), absent={}, problems=(f"the data root {root} is not a folder",))
    benchmarks = [hub.from_hub(name) for name in from_the_hub]
    absent: dict[str, str] = {}
    problems: list[str] = []
    for entry in {entry.name: entry for entry in wanted}.values():
        present = [root / name for name in (entry.folder, *entry.aliases) if (root / name).is_dir()]
        if not present:
            lacking = f"{root / entry.folder} is missing; it must hold {entry.layout}"
            if entry.name in by_name:
                problems.append(f"{entry.name}: {lacking}")
            else:
                absent[entry.name] = lacking
            continue
        try:
            benchmark, found = checked(entry, entry.load(present[0]), partial)
        except ProclipError as error:
            found = [f"{error}" if f"{error}".startswith(f"{entry.name}:") else f"{entry.name}: {error}"]
        else:
            if not found:
                benchmarks.append(benchmark)
        problems += found
    return LoadedSuite(benchmarks=tuple(benchmarks), absent=absent, problems=tuple(problems))
