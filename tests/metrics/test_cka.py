"""Linear CKA against the estimator's definition, over one batch and over many."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from proclip.errors import ProclipError
from proclip.metrics import Outcomes, minibatch_hsic


def cka(one: Tensor, other: Tensor, batch_size: int = 10**6) -> float:
    hsic = minibatch_hsic(one, other, batch_size)
    return Outcomes(values=hsic.numpy().astype(np.float32), statistic="cka").figure()


def features(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_hsic(x: Tensor, y: Tensor) -> float:
    """The estimator's definition: the mean over all (i, j, q, r), distinct, of K_ij (L_ij + L_qr - 2 L_iq)."""
    k, l = (x @ x.T).tolist(), (y @ y.T).tolist()  # noqa: E741
    terms = [k[i][j] * (l[i][j] + l[q][r] - 2 * l[i][q]) for i, j, q, r in permutations(range(len(x)), 4)]
    return sum(terms) / len(terms)


def test_cka_is_the_definition_of_unbiased_hsic() -> None:
    x, y = features(7, 3, 1), features(7, 2, 2)
    y[:, 0] += x[:, 0]
    wanted = slow_hsic(x, y) / (slow_hsic(x, x) * slow_hsic(y, y)) ** 0.5
    assert cka(x, y) == pytest.approx(wanted, rel=1e-6)


def test_cka_is_one_up_to_rotation_scale_and_shift() -> None:
    x = features(40, 6, 3)
    rotation, _ = torch.linalg.qr(features(6, 6, 4))
    assert cka(x, x) == pytest.approx(1.0, abs=1e-6)
    assert cka(x, -3.5 * x @ rotation + 100.0) == pytest.approx(1.0, abs=1e-6)
    assert cka(x, torch.cat([x, x], dim=1)) == pytest.approx(1.0, abs=1e-6)
    assert cka(x, x @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1, 1], dtype=torch.float64))) < 0.9


def test_cka_is_symmetric_and_blind_to_order() -> None:
    x, y = features(30, 5, 5), features(30, 8, 6)
    y[:, :5] += x
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert 0.05 < cka(x, y) < 0.95
    assert cka(y, x) == pytest.approx(cka(x, y), rel=1e-6)
    assert cka(x[order], y[order]) == pytest.approx(cka(x, y), rel=1e-6)


def test_cka_of_a_known_mixture() -> None:
    """y keeps one of x's two equally strong dimensions: cross / sqrt(own own') = 1 / sqrt(2 * 1), for large n."""
    x = features(20_000, 2, 7)
    assert cka(x, x[:, :1]) == pytest.approx(2**-0.5, abs=0.02)


def test_cka_of_unrelated_features_is_zero_on_average_where_the_biased_one_is_not() -> None:
    found = [cka(features(24, 50, 2 * s), features(24, 50, 2 * s + 1)) for s in range(60)]
    assert np.mean(found) == pytest.approx(0.0, abs=0.03)
    assert min(found) < 0 < max(found)


def test_cka_survives_a_large_common_offset_in_float32() -> None:
    x = features(50, 4, 8).float()
    assert cka(x + 64.0, x) == pytest.approx(1.0, abs=1e-4)


def test_cka_that_is_not_defined_is_an_error() -> None:
    x = features(10, 3, 9)
    with pytest.raises(ProclipError, match="the same for every sample"):
        cka(x, torch.full((10, 2), 0.1))
    with pytest.raises(ProclipError, match="the same for every sample"):
        cka(torch.zeros(10, 2), x)
    with pytest.raises(ProclipError, match=r"n >= 4, not \[3, 3\] and \[3, 3\]"):
        cka(x[:3], x[:3])
    with pytest.raises(ProclipError, match=r"not \[10, 3\] and \[9, 3\]"):
        cka(x, x[:9])
    with pytest.raises(ProclipError, match="features must be finite; row 0"):
        cka(torch.eye(5), torch.full((5, 2), torch.inf))
    with pytest.raises(ProclipError, match="batch_size must be 4 or more, not 3"):
        minibatch_hsic(x, x, 3)
    with pytest.raises(ProclipError, match="5 samples are too few"):
        cka(torch.eye(5), torch.eye(5))


def test_minibatches_are_equal_and_are_the_definition() -> None:
    """23 samples in batches of 5 or more: 4 of 5, and 3 samples left out; the mean of each batch's estimate."""
    x, y = features(23, 3, 10), features(23, 2, 11)
    y[:, 0] += x[:, 0]
    hsic = minibatch_hsic(x, y, 5, seed=3)
    assert hsic.shape == (4, 3) and hsic.dtype == torch.float64
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))
    size_x, size_y = ((f - f.mean(dim=0)).square().sum(dim=1).mean() for f in (x, y))
    for batch, found in enumerate(hsic):
        rows = order[5 * batch : 5 * batch + 5]
        a, b = x[rows], y[rows]
        wanted = [slow_hsic(a, b) / (size_x * size_y), slow_hsic(a, a) / size_x**2, slow_hsic(b, b) / size_y**2]
        assert found.tolist() == pytest.approx([float(w) for w in wanted], rel=1e-9)


def test_minibatch_cka_is_the_ratio_of_mean_hsics() -> None:
    x, y = features(60, 3, 12), features(60, 3, 13)
    y += x
    cross, own, other = minibatch_hsic(x, y, 10).mean(dim=0).tolist()
    assert cka(x, y, 10) == pytest.approx(cross / (own * other) ** 0.5, rel=1e-6)


def test_minibatches_agree_with_one_batch() -> None:
    x = features(4000, 16, 14) * torch.arange(1, 17, dtype=torch.float64) ** -0.5
    y = x @ features(16, 16, 15) + features(4000, 16, 16)
    assert cka(x, y, 64) == pytest.approx(cka(x, y), abs=0.02)


def test_the_batches_are_those_of_the_seed_and_small_sets_are_one_batch() -> None:
    x, y = features(50, 3, 17), features(50, 4, 18)
    torch.manual_seed(1)
    first = minibatch_hsic(x, y, 8)
    torch.manual_seed(2)
    assert torch.equal(first, minibatch_hsic(x, y, 8))
    assert not torch.equal(first, minibatch_hsic(x, y, 8, seed=1))
    assert len(minibatch_hsic(x, y, 51)) == len(minibatch_hsic(x, y, 26)) == 1 and len(first) == 6
