"""``proclip report``: result files, with what lies beside them, as a page, as tables, or as figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..errors import ProclipError
from ..files import read_json
from ..report import write_figures, write_report
from ..report.clip_benchmark import read_clip_benchmark, write_clip_benchmark
from ..report.seeds import by_setting, first_seed, seed_name, told_apart
from ..results import ModelResults, load_results
from ..results.format import FORMAT
from ..results.gallery import Gallery, gallery_path, load_gallery

BESIDE = (".gallery.json", "-forgetting.json")
"""Ends of the names of files that lie beside result files."""


def report_command(paths: Sequence[Path], out: Path, reference: str | None, clip_benchmark: bool = False) -> None:
    """Write what result files say.

    Args:
        paths: files of ``proclip eval``, CLIP_benchmark's JSON or CSV files, or folders of such files.
        out: ``.html``, ``.md``, ``.tex`` or ``.csv`` file; or a folder for the figures as PNG and SVG.
        reference: name of the model that others are compared with; the first if None.
        clip_benchmark: write JSON files as CLIP_benchmark does, one a benchmark and language, into the folder `out`.

    Raises:
        ProclipError: a file is missing or of another kind, or what `write_report` raises.
    """
    files = [file for path in paths for file in _files(path)]
    files = [file for file in files if not file.name.endswith(BESIDE)] or files  # as the shell's *.json names them too
    if clip_benchmark:
        for model in told_apart(read_results(files)):
            write_clip_benchmark(model, out)
    elif out.suffix == "":
        results = read_results(files)
        write_figures(told_apart(results), out, reference=first_seed(results, reference))
    else:
        write_report_of(files, out, reference=reference)
    Console(stderr=True).print(f"{out}", highlight=False, soft_wrap=True)


def write_report_of(
    paths: Sequence[Path],
    out: Path,
    title: str | None = None,
    curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]] | None = None,
    acknowledgement: str = "",
    reference: str | None = None,
) -> None:
    """Write a report of result files and of the galleries that lie beside them.

    Files of one name whose models differ in their seed are seeds of one setting: the tables show each seed, and the
    ablation table has the mean and deviation of every setting.

    Args:
        paths: result files.
        out: file to write; its ending says what.
        title: of the page; None as in `write_report`.
        curves: by model and stage the rows of ``metrics.jsonl``.
        acknowledgement: of the pictures.
        reference: name of the model that others are compared with.
    """
    results = read_results(paths)
    write_report(
        told_apart(results), out, title=title, reference=first_seed(results, reference),
        galleries=_galleries(paths, told_apart(results)), curves=curves, ablation=by_setting(results),
        acknowledgement=acknowledgement,
    )  # fmt: skip


def _galleries(paths: Sequence[Path], results: Sequence[ModelResults]) -> list[Gallery]:
    """The galleries beside result files, called as their models are in the report."""
    names = {model.name for model in results}
    found = []
    for path in paths:
        if gallery_path(path).is_file():
            gallery = load_gallery(gallery_path(path))
            of_seed = seed_name(gallery.name, read_json(path)["model"].get("seed"))
            found.append(replace(gallery, name=of_seed) if of_seed in names else gallery)
    return found


def read_results(paths: Sequence[Path]) -> list[ModelResults]:
    """Our result files and CLIP_benchmark's, in the order of the files; those of one model are put together.

    Raises:
        ProclipError: a file is neither; the message names it.
    """
    ours = [path for path in paths if path.suffix == ".json" and read_json(path).get("format") == FORMAT]
    theirs = [path for path in paths if path not in ours]
    found: list[ModelResults] = []
    for results in map(load_results, ours):
        same = next((n for n, one in enumerate(found) if (one.name, one.model) == (results.name, results.model)), None)
        if same is None:
            found.append(results)
        else:  # one model, measured on other benchmarks
            found[same] = replace(found[same], benchmarks={**found[same].benchmarks, **results.benchmarks})
    return found + (read_clip_benchmark(theirs) if theirs else [])


def training_curves(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of a run's ``metrics.jsonl`` by stage."""
    stages: dict[str, list[dict[str, Any]]] = {}
    path = run / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        row = json.loads(line)
        stages.setdefault(row["stage"], []).append(row)
    return stages


def _files(path: Path) -> list[Path]:
    """A file, or the result files of a folder, in the order of their names."""
    if not path.is_dir():
        if not path.is_file():
            raise ProclipError(f"{path} is missing: proclip eval MODEL --out {path} writes it")
        return [path]
    found = [p for p in sorted(path.iterdir()) if p.suffix in (".json", ".csv") and not p.name.endswith(BESIDE)]
    if not found:
        raise ProclipError(f"{path} has no result files (.json, or CLIP_benchmark's .csv)")
    return found
