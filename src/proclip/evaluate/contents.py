"""What tasks ask a model to encode: pictures, captions, class names in their templates."""

from __future__ import annotations

from collections.abc import Iterable

from ..models.zero_shot import prompts
from .tasks import ClassificationTask, HardNegativesTask, PairsTask, ProbeTask, RetrievalTask, Task, WinogroundTask


def image_keys(tasks: Iterable[Task]) -> list[str]:
    """Keys of every distinct picture, in the order of the tasks; those that a probe is fitted on among them."""
    return list(dict.fromkeys(key for task in tasks for key in (*fitted_on(task), *measured_on(task))))


def measured_keys(tasks: Iterable[Task]) -> list[str]:
    """The same without the pictures that only a probe is fitted on, sorted: what CKA is measured over."""
    return sorted({key for task in tasks for key in measured_on(task)})


def captions(tasks: Iterable[Task]) -> list[str]:
    """Every distinct caption, in the order of the tasks."""
    return list(dict.fromkeys(text for task in tasks for text in captions_of(task)))


def class_prompts(tasks: Iterable[Task]) -> list[str]:
    """Every distinct class name in its templates, in the order of the tasks."""
    named = [task for task in tasks if isinstance(task, ClassificationTask)]
    return list(dict.fromkeys(text for task in named for text in prompts(task.classnames, task.templates)))


def fitted_on(task: Task) -> list[str]:
    """Keys of the pictures that a probe is fitted on, in order."""
    return [key for key, _ in task.train] if isinstance(task, ProbeTask) else []


def measured_on(task: Task) -> list[str]:
    """Keys of the pictures that a task measures on, in order, as often as they stand there."""
    if isinstance(task, PairsTask | WinogroundTask):
        return [key for item in task.items for key in item.keys]
    if isinstance(task, HardNegativesTask):
        return [item.key for item in task.items]
    if isinstance(task, ProbeTask):
        return [key for key, _ in task.test]
    return [key for key, _ in task.items]


def captions_of(task: Task) -> list[str]:
    """A task's captions and statements, in order, as often as they stand there; class names are none."""
    if isinstance(task, RetrievalTask):
        return [caption for _, own in task.items for caption in own]
    if isinstance(task, PairsTask | WinogroundTask):
        return [caption for item in task.items for caption in item.captions]
    if isinstance(task, HardNegativesTask):
        return [caption for item in task.items for caption in (item.caption, item.negative)]
    return []
