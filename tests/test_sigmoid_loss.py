"""SigLIP's loss against a slow loop written from Algorithm 1 of arXiv 2303.15343, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proclip.errors import ProclipError
from proclip.losses import sigmoid_loss

SHAPES = [(1, 4), (2, 1), (5, 3), (17, 8)]


def embeds(b: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    noise = torch.randn(b, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise, dim=-1).to(dtype)


def scalar(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def slow(
    images: Tensor, texts: Tensor, log_t: float, bias: float, image_ids: list[int] | None = None,
    text_ids: list[int] | None = None,
) -> float:  # fmt: skip
    x, y, n, total = images.tolist(), texts.tolist(), len(images), 0.0
    for i in range(n):
        for j in range(n):
            if i != j and any(ids is not None and ids[i] == ids[j] for ids in (image_ids, text_ids)):
                continue
            z = 1.0 if i == j else -1.0
            logit = math.exp(log_t) * sum(p * q for p, q in zip(x[i], y[j], strict=True)) + bias
            total += math.log(1.0 + math.exp(-z * logit))
    return total / n


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("log_t", "bias"), [(math.log(10), -10.0), (0.0, 0.5), (3.0, -4.0)])
def test_it_is_algorithm_1(shape: tuple[int, int], log_t: float, bias: float) -> None:
    images, texts = embeds(*shape, 1), embeds(*shape, 2)
    found = sigmoid_loss(images, texts, scalar(log_t), scalar(bias))
    assert found.item() == pytest.approx(slow(images, texts, log_t, bias), rel=1e-9)


def test_pairs_that_share_an_image_or_a_text_are_left_out() -> None:
    images, texts = embeds(6, 4, 1), embeds(6, 4, 2)
    image_ids, text_ids = [0, 1, 0, 2, 3, 4], [0, 1, 2, 1, 3, 3]
    found = sigmoid_loss(
        images, texts, scalar(2.0), scalar(-1.0), image_ids=torch.tensor(image_ids), text_ids=torch.tensor(text_ids)
    )
    assert found.item() == pytest.approx(slow(images, texts, 2.0, -1.0, image_ids, text_ids), rel=1e-9)
    assert found.item() < slow(images, texts, 2.0, -1.0)
    distinct = sigmoid_loss(images, texts, scalar(2.0), scalar(-1.0), image_ids=torch.arange(6))
    assert distinct.item() == pytest.approx(slow(images, texts, 2.0, -1.0), rel=1e-9)


def test_literal_value() -> None:
    """Orthogonal pairs, t = 1, b = 0: b (b - 1) terms log 2 and b terms log(1 + 1/e), over b."""
    eye = torch.eye(3, dtype=torch.float64)
    found = sigmoid_loss(eye, eye, scalar(0.0), scalar(0.0)).item()
    assert found == pytest.approx(2 * math.log(2) + math.log(1 + math.exp(-1)), rel=1e-12)


def test_gradcheck() -> None:
    images, texts = (embeds(5, 3, seed).requires_grad_(True) for seed in (1, 2))
    log_t, bias = scalar(1.2).requires_grad_(True), scalar(-0.7).requires_grad_(True)
    ids = torch.tensor([0, 1, 0, 2, 3])
    assert torch.autograd.gradcheck(lambda *a: sigmoid_loss(*a, image_ids=ids), (images, texts, log_t, bias))


def test_order_of_the_batch_changes_nothing() -> None:
    images, texts = embeds(11, 6, 1), embeds(11, 6, 2)
    ids, order = torch.arange(11) // 2, torch.randperm(11, generator=torch.Generator().manual_seed(0))
    one = sigmoid_loss(images, texts, scalar(2.0), scalar(-3.0), image_ids=ids)
    other = sigmoid_loss(images[order], texts[order], scalar(2.0), scalar(-3.0), image_ids=ids[order])
    assert other.item() == pytest.approx(one.item(), rel=1e-12)


def test_large_logits_stay_finite_in_value_and_gradient() -> None:
    """At t = 1e4 a naive log(sigmoid) is -inf in float32."""
    images = embeds(4, 3, 1, torch.float32).requires_grad_(True)
    loss = sigmoid_loss(images, -images.detach(), scalar(math.log(1e4)), scalar(0.0))
    loss.backward()
    assert loss.item() > 1e4 and torch.isfinite(loss)
    assert images.grad is not None and torch.isfinite(images.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_raised_and_autocast_does_not_narrow(dtype: torch.dtype) -> None:
    images, texts = embeds(9, 5, 1, dtype), embeds(9, 5, 2, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sigmoid_loss(images, texts, scalar(3.0), scalar(-5.0))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(slow(images.double(), texts.double(), 3.0, -5.0), rel=1e-5)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ProclipError, match=r"image_embeds and text_embeds must both be \[n, d\]"):
        sigmoid_loss(torch.ones(3, 2), torch.ones(2, 2), scalar(0.0), scalar(0.0))
    with pytest.raises(ProclipError, match=r"image_ids must have shape \[3\]"):
        sigmoid_loss(torch.ones(3, 2), torch.ones(3, 2), scalar(0.0), scalar(0.0), image_ids=torch.arange(2))
