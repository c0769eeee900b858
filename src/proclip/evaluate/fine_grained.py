"""Fine detail: pairs of images that differ in one attribute, and captions made false by one change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..metrics import hard_negative_accuracy, pair_accuracy
from .encoders import Encoders, encode_distinct
from .tasks import HardNegativesTask, PairsTask


def _rows_by_group(groups: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return dict(sorted(rows.items()))


def _scores(images: Tensor, texts: Tensor) -> Tensor:
    """[n, i, d] and [n, t, d] to [n, i, t]; in float64 and rounded once, so that equal texts score the same: a tie."""
    return (images.double() @ texts.double().transpose(1, 2)).float()


def _with_mean(accuracies: Mapping[str, float]) -> dict[str, float]:
    return {**accuracies, "mean": sum(accuracies.values()) / len(accuracies)}


def pair_accuracies(task: PairsTask, encoders: Encoders) -> dict[str, float]:
    """Share of pairs in which both images prefer their own statement, by pattern, and the patterns' mean (MMVP-VLM)."""
    images = encode_distinct(encoders.encode_image, [key for item in task.items for key in item.keys])
    texts = encode_distinct(encoders.encode_text, [text for item in task.items for text in item.captions])
    count = len(task.items)
    scores = _scores(images.view(count, 2, -1), texts.view(count, 2, -1))  # [n, image, text]
    patterns = _rows_by_group([item.pattern for item in task.items])
    return _with_mean({pattern: float(pair_accuracy(scores[rows])) for pattern, rows in patterns.items()})


def hard_negative_accuracies(task: HardNegativesTask, encoders: Encoders) -> dict[str, float]:
    """Share of images that prefer the true caption to the false one, by kind, and the kinds' mean (SugarCrepe)."""
    images = encode_distinct(encoders.encode_image, [item.key for item in task.items])
    texts = encode_distinct(encoders.encode_text, [t for item in task.items for t in (item.caption, item.negative)])
    scores = _scores(images[:, None], texts.view(len(task.items), 2, -1))[:, 0]  # [n, text]
    kinds = _rows_by_group([item.kind for item in task.items])
    return _with_mean(
        {kind: float(hard_negative_accuracy(scores[rows, 0], scores[rows, 1])) for kind, rows in kinds.items()}
    )
