"""What is measured on each kind of task."""

from __future__ import annotations

from .encoders import Encoders
from .fine_grained import measure_hard_negatives, measure_pairs, measure_winoground
from .measure import Measured
from .probe import measure_probe
from .retrieval import measure_retrieval
from .tasks import ClassificationTask, HardNegativesTask, PairsTask, RetrievalTask, Task, WinogroundTask
from .zero_shot import measure_classification


def measure(task: Task, encoders: Encoders) -> Measured:
    """What each item of a task scored, whatever its kind.

    Raises:
        ProclipError: the encoders return something that is not right, or a probe cannot be fitted.
    """
    if isinstance(task, ClassificationTask):
        return measure_classification(task, encoders)
    if isinstance(task, RetrievalTask):
        return measure_retrieval(task, encoders)
    if isinstance(task, PairsTask):
        return measure_pairs(task, encoders)
    if isinstance(task, HardNegativesTask):
        return measure_hard_negatives(task, encoders)
    if isinstance(task, WinogroundTask):
        return measure_winoground(task, encoders)
    return measure_probe(task, encoders)
