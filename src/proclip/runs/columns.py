"""The columns of the tables over runs: which tasks they need, and which figures each is the mean of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from ..mini.concepts import LANGUAGES

TASKS = (
    "zero_shot/openmoji", "zero_shot/twemoji", "retrieval_short", "retrieval_long", "pairs", "hard_negatives",
    *(f"multilingual/{language}" for language in LANGUAGES),
)  # fmt: skip
"""What is measured: the linear probe, which changes little, is left to the quickstart."""
COLUMNS = {
    "zero-shot": ("zero_shot/openmoji/mean_per_class", "zero_shot/twemoji/mean_per_class"),
    "I2T R@1": ("retrieval_short/i2t_r@1", "retrieval_long/i2t_r@1"),
    "T2I R@1": ("retrieval_short/t2i_r@1", "retrieval_long/t2i_r@1"),
    "long T2I R@1": ("retrieval_long/t2i_r@1",),
    "multilingual": ("multilingual/mean/t2i_r@1",),
    "pairs": ("pairs/mean",),
    "hard negatives": ("hard_negatives/mean",),
    "CKA": ("cka",),
}
"""Columns: the mean of these figures."""


def cell(per_seed: Sequence[Mapping[str, float]], keys: Sequence[str]) -> tuple[float, float]:
    """Mean and standard deviation over seeds, in points, of the mean of some figures."""
    values = [100 * statistics.fmean(figures[key] for key in keys) for figures in per_seed]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
