"""Figures of merit, as pure functions on tensors; accuracies and recalls are shares, 0 to 1.

Ties never help: wherever a right and a wrong answer score the same, the wrong one counts as ahead, so that a model
that gives one score to everything gets 0 and not luck. Input that is not finite is an error, for a comparison with NaN
is false and would pass as a good rank.

Letters: q queries, g gallery items, d width, n samples, c classes, k cut-off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import ProclipError


def recall_at_k(
    query_embeds: Tensor,
    gallery_embeds: Tensor,
    positives: Sequence[Sequence[int]],
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk: int = 1024,
) -> dict[int, float]:
    """Recall@k in CLIP's sense: the share of queries with at least one positive among the k best gallery items.

    It is not the recall of information retrieval, which counts how many of the positives were found. Precision, ties
    and memory are those of `ranks_of_first_positive`.

    Args:
        query_embeds: [q, d].
        gallery_embeds: [g, d].
        positives: for each query the rows of `gallery_embeds` that are right, one or more, any number a query.
        ks: cut-offs, 1 or more.
        chunk: queries scored at once.

    Returns:
        the share for each k.

    Raises:
        ProclipError: as in `ranks_of_first_positive`, or a k below 1.
    """
    if not ks or min(ks) < 1:
        raise ProclipError(f"ks must be one or more cut-offs of 1 or more, not {list(ks)}")
    ranks = ranks_of_first_positive(query_embeds, gallery_embeds, positives, chunk=chunk)
    return {k: _share(ranks <= k) for k in ks}


def ranks_of_first_positive(
    query_embeds: Tensor, gallery_embeds: Tensor, positives: Sequence[Sequence[int]], *, chunk: int = 1024
) -> Tensor:
    """Where each query's best positive stands among the gallery items by inner product; 1 is the first.

    The rank is 1 + the number of items, other than positives, that score at least as much as the best positive: an
    item that ties with it counts as ranked before it.

    float32 and half embeds are multiplied and summed in float64 and rounded to float32 once, so that equal items tie
    whatever the order of summation, on any device and with any `chunk`. float64 embeds stay float64, unrounded.

    Args:
        query_embeds: [q, d].
        gallery_embeds: [g, d].
        positives: for each query the rows of `gallery_embeds` that are right, one or more, any number a query.
        chunk: queries scored at once; memory is about 12 bytes x chunk x g.

    Returns:
        [q] int64, in [1, g], on the device of the embeds.

    Raises:
        ProclipError: no query or gallery item, shapes that do not fit, embeds that are not finite, or a query
            without positives or with one that the gallery does not have; the message names the query.
    """
    _check_embeds(query_embeds, gallery_embeds)
    _check_positives(positives, queries=len(query_embeds), gallery=len(gallery_embeds))
    gallery = gallery_embeds.double().T
    ranks = [
        _ranks(_scores(query_embeds[start : start + chunk], gallery), positives[start : start + chunk])
        for start in range(0, len(query_embeds), chunk)
    ]
    return torch.cat(ranks)


def topk_accuracy(logits: Tensor, targets: Tensor, k: int = 1) -> float:
    """Share of samples whose class is among the k of the largest logits; a class that ties with it is ahead of it.

    Args:
        logits: [n, c].
        targets: [n] int64, in [0, c).
        k: 1 or more.

    Raises:
        ProclipError: no samples, shapes that do not fit, a target out of range, or logits that are not finite.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or len(targets) == 0:
        raise ProclipError(f"wanted logits [n, c] and targets [n], n >= 1, not {_shapes(logits, targets)}")
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise ProclipError(f"targets must be classes in [0, {logits.shape[1]}), found {targets.min()}..{targets.max()}")
    if k < 1:
        raise ProclipError(f"k must be 1 or more, not {k}")
    _check_finite(logits, "logits")
    not_behind = (logits >= logits.gather(1, targets[:, None])).sum(dim=1)  # the class itself among them
    return _share(not_behind <= k)


def mean_per_class_accuracy(predictions: Tensor, targets: Tensor) -> float:
    """The mean, over the classes that occur in `targets`, of the share of a class's samples that are predicted right.

    Args:
        predictions: [n] int64, classes.
        targets: [n] int64, classes.

    Raises:
        ProclipError: no samples, or shapes that do not fit.
    """
    if targets.ndim != 1 or predictions.shape != targets.shape or len(targets) == 0:
        raise ProclipError(f"wanted predictions [n] and targets [n], n >= 1, not {_shapes(predictions, targets)}")
    _, class_of, counts = torch.unique(targets, return_inverse=True, return_counts=True)
    right = torch.zeros(len(counts), dtype=torch.float64, device=targets.device)
    right.index_add_(0, class_of, (predictions == targets).double())
    return float((right / counts).mean())


def pair_accuracy(scores: Tensor) -> float:
    """Share of pairs in which both images prefer their own statement, strictly (MMVP-VLM).

    Args:
        scores: [n, 2, 2], ``scores[i, a, b]`` of image a and statement b of pair i; they belong together where a == b.

    Raises:
        ProclipError: no pairs, another shape, or scores that are not finite.
    """
    if scores.ndim != 3 or scores.shape[1:] != (2, 2) or len(scores) == 0:
        raise ProclipError(f"wanted scores [n, 2, 2], n >= 1, not {_shapes(scores)}")
    _check_finite(scores, "scores")
    return _share((scores[:, 0, 0] > scores[:, 0, 1]) & (scores[:, 1, 1] > scores[:, 1, 0]))


def hard_negative_accuracy(positive_scores: Tensor, negative_scores: Tensor) -> float:
    """Share of images whose true caption scores strictly more than its hard negative (SugarCrepe).

    Args:
        positive_scores: [n], of the true caption.
        negative_scores: [n], of the false one.

    Raises:
        ProclipError: no images, shapes that do not fit, or scores that are not finite.
    """
    if positive_scores.ndim != 1 or positive_scores.shape != negative_scores.shape or len(positive_scores) == 0:
        raise ProclipError(f"wanted two tensors [n], n >= 1, not {_shapes(positive_scores, negative_scores)}")
    _check_finite(positive_scores, "positive_scores")
    _check_finite(negative_scores, "negative_scores")
    return _share(positive_scores > negative_scores)


def linear_cka(one: Tensor, other: Tensor) -> float:
    """How alike two sets of features of the same samples are, up to rotation, scale and shift: linear CKA.

    ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with linear kernels (Kornblith et al. 2019) and the unbiased estimator
    of HSIC (Song et al. 2012), whose expectation is 0 for independent features however wide they are. Computed from
    d x d' products in float64, never from n x n kernels.

    Args:
        one: [n, d], n >= 4.
        other: [n, d'].

    Returns:
        1 for equal features, near 0 for unrelated ones; an estimate, so it may fall slightly outside [0, 1].

    Raises:
        ProclipError: fewer than four samples, numbers of samples that differ, features that are not finite or do
            not vary.
    """
    if one.ndim != 2 or other.ndim != 2 or len(one) != len(other) or len(one) < 4:
        raise ProclipError(f"CKA needs two sets of features [n, d], n >= 4, not {_shapes(one, other)}")
    centred = []
    for features in (one, other):
        _check_finite(features, "features")
        shifted = features.double() - features.double().mean(dim=0)  # changes nothing but the rounding
        scale = shifted.abs().max()
        if scale <= 1e-12 * features.abs().max():
            raise ProclipError("CKA is not defined for features that are the same for every sample")
        centred.append(shifted / scale)
    x, y = centred
    cross, variance_x, variance_y = _unbiased_hsic(x, y), _unbiased_hsic(x, x), _unbiased_hsic(y, y)
    if variance_x <= 0 or variance_y <= 0:
        raise ProclipError(f"CKA is not defined: {len(one)} samples are too few for features that vary so little")
    return cross / math.sqrt(variance_x * variance_y)


def _unbiased_hsic(x: Tensor, y: Tensor) -> float:
    """HSIC_1 of ``K = x x^T`` and ``L = y y^T``, whose diagonals the estimator sets to zero.

    ``(tr KL + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 / (n-2) 1'KL1) / (n (n-3))``, where ``tr KL = |x^T y|^2 - sum_i k_i l_i``
    and ``(K1)_i = x_i . sum_j x_j - k_i`` with the squared norms ``k_i = |x_i|^2``, ``l_i = |y_i|^2``.
    """
    n = len(x)
    k, l = x.square().sum(dim=1), y.square().sum(dim=1)  # noqa: E741
    k_rows, l_rows = x @ x.sum(dim=0) - k, y @ y.sum(dim=0) - l
    trace = (x.T @ y).square().sum() - k @ l
    means = k_rows.sum() * l_rows.sum() / ((n - 1) * (n - 2))
    return float((trace + means - 2 / (n - 2) * (k_rows @ l_rows)) / (n * (n - 3)))


def _scores(query_embeds: Tensor, gallery: Tensor) -> Tensor:
    """[q, d] times [d, g] float64 -> [q, g], rounded to float32 unless the queries are float64."""
    scores = query_embeds.double() @ gallery
    return scores if query_embeds.dtype == torch.float64 else scores.float()


def _ranks(scores: Tensor, positives: Sequence[Sequence[int]]) -> Tensor:
    """[q, g] -> [q]: 1 + how many non-positives score at least as much as the best positive."""
    pairs = [(row, column) for row, columns in enumerate(positives) for column in set(columns)]
    rows, columns = torch.tensor(pairs, device=scores.device).T
    positive_scores = scores[rows, columns]
    best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, rows, positive_scores, "amax")
    not_behind = (scores >= best[:, None]).sum(dim=1)
    positives_among_them = torch.zeros_like(not_behind).index_add(0, rows, (positive_scores >= best[rows]).long())
    return 1 + not_behind - positives_among_them


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def _shapes(*tensors: Tensor) -> str:
    return " and ".join(str(list(tensor.shape)) for tensor in tensors)


def _check_finite(values: Tensor, name: str) -> None:
    if not bool(torch.isfinite(values).all()):
        row = int((~torch.isfinite(values)).nonzero()[0, 0])
        raise ProclipError(f"{name} must be finite; row {row} is not")


def _check_embeds(query_embeds: Tensor, gallery_embeds: Tensor) -> None:
    one, other = query_embeds, gallery_embeds
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or len(one) == 0 or len(other) == 0:
        raise ProclipError(
            f"wanted query_embeds [q, d] and gallery_embeds [g, d], not empty, not {_shapes(one, other)}"
        )
    if one.dtype != other.dtype:
        raise ProclipError(f"query_embeds are {one.dtype} and gallery_embeds {other.dtype}; make them the same")
    _check_finite(query_embeds, "query_embeds")
    _check_finite(gallery_embeds, "gallery_embeds")


def _check_positives(positives: Sequence[Sequence[int]], *, queries: int, gallery: int) -> None:
    if len(positives) != queries:
        raise ProclipError(f"positives must have one list for each of {queries} queries, not {len(positives)}")
    for query, rows in enumerate(positives):
        if len(rows) == 0:
            raise ProclipError(f"query {query} has no positives")
        if min(rows) < 0 or max(rows) >= gallery:
            raise ProclipError(f"query {query}: positives must be gallery rows in [0, {gallery}), not {list(rows)}")
