"""What every benchmark shares: its command line, timing in turn, peak memory, and the result file.

A benchmark asks one question and reads so:

    def main() -> None:
        options = command_line(__doc__, repeats=7)                       # --small --repeats --threads --out
        turns = in_turn({"ours": ours, "bare": bare}, options.repeats)   # seconds of each, round by round
        speed = turns.ratio("bare", "ours")                              # how many times as fast ours is, each round
        figures = [figure("ours over a bare loop", speed, "x", aim="at least 0.9",
                          limit=("bare decoder, images/s", 410.0, 0.93))]
        write(options, __doc__, figures, {"images": 320})

`write` prints the figures and writes ``benchmarks/results/NAME.json``; ``--small`` is a run of seconds that shows that
all of it works, whose numbers mean nothing, and which writes only where ``--out`` says. docs/performance.md is filled
in from the ``figures`` of these files (benchmarks/performance.py), and a test compares the two.

- A ratio is of times of the same round, so that what else the machine does strikes both alike. Which one goes first
  changes from round to round. Figures are medians with their range.
- Peak memory is of a fresh process, from the moment that its preparations are done (`peak_memory`).
- What a figure is held against (``limit``) is measured too: benchmarks/limits.py.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from proclip.files import write_json
from proclip.models.arithmetic import has_bfloat16
from proclip.runs.recipes import environment

RESULTS = Path(__file__).resolve().parent / "results"


def command_line(
    doc: str | None,
    repeats: int,
    extend: Callable[[argparse.ArgumentParser], object] | None = None,
    threads: int | None = None,
) -> argparse.Namespace:
    """Read the options that all benchmarks have, and set torch's threads.

    Args:
        doc: the script's docstring.
        repeats: rounds that are timed, if ``--repeats`` does not say; 2 with ``--small``.
        extend: adds options of the script's own.
        threads: of torch, if ``--threads`` does not say; as many as there are cores if None.

    Returns:
        ``small``, ``repeats``, ``threads``, ``out`` (None: print only), and the script's own.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a run of seconds, whose numbers mean nothing")
    parser.add_argument("--repeats", type=int, help=f"rounds that are timed (default: {repeats}; 2 with --small)")
    parser.add_argument(
        "--threads", type=int, default=threads or os.cpu_count(), help="of torch (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help=f"result file (default: benchmarks/results/{name}.json)")
    if extend is not None:
        extend(parser)
    options = parser.parse_args()
    if options.repeats is None:
        options.repeats = 2 if options.small else repeats
    if options.out is None and not options.small:
        options.out = RESULTS / f"{name}.json"
    torch.set_num_threads(options.threads)
    return options


@dataclass(frozen=True)
class Turns:
    """Times of several ways to do something, taken in turn; entry i of each list is of round i."""

    seconds: Mapping[str, Sequence[float]]
    """By the clock."""
    core_seconds: Mapping[str, Sequence[float]]
    """Of this process on all cores, which other programs disturb less."""

    def ratio(self, one: str, other: str) -> list[float]:
        """Time of `one` over that of `other`, round by round: above 1 where `other` is faster."""
        return [a / b for a, b in zip(self.seconds[one], self.seconds[other], strict=True)]

    def rate(self, name: str, count: float) -> list[float]:
        """`count` things a call, as things a second."""
        return [count / seconds for seconds in self.seconds[name]]

    def values(self) -> dict[str, Any]:
        """Both times of every way as JSON values."""
        return {
            name: {"seconds": spread(self.seconds[name]), "core_seconds": spread(self.core_seconds[name])}
            for name in self.seconds
        }


def in_turn(ways: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> Turns:
    """Time several functions in one process, one after the other, again and again; the order rotates.

    Args:
        ways: what is timed, by name; each call is one measurement, so let it take a tenth of a second or more.
        repeats: rounds.
        warm_up: rounds before, untimed.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    core_seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # what is there already is not looked through again before each call
    try:
        for number in range(-warm_up, repeats):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                gc.collect()
                _wait_for_device()
                start, start_of_cores = time.perf_counter(), time.process_time()
                ways[name]()
                _wait_for_device()
                if number >= 0:
                    seconds[name].append(time.perf_counter() - start)
                    core_seconds[name].append(time.process_time() - start_of_cores)
    finally:
        gc.unfreeze()
    return Turns(seconds, core_seconds)


def _wait_for_device() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def peak_memory(make: Callable[..., Callable[[], object]], *arguments: object) -> dict[str, float]:
    """Peak resident memory of a call, in a fresh process (Linux).

    Args:
        make: a function of a module; prepares, and returns what is measured.
        arguments: of `make`.

    Returns:
        MiB: ``before``, after the preparations; ``peak``; ``added``, the difference; ``anonymous``, the most that was
        added without the pages of files, which the system may drop (looked at a hundred times a second); and
        ``seconds`` of the call.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, torch.get_num_threads(), make, arguments).result()


def _peak(threads: int, make: Callable[..., Callable[[], object]], arguments: Sequence[object]) -> dict[str, float]:
    torch.set_num_threads(threads)
    measured = make(*arguments)
    gc.collect()
    gc.freeze()  # as in `in_turn`: the modules' objects are not looked through again
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of the preparations, is forgotten
    before, first, seen, done = _status_kib("VmRSS"), _status_kib("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(_status_kib("RssAnon") - first)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        measured()
    finally:
        done.set()
        watcher.join()
    seconds, peak = time.perf_counter() - start, _status_kib("VmHWM")
    return {
        "before": round(before / 1024, 1),
        "peak": round(peak / 1024, 1),
        "added": round((peak - before) / 1024, 1),
        "anonymous": round(max(seen) / 1024, 1),
        "seconds": _rounded(seconds),
    }


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, range and number of values, to four digits."""
    return {
        "median": _rounded(statistics.median(values)),
        "range": [_rounded(min(values)), _rounded(max(values))],
        "n": len(values),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def figure(
    what: str,
    values: Sequence[float] | float,
    unit: str,
    *,
    aim: str = "",
    limit: tuple[str, float, float] | None = None,
) -> dict[str, Any]:
    """A line of docs/performance.md.

    Args:
        what: is measured, in words.
        values: one a round, or the one there is.
        unit: ``x`` for a ratio, ``images/s``, ``MiB``, ...
        aim: what it is to be, in words.
        limit: what the hardware allows: words, value, and which share of it is reached (0 to 1).
    """
    given = [float(values)] if isinstance(values, int | float) else list(values)
    row: dict[str, Any] = {"what": what, "unit": unit, **spread(given), "aim": aim}
    if limit is not None:
        row["limit"] = {"what": limit[0], "value": _rounded(limit[1]), "share": round(limit[2], 3)}
    return row


def write(
    options: argparse.Namespace, doc: str | None, figures: Sequence[Mapping[str, Any]], details: Mapping[str, Any]
) -> None:
    """Print the figures; write them with machine, versions, commit, date and command, where ``options.out`` says.

    Args:
        options: of `command_line`.
        doc: the script's docstring, whose first line is the question.
        figures: made by `figure`.
        details: JSON values that say what was measured and what else was found.
    """
    for row in figures:
        low, high = row["range"]
        limit = f"; {row['limit']['share']:.0%} of {row['limit']['what']}" if "limit" in row else ""
        aim = f"; aim: {row['aim']}" if row["aim"] else ""
        print(f"{row['what']}: {row['median']:g} {row['unit']} ({low:g} to {high:g}, n = {row['n']}){limit}{aim}")
    if options.out is None:
        return
    found = environment()
    result = {
        "benchmark": Path(sys.argv[0]).stem,
        "question": (doc or "").strip().splitlines()[0],
        "command": command(),
        "small": options.small,
        "date": date.today().isoformat(),
        "commit": found["commit"],
        "versions": found["versions"],
        "machine": machine(),
        "figures": list(figures),
        **details,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)


def command() -> str:
    """The command that runs this script, without the places of folders."""
    words = (Path(word).name if word.startswith("/") else word for word in sys.argv[1:])
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, torch's threads, memory, GPU, load; no host name, no path."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    facts: dict[str, Any] = {
        "processor": model or platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": has_bfloat16("cpu"),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
