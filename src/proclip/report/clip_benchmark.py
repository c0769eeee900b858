"""CLIP_benchmark's result files, so that its published figures stand beside ours, and ours beside its.

It writes one JSON object for each dataset, task and language (clip_benchmark/cli.py): ``dataset``, ``model``,
``pretrained``, ``task``, ``metrics``, ``language``; its ``build`` joins them to a CSV of the same fields, the metrics
as columns. Neither says on how many items, nor what each scored: such figures have no interval and no mark.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ProclipError
from ..files import read_json, write_json
from ..results import BenchmarkResult, Figure, ModelResults

SETS = {
    "cars": "cars", "fgvc_aircraft": "fgvc_aircraft", "mscoco_captions": "coco", "imagenet_sketch": "imagenet_sketch",
    "crossmodal3600": "xm3600", "sugar_crepe": "sugarcrepe", "vtab/caltech101": "caltech101",
    "vtab/cifar10": "cifar10", "vtab/cifar100": "cifar100", "vtab/dtd": "dtd", "vtab/flowers": "flowers",
    "vtab/pets": "pets", "vtab/sun397": "sun397",
}  # fmt: skip
"""Its names of data sets that we call otherwise; all others keep theirs."""
METRICS = {"mean_per_class_recall": "mean_per_class", "text_acc": "text", "image_acc": "image", "group_acc": "group"}
RECALL = {"image": "t2i", "text": "i2t"}
"""What is retrieved, as it names recall, and our direction."""
TASKS = {
    "zeroshot_classification": "classification", "zeroshot_retrieval": "retrieval", "linear_probe": "probe",
    "image_caption_selection": "hard_negatives",
}  # fmt: skip
PROTOCOL = "as CLIP_benchmark published or measured it"


def read_clip_benchmark(paths: Sequence[Path]) -> list[ModelResults]:
    """Models with their figures, from its JSON files or the CSV files that its ``build`` makes.

    Args:
        paths: ``.json`` and ``.csv`` files.

    Returns:
        one for each pair of ``model`` and ``pretrained``, in the order of the files.

    Raises:
        ProclipError: a file is missing or not of these formats; the message names the file and the field.
    """
    models: dict[str, dict[str, Any]] = {}
    for path in paths:
        for where, row in _rows(path):
            if absent := [key for key in ("dataset", "model", "pretrained", "task", "metrics") if key not in row]:
                raise ProclipError(f"{where} lacks {', '.join(absent)}: it is not a result of CLIP_benchmark")
            name = " ".join(dict.fromkeys(str(row[key]) for key in ("model", "pretrained") if row[key]))
            entry = models.setdefault(name, {"model": {k: row[k] for k in ("model", "pretrained")}, "benchmarks": {}})
            _add(entry["benchmarks"], row, where)
    return [
        ModelResults(
            name=name, model={**entry["model"], "source": "CLIP_benchmark"}, environment={},
            benchmarks=entry["benchmarks"],
        )
        for name, entry in models.items()
    ]  # fmt: skip


def _rows(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    if path.suffix == ".json":
        yield f"{path}", read_json(path)
        return
    if path.suffix != ".csv":
        raise ProclipError(f"{path}: results of CLIP_benchmark are .json or .csv files")
    fixed = ("dataset", "model", "pretrained", "task", "language", "model_fullname")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        raise ProclipError(f"{path} is missing") from None
    for number, line in enumerate(lines, start=2):
        row: dict[str, Any] = {key: line[key] for key in fixed if key in line}
        row["metrics"] = {key: value for key, value in line.items() if key not in fixed and value not in ("", None)}
        yield f"{path}, line {number}", row


def _add(benchmarks: dict[str, BenchmarkResult], row: Mapping[str, Any], where: str) -> None:
    """Add a row's figures to the benchmark that it is of."""
    dataset = str(row["dataset"]).removeprefix("wds/")
    base, _, part = dataset.partition("/") if dataset.startswith("sugar_crepe/") else (dataset, "", "")
    name, task = SETS.get(base, base), TASKS.get(str(row["task"]), str(row["task"]))
    language = str(row.get("language") or "en")
    if name == "winoground":
        task = "winoground"
    elif task == "probe":
        name = f"probe-{name}"
    prefix = ""
    if name == "xm3600" or language != "en":
        prefix, task = f"{language}/", "multilingual"
    figures = {}
    for metric, value in dict(row["metrics"]).items():
        key = part if part and metric in ("acc", "text_acc") else _key(metric)
        if key is None:
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ProclipError(f"{where}: {metric} must be a number, not {value!r}") from None
        if not math.isnan(number):
            figures[f"{prefix}{key}"] = Figure(value=number, low=math.nan, high=math.nan, n=0)
    if not figures:
        return
    known = benchmarks.get(name)
    together = {**(known.figures if known else {}), **figures}
    benchmarks[name] = BenchmarkResult(
        name=name, task=task, headline=_headline(together), protocol=PROTOCOL, data={"source": str(row["dataset"])},
        prompts=None, figures=_with_means(name, together), seconds=0.0, images_per_second=None, texts_per_second=None,
    )  # fmt: skip


def _key(metric: str) -> str | None:
    """Our key of one of its metrics; None for what is no figure (the probe's settings)."""
    if found := re.fullmatch(r"(image|text)_retrieval_recall@(\d+)", metric):
        return f"{RECALL[found[1]]}_r@{found[2]}"
    metric = metric.removeprefix("lp_")
    metric = METRICS.get(metric, metric)
    return metric if metric in ("acc", "acc1", "acc5", "mean_average_precision", *METRICS.values()) else None


def _headline(figures: Mapping[str, Figure]) -> tuple[str, ...]:
    for wanted in (("acc1",), ("i2t_r@1", "t2i_r@1"), ("i2t_r@5", "t2i_r@5"), ("text", "image", "group")):
        if found := tuple(key for key in wanted if key in figures):
            return found
    return tuple(figures)[:2]


def _with_means(name: str, figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """The same with what is a mean of others by its authors: SugarCrepe over its seven files, XM3600 over languages."""
    parts: dict[str, list[float]] = {}
    for key, figure in figures.items():
        head, _, last = key.rpartition("/")
        if name == "sugarcrepe" and key != "mean":
            parts.setdefault("mean", []).append(figure.value)
        elif name == "xm3600" and head != "mean":
            parts.setdefault(f"mean/{last}", []).append(figure.value)
    full = 7 if name == "sugarcrepe" else 36
    means = {
        key: Figure(value=math.fsum(v) / full, low=math.nan, high=math.nan, n=0)
        for key, v in parts.items()
        if len(v) == full
    }
    return {**figures, **means}


def write_clip_benchmark(results: ModelResults, folder: Path) -> list[Path]:
    """Write a model's figures as CLIP_benchmark's JSON files: one for each data set, task and language.

    Args:
        results: of which figures that it has no name for (pairs, CKA, ranks, means of languages) are left out.
        folder: is made.

    Returns:
        the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {ours: theirs for theirs, ours in SETS.items()}
    rows: dict[tuple[str, str, str], dict[str, float]] = {}
    for benchmark in results.benchmarks.values():
        plain = benchmark.name.removeprefix("probe-")
        for key, figure in benchmark.figures.items():
            prefix, _, last = key.rpartition("/")
            dataset, language = names.get(plain, plain), "en"
            metric, task = _their_metric(benchmark.task, last, benchmark.name.startswith("probe-"))
            if benchmark.task == "hard_negatives" and last != "mean":
                dataset, metric, task = f"{dataset}/{last}", "acc", "image_caption_selection"
            elif benchmark.task == "multilingual":
                language = prefix
            elif prefix:
                dataset = f"{dataset}/{prefix}"
            if metric and not prefix.startswith("mean"):
                rows.setdefault((dataset, task, language), {})[metric] = figure.value
    paths = []
    about = results.model
    for (dataset, task, language), metrics in rows.items():
        content = {
            "dataset": dataset, "model": about.get("model", results.name),
            "pretrained": about.get("pretrained", str(about.get("path", ""))), "task": task, "metrics": metrics,
            "language": language,
        }  # fmt: skip
        path = folder / (re.sub(r"[^\w.@-]+", "_", f"{dataset}_{results.name}_{language}_{task}") + ".json")
        write_json(path, content)
        paths.append(path)
    return paths


def _their_metric(task: str, key: str, probe: bool) -> tuple[str | None, str]:
    """Its name of a figure, None if it has none, and of the task."""
    if found := re.fullmatch(r"(t2i|i2t)_r@(\d+)", key):
        kind = next(theirs for theirs, ours in RECALL.items() if ours == found[1])
        return f"{kind}_retrieval_recall@{found[2]}", "zeroshot_retrieval"
    if task == "winoground" and key in ("text", "image", "group"):
        return f"{key}_acc", "image_caption_selection"
    theirs = {"acc1": "acc1", "acc5": "acc5", "mean_per_class": "mean_per_class_recall"}.get(key)
    if theirs and probe:
        return f"lp_{theirs}", "linear_probe"
    return theirs, "zeroshot_classification"
