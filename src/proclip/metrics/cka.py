"""How alike two sets of features of the same samples are, up to rotation, scale and shift: linear CKA.

``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with linear kernels (Kornblith et al. 2019), each HSIC the mean over
minibatches (Nguyen et al. 2021) of the unbiased estimator (Song et al. 2012), whose expectation is 0 for independent
features however wide they are. 1 is "alike"; an estimate, so it may fall slightly outside [0, 1].

Letters: n samples, m samples of a batch, b batches, d and d' widths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ProclipError
from .checks import check_finite, shapes

LEAST = 1e-12
"""HSIC of features with themselves below which there is nothing but rounding."""


def minibatch_hsic(one: Tensor, other: Tensor, batch_size: int, *, seed: int = 0) -> Tensor:
    """HSIC of each minibatch: what CKA is a ratio of sums of; one batch gives plain linear CKA.

    Samples are shuffled, the same way for one n and seed, and split into ``n // batch_size`` batches of one size, the
    largest that fits: `batch_size` or a little more. The last few that fill no batch are left out, fewer than there
    are batches. Computed from m x d products in float64, never from n x n kernels.

    Args:
        one: [n, d], n >= 4.
        other: [n, d'].
        batch_size: samples of a batch, 4 or more; if n is smaller, all are one batch.
        seed: of the order.

    Returns:
        [b, 3] float64: HSIC of (K, L), (K, K) and (L, L), where K = `one` `one`^T and L that of `other`. The features
        are divided by their size first, so the values are near 1 for features of few dimensions and smaller for many.

    Raises:
        ProclipError: fewer than four samples, numbers of samples that differ, features that are not finite or do
            not vary.
    """
    if one.ndim != 2 or other.ndim != 2 or len(one) != len(other) or len(one) < 4:
        raise ProclipError(f"CKA needs two sets of features [n, d], n >= 4, not {shapes(one, other)}")
    if batch_size < 4:
        raise ProclipError(f"batch_size must be 4 or more, not {batch_size}")
    x, y = _standardised(one), _standardised(other)
    batches = max(1, len(x) // batch_size)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    rows = order[: len(x) // batches * batches].view(batches, -1)
    found = [_unbiased_hsic(a, b) for r in rows for a, b in ((x[r], y[r]), (x[r], x[r]), (y[r], y[r]))]
    hsic = torch.stack(found).view(batches, 3)
    if hsic.mean(dim=0)[1:].min() <= LEAST:
        raise ProclipError(f"CKA is not defined: {len(x)} samples are too few for features that vary so little")
    return hsic


def _standardised(features: Tensor) -> Tensor:
    """[n, d], centred and divided by their root mean square length, float64: changes nothing but the rounding."""
    check_finite(features, "features")
    centred = features.double() - features.double().mean(dim=0)
    length = centred.square().sum(dim=1).mean().sqrt()
    if length <= 1e-12 * features.abs().max() * features.shape[1] ** 0.5:
        raise ProclipError("CKA is not defined for features that are the same for every sample")
    return centred / length


def _unbiased_hsic(x: Tensor, y: Tensor) -> Tensor:
    """HSIC_1 of ``K = x x^T`` and ``L = y y^T``, whose diagonals the estimator sets to zero.

    ``(tr KL + (1'K1)(1'L1) / ((m-1)(m-2)) - 2 / (m-2) 1'KL1) / (m (m-3))``, where ``tr KL = |x^T y|^2 - sum_i k_i l_i``
    and ``(K1)_i = x_i . sum_j x_j - k_i`` with the squared lengths ``k_i = |x_i|^2``, ``l_i = |y_i|^2``.
    """
    m = len(x)
    k, l = x.square().sum(dim=1), y.square().sum(dim=1)  # noqa: E741
    k_rows, l_rows = x @ x.sum(dim=0) - k, y @ y.sum(dim=0) - l
    trace = (x.T @ y).square().sum() - k @ l
    means = k_rows.sum() * l_rows.sum() / ((m - 1) * (m - 2))
    return (trace + means - 2 / (m - 2) * (k_rows @ l_rows)) / (m * (m - 3))
