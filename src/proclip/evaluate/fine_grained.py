"""Fine detail: pairs of images that differ in one thing, and captions made false by one change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..metrics import Outcomes, hard_negative_hits, image_hits, text_hits
from .encoders import Encoders, encode_distinct
from .measure import Measured
from .tasks import HardNegativesTask, PairItem, PairsTask, WinogroundTask

MEAN = "mean"
"""Key of the mean over patterns or kinds, each of which weighs the same."""


def measure_pairs(task: PairsTask, encoders: Encoders) -> Measured:
    """Share of pairs that are told apart, by pattern, and the patterns' ``mean`` (MMVP-VLM).

    Both images must prefer their own statement, or both statements their own image, as the task compares; strictly.
    ``ties`` of the notes counts the pairs of which two scores that are compared are equal.
    """
    scores = _pair_scores(task.items, encoders)
    hits = (text_hits if task.compare == "statements" else image_hits)(scores)
    ties = _text_ties(scores) if task.compare == "statements" else _image_ties(scores)
    return _by_group(hits, [item.pattern for item in task.items], task.chance, ties)


def measure_hard_negatives(task: HardNegativesTask, encoders: Encoders) -> Measured:
    """Share of images that strictly prefer the true caption, by kind, and the kinds' ``mean`` (SugarCrepe).

    ``ties`` of the notes counts the images whose two captions score the same.
    """
    images = encode_distinct(encoders.encode_image, [item.key for item in task.items])
    texts = encode_distinct(encoders.encode_text, [t for item in task.items for t in (item.caption, item.negative)])
    positive, negative = _scores(images[:, None], texts.view(len(task.items), 2, -1))[:, 0].T
    hits = hard_negative_hits(positive, negative)
    return _by_group(hits, [item.kind for item in task.items], task.chance, positive == negative)


def measure_winoground(task: WinogroundTask, encoders: Encoders) -> Measured:
    """``text``, ``image`` and ``group`` score (Thrush et al. 2022), and ``TAG/text``, ... where there are several tags.

    text: both images prefer their own statement; image: both statements prefer their own image; group: both of these.
    Strictly; ``ties`` of the notes counts the pairs of which two scores that are compared are equal.
    """
    scores = _pair_scores(task.items, encoders)
    text, image = text_hits(scores), image_hits(scores)
    hits = {"text": text, "image": image, "group": text & image}
    guess = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
    tags = np.array([item.pattern for item in task.items])
    outcomes = {key: _outcomes(one) for key, one in hits.items()}
    chance = dict(guess)
    for tag in sorted(set(tags.tolist())) if len(set(tags.tolist())) > 1 else ():
        outcomes |= {f"{tag}/{key}": _outcomes(one[tags == tag]) for key, one in hits.items()}
        chance |= {f"{tag}/{key}": level for key, level in guess.items()}
    ties = _text_ties(scores) | _image_ties(scores)
    return Measured(outcomes=outcomes, chance=chance, notes={"ties": int(ties.sum())})


def _pair_scores(items: Sequence[PairItem], encoders: Encoders) -> Tensor:
    """[n, image, statement]."""
    images = encode_distinct(encoders.encode_image, [key for item in items for key in item.keys])
    texts = encode_distinct(encoders.encode_text, [text for item in items for text in item.captions])
    return _scores(images.view(len(items), 2, -1), texts.view(len(items), 2, -1))


def _scores(images: Tensor, texts: Tensor) -> Tensor:
    """[n, i, d] and [n, t, d] to [n, i, t]; in float64 and rounded once, so that equal texts score the same: a tie."""
    return (images.double() @ texts.double().transpose(1, 2)).float()


def _text_ties(scores: Tensor) -> Tensor:
    return (scores[:, :, 0] == scores[:, :, 1]).any(dim=1)


def _image_ties(scores: Tensor) -> Tensor:
    return (scores[:, 0] == scores[:, 1]).any(dim=1)


def _outcomes(hits: Tensor) -> Outcomes:
    return Outcomes(values=hits.numpy().astype(np.float32))


def _by_group(hits: Tensor, groups: Sequence[str], chance: float, ties: Tensor) -> Measured:
    names, place = np.unique(groups, return_inverse=True)
    outcomes = {str(name): _outcomes(hits[place == i]) for i, name in enumerate(names)}
    outcomes[MEAN] = Outcomes(values=hits.numpy().astype(np.float32), strata=place.astype(np.int32))
    return Measured(outcomes=outcomes, chance=dict.fromkeys(outcomes, chance), notes={"ties": int(ties.sum())})
