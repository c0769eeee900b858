"""One model on one benchmark: every figure with its interval, and what it was measured on."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ProclipError
from ..metrics.outcomes import LEVEL, RESAMPLES, Outcomes, intervals, joined
from ..results import BenchmarkResult, Figure
from .benchmark import Benchmark
from .benchmarks import language_means, mean_languages
from .contents import captions, class_prompts, image_keys, measured_keys
from .dual_encoder import DualEncoder
from .encoders import Encoders
from .encoding import EncodingCounts, Report, digest_of_pictures, open_encoders
from .kinds import measure
from .measure import Measured
from .probe_cache import measure_probe
from .similarity import measure_cka
from .tasks import (
    ClassificationTask,
    HardNegativesTask,
    PairsTask,
    ProbeTask,
    RetrievalTask,
    Task,
    WinogroundTask,
)

KINDS: Mapping[type, str] = {
    ClassificationTask: "classification",
    RetrievalTask: "retrieval",
    PairsTask: "pairs",
    HardNegativesTask: "hard_negatives",
    WinogroundTask: "winoground",
    ProbeTask: "probe",
}


def run_benchmark(
    benchmark: Benchmark,
    model: DualEncoder,
    cache: Path | None = None,
    reference: DualEncoder | None = None,
    progress: Report | None = None,
) -> BenchmarkResult:
    """Measure a model on a benchmark.

    Args:
        benchmark: loaded and checked.
        model: under evaluation.
        cache: folder for vectors; what is there is not encoded again. None: nothing is kept.
        reference: the original CLIP; with it, ``cka`` says how far the image encoder moved from its own, over every
            picture that the tasks measure on; where it is not defined, the notes say why.
        progress: called after every batch.

    Raises:
        ProclipError: a picture cannot be read, or the model returns something that is not a vector for each input.
    """
    start = time.perf_counter()
    encoders, counts = _encode(benchmark, model, cache, progress)
    measured = {prefix: _measure(task, encoders, cache) for prefix, task in benchmark.tasks.items()}
    outcomes = {_under(p, key): one for p, found in measured.items() for key, one in found.outcomes.items()}
    chance = {_under(p, key): level for p, found in measured.items() for key, level in found.chance.items()}
    for mean, parts in _means(benchmark, model).items():
        outcomes[mean] = joined({part: outcomes[part] for part in parts})
        if all(part in chance for part in parts):
            chance[mean] = statistics.fmean(chance[part] for part in parts)
    notes = {_under(p, key): value for p, found in measured.items() for key, value in found.notes.items()}
    if reference is not None:
        original, _ = open_encoders(reference, benchmark.images, cache, progress)
        moved, notes["cka"] = _moved(benchmark, encoders, original)
        outcomes |= moved
    ends = intervals(outcomes)
    return BenchmarkResult(
        name=benchmark.name,
        task=kind_of(benchmark),
        headline=benchmark.headline,
        protocol=benchmark.protocol,
        data=data_of(benchmark),
        prompts=_prompts(benchmark),
        figures={
            key: Figure(
                value=one.figure(), low=ends[key].low, high=ends[key].high, n=len(one.values), chance=chance.get(key)
            )
            for key, one in outcomes.items()
        },
        seconds=round(time.perf_counter() - start, 3),
        images_per_second=counts.images_per_second,
        texts_per_second=counts.texts_per_second,
        truncated=counts.truncated,
        notes=notes | dict(benchmark.notes) | {"bootstrap": {"resamples": RESAMPLES, "seed": 0, "level": LEVEL}},
        outcomes=outcomes,
    )


def _moved(benchmark: Benchmark, encoders: Encoders, original: Encoders) -> tuple[Mapping[str, Outcomes], Any]:
    """CKA to the original image encoder, with its notes; nothing, and why, where it is not defined."""
    tasks = benchmark.tasks.values()
    original.image_features(image_keys(tasks))  # as one set: in the cache it is the model's own
    try:
        found = measure_cka(measured_keys(tasks), encoders.image_features, original.image_features)
    except ProclipError as error:  # too few pictures, or all alike
        return {}, str(error)
    return found.outcomes, dict(found.notes)


def kind_of(benchmark: Benchmark) -> str:
    """The kind of its tasks; ``multilingual`` for the same retrieval in several languages, ``world`` for a mixture."""
    kinds = {KINDS[type(task)] for task in benchmark.tasks.values()}
    if kinds == {"retrieval"} and len(benchmark.tasks) > 1:
        return "multilingual" if set(mean_languages(benchmark)) == set(benchmark.tasks) else "retrieval"
    return kinds.pop() if len(kinds) == 1 else "world"


def _encode(
    benchmark: Benchmark, model: DualEncoder, cache: Path | None, progress: Report | None
) -> tuple[Encoders, EncodingCounts]:
    """Everything that the tasks will ask for, pictures first, in batches that suit the model and not the tasks."""
    tasks = benchmark.tasks.values()
    encoders, counts = open_encoders(model, benchmark.images, cache, progress)
    encoders.image_features(image_keys(tasks))
    if texts := captions(tasks):
        encoders.encode_text(texts)
    if named := class_prompts(tasks):
        (encoders.encode_class or encoders.encode_text)(named)
    return encoders, counts


def _measure(task: Task, encoders: Encoders, cache: Path | None) -> Measured:
    return measure_probe(task, encoders, cache) if isinstance(task, ProbeTask) else measure(task, encoders)


def _means(benchmark: Benchmark, model: DualEncoder) -> dict[str, tuple[str, ...]]:
    """The benchmark's means, and beside those over languages that over the ones the text side was trained on."""
    means = dict(benchmark.means)
    languages = mean_languages(benchmark)
    if languages and all(isinstance(benchmark.tasks.get(prefix), RetrievalTask) for prefix in languages):
        means |= language_means(languages, model.languages)
    return means


def _under(prefix: str, key: str) -> str:
    return f"{prefix}/{key}" if prefix else key


def data_of(benchmark: Benchmark) -> dict[str, Any]:
    """What a result says of the data; equal for equal data."""
    tasks = list(benchmark.tasks.values())
    return {
        "images": len(image_keys(tasks)),
        "texts": len(captions(tasks)),
        "checksum": benchmark.checksum(),
        "pictures": digest_of_pictures(benchmark.images, image_keys(tasks)),
        "complete": benchmark.complete,
    }


def _prompts(benchmark: Benchmark) -> dict[str, Any] | None:
    """Classes, templates and checksum of the named classes; the templates are counted over all tasks."""
    named = [task for task in benchmark.tasks.values() if isinstance(task, ClassificationTask)]
    if not named:
        return None
    content = [[task.classnames, task.templates] for task in named]
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]
    return {
        "classes": len({name for task in named for name in task.classnames}),
        "templates": len({template for task in named for template in task.templates}),
        "checksum": digest,
    }
