"""All tasks of a folder, as one flat table of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..models.zero_shot import prompts
from .encoders import Encode, Encoders
from .fine_grained import hard_negative_accuracies, pair_accuracies
from .probe import linear_probe
from .retrieval import retrieval_recall
from .similarity import cka_to_reference
from .tasks import ClassificationTask, HardNegativesTask, PairsTask, ProbeTask, RetrievalTask, Task, load_tasks
from .zero_shot import zero_shot_accuracy

FAMILIES = {"zero_shot": ClassificationTask, "linear_probe": ProbeTask, "multilingual": RetrievalTask}
"""Families of tasks: a task named ``<family>_<rest>`` has the key ``<family>/<rest>``; others keep their name."""
ENGLISH = "multilingual/en"
"""Left out of ``multilingual/mean``: what is asked is what other languages get."""


def result_key(task: Task) -> str:
    """First part of the keys of a task's figures, such as ``zero_shot/openmoji`` or ``multilingual/de``."""
    for family, kind in FAMILIES.items():
        if isinstance(task, kind) and task.name.startswith(f"{family}_"):
            return f"{family}/{task.name.removeprefix(f'{family}_')}"
    return task.name


def evaluated_images(tasks: Mapping[str, Task]) -> list[str]:
    """Keys of every distinct image that the tasks measure on, sorted (a probe's training images are not)."""
    keys: set[str] = set()
    for task in tasks.values():
        if isinstance(task, PairsTask):
            keys.update(key for item in task.items for key in item.keys)
        elif isinstance(task, HardNegativesTask):
            keys.update(item.key for item in task.items)
        elif isinstance(task, ProbeTask):
            keys.update(key for key, _ in task.test)
        else:
            keys.update(key for key, _ in task.items)
    return sorted(keys)


def evaluated_class_prompts(tasks: Mapping[str, Task]) -> list[str]:
    """Every distinct class name in its templates that the tasks ask a model to encode, in their order."""
    named = [task for task in tasks.values() if isinstance(task, ClassificationTask)]
    return list(dict.fromkeys(text for task in named for text in prompts(task.classnames, task.templates)))


def evaluated_texts(tasks: Mapping[str, Task]) -> list[str]:
    """Every distinct caption that the tasks ask a model to encode, in their order: what a cache should hold."""
    texts: list[str] = []
    for task in tasks.values():
        if isinstance(task, RetrievalTask):
            texts.extend(caption for _, captions in task.items for caption in captions)
        elif isinstance(task, PairsTask):
            texts.extend(caption for item in task.items for caption in item.captions)
        elif isinstance(task, HardNegativesTask):
            texts.extend(caption for item in task.items for caption in (item.caption, item.negative))
    return list(dict.fromkeys(texts))


def _multilingual_mean(figures: Mapping[str, float]) -> dict[str, float]:
    languages = [
        value
        for key, value in figures.items()
        if key.startswith("multilingual/") and key.endswith("/t2i_r@1") and not key.startswith(f"{ENGLISH}/")
    ]
    return {"multilingual/mean": sum(languages) / len(languages)} if languages else {}


def run_task(task: Task, encoders: Encoders) -> dict[str, float]:
    """The figures of one task, 0 to 1, under the keys of `run_suite`."""
    key = result_key(task)
    if isinstance(task, ClassificationTask):
        return {key: zero_shot_accuracy(task, encoders)}
    if isinstance(task, ProbeTask):
        return {key: linear_probe(task, encoders).accuracy}
    if isinstance(task, RetrievalTask):
        figures = retrieval_recall(task, encoders)
    elif isinstance(task, PairsTask):
        figures = pair_accuracies(task, encoders)
    else:
        figures = hard_negative_accuracies(task, encoders)
    return {f"{key}/{name}": value for name, value in figures.items()}


def run_suite(
    tasks_dir: Path,
    encoders: Encoders,
    reference_features: Encode | None = None,
    tasks: Sequence[str] | None = None,
    probed: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Evaluate a model on every task of a folder.

    Args:
        tasks_dir: folder of task files, such as ``runs/mini/tasks/test``.
        encoders: the model.
        reference_features: image keys to the original image tower's features; with it, ``cka`` is measured over every
            image that the tasks measure on.
        tasks: names of the tasks to run; all if None.
        probed: ``linear_probe/<set>`` figures of the same image features, which are not measured again.

    Returns:
        Figures from 0 to 1: ``zero_shot/<set>``, ``<retrieval task>/i2t_r@k`` and ``t2i_r@k``,
        ``multilingual/<language>/...`` and ``multilingual/mean`` (t2i R@1 over the languages other than English),
        ``pairs/<pattern>``, ``hard_negatives/<kind>`` and the ``mean`` of each, ``linear_probe/<set>``, ``cka``.

    Raises:
        ProclipError: a task is not valid or not there, or the encoders return something that is not.
    """
    chosen = load_tasks(tasks_dir, tasks)
    figures: dict[str, float] = {}
    for task in chosen.values():
        key = result_key(task)
        figures.update({key: probed[key]} if key in probed else run_task(task, encoders))
    figures.update(_multilingual_mean(figures))
    if reference_features is not None:
        figures["cka"] = cka_to_reference(evaluated_images(chosen), encoders.image_features, reference_features)
    return figures


def _chance_of(task: Task) -> dict[str, float]:
    key = result_key(task)
    if isinstance(task, RetrievalTask):
        return {f"{key}/{way}_r@{k}": level for way in ("i2t", "t2i") for k, level in task.chance.items()}
    if isinstance(task, PairsTask):
        return {f"{key}/{name}": task.chance for name in (*sorted({i.pattern for i in task.items}), "mean")}
    if isinstance(task, HardNegativesTask):
        return {f"{key}/{name}": task.chance for name in (*sorted({i.kind for i in task.items}), "mean")}
    return {key: task.chance}


def chance_levels(tasks_dir: Path, tasks: Sequence[str] | None = None) -> dict[str, float]:
    """What a guess would get, under the keys of `run_suite` (``cka`` has no such level).

    Raises:
        ProclipError: a task is not valid or not there.
    """
    levels: dict[str, float] = {}
    for task in load_tasks(tasks_dir, tasks).values():
        levels.update(_chance_of(task))
    return {**levels, **_multilingual_mean(levels)}
