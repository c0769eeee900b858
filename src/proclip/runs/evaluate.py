"""``proclip eval``: any model through any benchmarks, resumably, into one result file; and two models compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from .. import distributed
from ..errors import ProclipError
from ..evaluate.benchmark import Benchmark
from ..evaluate.benchmarks import load_suite, open_own
from ..evaluate.contents import image_keys
from ..evaluate.dual_encoder import DualEncoder
from ..evaluate.encoding import Report, open_encoders
from ..evaluate.gallery import make_gallery
from ..evaluate.open_model import open_model
from ..evaluate.run import data_of, run_benchmark
from ..files import write_atomically, write_json
from ..models.devices import pick_device
from ..results import ModelResults, compare, load_results
from ..results.gallery import gallery_path, joined_galleries
from .console import print_whole
from .recipes import environment

MINI = Path("runs/mini")
CACHE = Path("runs/cache")
RESULTS = Path("runs/results")


def load_benchmarks(
    suite: str | None,
    data_root: Path,
    folders: Sequence[Path],
    split: str | None,
    tasks: Sequence[str] = (),
    partial: bool = False,
) -> list[Benchmark]:
    """Every benchmark that is asked for, its data checked before any model is loaded.

    Args:
        suite: a suite's name, or benchmarks' names with commas between; None for none.
        data_root: folder of the benchmarks' folders.
        folders: the user's own data, or mini worlds.
        split: of a mini world's concepts, or of an own folder's rows.
        tasks: of the folders, as their figures' keys begin; all if empty.
        partial: whether counts other than the authors' are accepted.

    Raises:
        ProclipError: an unknown name, nothing there, or something wrong with the data; all problems in one message.
    """
    found: list[Benchmark] = []
    problems: list[str] = []
    for folder in folders:
        try:
            found.append(open_own(folder, split))
        except ProclipError as error:
            problems.append(str(error))
    if not problems:
        found = _only(found, tasks)
    if suite is not None:
        loaded = load_suite([name.strip() for name in suite.split(",") if name.strip()], data_root, partial=partial)
        problems += loaded.problems
        absent = "".join(f"\n  {name}: {expected}" for name, expected in loaded.absent.items())
        if not loaded.benchmarks and not problems:
            raise ProclipError(f"none of {suite} is below {data_root}:{absent}")
        if absent:
            Console(stderr=True).print(f"left out, not below {data_root}:{absent}", highlight=False, soft_wrap=True)
        found += loaded.benchmarks
    if len(problems) == 1:
        raise ProclipError(problems[0])
    if problems:
        raise ProclipError("\n  ".join([f"{len(problems)} problems with the data, no model was run:", *problems]))
    names_seen: set[str] = set()
    for benchmark in found:
        if benchmark.name in names_seen:
            raise ProclipError(f"two benchmarks are called {benchmark.name!r}: rename one of the folders")
        names_seen.add(benchmark.name)
    return found


def _only(benchmarks: Sequence[Benchmark], tasks: Sequence[str]) -> list[Benchmark]:
    """Those tasks of the benchmarks that have them, all if none are named.

    Raises:
        ProclipError: a task that no benchmark has.
    """
    if not tasks:
        return list(benchmarks)
    named = {one.name: {prefix or task.name for prefix, task in one.tasks.items()} for one in benchmarks}
    every = set().union(*named.values())
    if unknown := [task for task in tasks if task not in every]:
        raise ProclipError(f"no task {unknown[0]!r} in the folders: there are {', '.join(sorted(every))}")
    chosen = [(one, [task for task in tasks if task in named[one.name]]) for one in benchmarks]
    return [one.only(some) for one, some in chosen if some]


def evaluate_model(
    model: DualEncoder,
    benchmarks: Sequence[Benchmark],
    path: Path,
    cache: Path | None = CACHE,
    reference: DualEncoder | None = None,
    replace: bool = True,
) -> ModelResults:
    """Measure a model on benchmarks; what `path` has of the same model and data is not measured again.

    Args:
        model: under evaluation.
        benchmarks: loaded and checked.
        path: result file; written after every benchmark.
        cache: folder of vectors.
        reference: the original CLIP, for ``cka``.
        replace: whether figures of other data under a benchmark's name are replaced; else that is an error.

    Raises:
        ProclipError: `path` holds another model's results, or figures that may not be replaced, or what
            `run_benchmark` raises.
    """
    results = _begin(model, path, reference)
    for benchmark in benchmarks:
        kept = results.benchmarks.get(benchmark.name)
        if kept and (kept.data, kept.protocol) == (data_of(benchmark), benchmark.protocol):
            line = f"{model.name} on {benchmark.name}: measured before, kept from {path}"
            Console(stderr=True).print(line, highlight=False, soft_wrap=True)
            continue
        if kept and not replace:
            raise ProclipError(
                f"{path} has {benchmark.name} on other data or other tasks: give another --out, or delete the file"
            )
        with encoding_progress(f"{model.name} on {benchmark.name}") as report:
            result = run_benchmark(benchmark, model, cache, reference, report)
        results = dataclasses.replace(results, benchmarks={**results.benchmarks, benchmark.name: result})
        if distributed.is_main():
            results.save(path)
        distributed.barrier()
    return results


@contextmanager
def encoding_progress(what: str) -> Iterator[Report]:
    """A bar for the pictures and one for the texts that a model encodes, on the main process."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not distributed.is_main()) as bar:
        rows: dict[str, TaskID] = {}

        def report(kind: str, done: int, total: int) -> None:
            if kind not in rows:
                rows[kind] = bar.add_task(f"{what}: {kind}", total=total)
            bar.update(rows[kind], completed=done, total=total)

        yield report


def _begin(model: DualEncoder, path: Path, reference: DualEncoder | None) -> ModelResults:
    """The results at `path` if they are this model's, else new ones."""
    about: dict[str, Any] = {
        "config_hash": _hash([dict(model.images.identity), dict(model.texts.identity)]),
        "seed": None,
        **model.about,
        "images": dict(model.images.identity),
        "texts": dict(model.texts.identity),
        "reference": dict(reference.images.identity) if reference else None,
    }
    new = ModelResults(name=model.name, model=about, environment=environment(), benchmarks={})
    if not path.is_file():
        return new
    found = load_results(path)
    known = about["images"] and about["texts"]  # functions without an identity may be others by now
    if known and found.model == plain(about):
        return dataclasses.replace(new, benchmarks=found.benchmarks)
    if found.model.get("path") != about.get("path"):
        raise ProclipError(
            f"{path} holds the results of {found.model.get('path')}: give another --out, or delete the file"
        )
    Console(stderr=True).print(f"{path}: {model.name} has changed since; measured anew", highlight=False)
    return new


def _hash(values: Any) -> str:
    """Of what a model is that no recipe made: 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def plain(values: Any) -> Any:
    """JSON values as they are after being written and read."""
    return json.loads(json.dumps(values))


def evaluate_path(
    model: str, benchmarks: Sequence[Benchmark], path: Path, original: DualEncoder, name: str | None = None
) -> ModelResults:
    """`evaluate_model` for a model by its name or folder, freed afterwards.

    Args:
        model: run or model folder.
        benchmarks: loaded and checked.
        path: result file.
        original: the CLIP that ``cka`` compares with.
        name: what tables call the model; its folder's name if None.
    """
    opened = open_model(model, pick_device())
    results = evaluate_model(dataclasses.replace(opened, name=name or opened.name), benchmarks, path, CACHE, original)
    opened.close()
    return results


def write_gallery(
    model: DualEncoder,
    benchmarks: Sequence[Benchmark],
    path: Path,
    cache: Path | None = CACHE,
    queries: Mapping[str, int] | None = None,
) -> None:
    """Write what a model found and got wrong, with small pictures, beside its result file.

    Args:
        model: evaluated before, so that its vectors are in the cache.
        benchmarks: whose pictures are shown.
        path: result file.
        cache: folder of vectors.
        queries: text queries of each task, by prefix; some of every task if None.
    """  # fmt: skip
    found = []
    for benchmark in benchmarks:
        encoders, _ = open_encoders(model, benchmark.images, cache)
        encoders.image_features(image_keys(benchmark.tasks.values()))
        found.append(make_gallery(model.name, benchmark, encoders, queries))
    joined_galleries(found).save(gallery_path(path))


def values(results: ModelResults) -> dict[str, float]:
    """Every figure's value, by its key within its benchmark; for results on one benchmark alone."""
    (only,) = results.benchmarks.values()
    return {key: figure.value for key, figure in only.figures.items()}


def result_name(model: str) -> str:
    """A model's name or path as a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.strip("./")).strip("-") or "model"


def evaluate_command(arguments: Namespace, benchmarks: Sequence[Benchmark]) -> ModelResults:
    """Evaluate a model, print every figure with its interval beside chance, and write the result file.

    Args:
        arguments: of the command line: ``model``, ``name``, ``clip``, ``cache``, ``gallery``, ``out``.
        benchmarks: loaded and checked.

    Raises:
        ProclipError: no such model, or what `evaluate_model` raises.
    """
    model, cache = str(arguments.model), arguments.cache
    device = pick_device()
    opened = open_model(model, device)
    name = arguments.clip or opened.about.get("clip")
    original = open_model(str(name), device) if name and str(name) != model else None
    path = arguments.out or RESULTS / f"{result_name(model)}.json"
    opened = dataclasses.replace(opened, name=arguments.name or opened.name)
    results = evaluate_model(opened, benchmarks, path, cache, original or opened, replace=False)
    if arguments.gallery and distributed.is_main():
        write_gallery(opened, benchmarks, path, cache)
    if distributed.is_main():
        print_results(results, [benchmark.name for benchmark in benchmarks])
        Console(stderr=True).print(f"{path}", highlight=False, soft_wrap=True)
    return results


def print_results(results: ModelResults, names: Sequence[str]) -> None:
    """One table a benchmark."""
    console = Console()
    for name in names:
        result = results.benchmarks[name]
        counts = f"{result.data['images']} pictures, {result.data['texts']} captions"
        table = Table("figure", "value", "95 % interval", "chance", title=f"{results.name} on {name} ({counts})")
        for key, figure in result.figures.items():
            chance = "" if figure.chance is None else f"{figure.chance:.3f}"
            bold = "bold" if key in result.headline else ""
            table.add_row(key, f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}", chance, style=bold)
        console.print(table)
        if result.truncated and result.truncated["texts"]:
            cut = result.truncated
            console.print(f"{cut['texts']:.0f} texts ({cut['share']:.1%}) are longer than the text side reads: cut")


CARD_HEADING = "## Figures"


def add_figures_to_card(model: Path, results: ModelResults) -> None:
    """Write a model's figures with their intervals at the end of its card; earlier ones go.

    Args:
        model: folder of the model.
        results: of that model.
    """
    card = model / "README.md"
    lines = [card.read_text(encoding="utf-8").split(CARD_HEADING)[0].rstrip(), "", CARD_HEADING, ""]
    lines.append("`proclip eval` gives them; shares in per cent, with 95 % bootstrap intervals.")
    for name, result in results.benchmarks.items():
        data = result.data
        counts = f"{data['images']} pictures, {data['texts']} captions, checksum {data['checksum']}"
        lines += [
            "",
            f"### {name}",
            "",
            f"{counts}; {result.protocol}.",
            "",
            "| figure | value | interval |",
            "|---|---|---|",
        ]
        for key, f in result.figures.items():
            if key.endswith(("r@5", "r@10", "acc5", "median_rank")):
                continue
            lines.append(f"| {key} | {100 * f.value:.1f} | {100 * f.low:.1f} to {100 * f.high:.1f} |")
    write_atomically(card, "\n".join(lines) + "\n")


def compare_command(first: Path, second: Path, out: Path | None = None) -> None:
    """``proclip eval --compare A B``: two result files, paired over the same items.

    Prints each benchmark's headline figures; `out` gets all of them.

    Args:
        first: result file.
        second: result file.
        out: JSON file.

    Raises:
        ProclipError: a file is not a result file, or the two have nothing of the same items in common.
    """
    one, other = load_results(first), load_results(second)
    found = compare(one, other)
    headline = {f"{name}/{key}" for name, result in one.benchmarks.items() for key in result.headline}
    shown = [row for row in found.rows if row.key in headline] or found.rows
    table = Table("figure", one.name, other.name, "difference [95 % interval]", "p", title="paired bootstrap")
    for row in shown:
        low, high, style = row.paired.low, row.paired.high, "bold" if row.paired.significant else "dim"
        change = f"{row.paired.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        table.add_row(
            row.key, f"{row.first:.3f}", f"{row.second:.3f}", change, f"{row.paired.p_value:.3f}", style=style
        )
    console = Console()
    print_whole(table)
    console.print(f"bold: the interval leaves 0 out; {len(shown)} of {len(found.rows)} figures, --out FILE has all")
    for key, reason in found.left_out.items():
        console.print(f"left out: {key}: {reason}", highlight=False, soft_wrap=True)
    if out is not None:
        rows = {row.key: {"first": row.first, "second": row.second, **row.paired._asdict()} for row in found.rows}
        values = {"first": str(first), "second": str(second), "figures": rows, "left_out": found.left_out}
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {**values, "environment": environment()})
