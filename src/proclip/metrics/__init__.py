"""What each item of a benchmark scored: pure functions on tensors; and how sure the figure is that they come to."""

from __future__ import annotations

from .cka import minibatch_hsic
from .classification import class_ranks
from .fine_grained import hard_negative_hits, image_hits, text_hits
from .outcomes import Interval, Outcomes, PairedDifference, interval, intervals, paired_difference
from .retrieval import ranks_of_first_positive

__all__ = [
    "Interval",
    "Outcomes",
    "PairedDifference",
    "class_ranks",
    "hard_negative_hits",
    "image_hits",
    "interval",
    "intervals",
    "minibatch_hsic",
    "paired_difference",
    "ranks_of_first_positive",
    "text_hits",
]
