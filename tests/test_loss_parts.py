"""Losses of a part of the rows: their mean is the loss, and nothing that they make is larger than the part."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from proclip import losses
from proclip.errors import ProclipError
from proclip.losses import contrastive_loss, distillation_loss, instance_loss, sigmoid_loss, structure_loss

N, D = 12, 5
Loss = Callable[[Tensor, Tensor, Tensor, slice | None], Tensor]


def ids(count: int) -> tuple[Tensor, Tensor]:
    """Of images and texts, some of them equal across the parts."""
    return torch.arange(count) % (count - 3), torch.arange(count) // 2


def structure(form: Any, reduction: Any) -> Loss:
    return lambda one, other, scale, rows: structure_loss(one, other, form=form, reduction=reduction, rows=rows)


def distillation(reduction: Any) -> Loss:
    return lambda one, other, scale, rows: (
        distillation_loss(
            one, other, instance_weight=0.3, structure_weight=0.7, reduction=reduction, reference_batch=7, rows=rows
        ).loss
    )


def contrastive(one: Tensor, other: Tensor, scale: Tensor, rows: slice | None) -> Tensor:
    image_ids, text_ids = ids(len(one))
    return contrastive_loss(one, other, scale, image_ids=image_ids, text_ids=text_ids, rows=rows)


def sigmoid(one: Tensor, other: Tensor, scale: Tensor, rows: slice | None) -> Tensor:
    image_ids, text_ids = ids(len(one))
    return sigmoid_loss(one, other, scale, -2 * scale, image_ids=image_ids, text_ids=text_ids, rows=rows)


LOSSES: dict[str, Loss] = {
    "instance": lambda one, other, scale, rows: instance_loss(one, other, reduction="sum", rows=rows),
    "square": structure("square", "sum"),
    "smooth L1": structure("smooth_l1", "mean"),
    "distillation": distillation("mean"),
    "paper": distillation("paper"),
    "contrastive": contrastive,
    "sigmoid": sigmoid,
}


def embeds(n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Students, teachers (or texts), and a temperature; two students coincide, two nearly do."""
    generator = torch.Generator().manual_seed(n)
    one, other = (F.normalize(torch.randn(n, d, dtype=torch.float64, generator=generator), dim=-1) for _ in range(2))
    one[n - 1] = one[0]
    one[n - 2] = F.normalize(one[1] + 1e-3 * other[0], dim=-1)
    other[2] = -one[2]  # its distances differ by more than 1
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (one, other, torch.tensor(1.5, dtype=torch.float64))]
    return leaves[0], leaves[1], leaves[2]


def value_and_gradients(loss: Loss, parts: list[slice | None], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Of the mean over parts."""
    leaves = embeds(N, D, dtype)
    total = torch.stack([loss(*leaves, rows) for rows in parts]).mean()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [total.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("count", [1, 2, 4, 12])
def test_the_mean_of_equal_parts_is_the_loss(name: str, count: int) -> None:
    size = N // count
    parts: list[slice | None] = [slice(start, start + size) for start in range(0, N, size)]
    found, wanted = value_and_gradients(LOSSES[name], parts), value_and_gradients(LOSSES[name], [None])
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)  # two rows are 1e-3 apart


@pytest.mark.parametrize("form", ["square", "smooth_l1"])
@pytest.mark.parametrize(
    ("n", "rows"), [(N, slice(3, 7)), (N, slice(8, 12)), (N - 1, slice(0, 9)), (N - 1, slice(7, 8))]
)
def test_a_part_of_the_structure_loss_is_its_rows_with_those_after_them(form: Any, n: int, rows: slice) -> None:
    student, teacher, _ = embeds(n, D)
    s, t, total = student.tolist(), teacher.tolist(), 0.0
    for i in range(rows.start, rows.stop):
        for after in range(1, n // 2 + 1):
            j = (i + after) % n
            x = math.dist(s[i], s[j]) - math.dist(t[i], t[j])
            share = 0.5 if 2 * after == n else 1.0
            total += share * (x**2 if form == "square" else 0.5 * x**2 if abs(x) < 1 else abs(x) - 0.5)
    found = structure_loss(student, teacher, form=form, reduction="sum", rows=rows)
    assert found.item() == pytest.approx(total * n / (rows.stop - rows.start), rel=1e-6)


@pytest.mark.parametrize("n", range(2, 10))
@pytest.mark.parametrize("form", ["square", "smooth_l1"])
def test_structure_losses_of_single_rows_of_any_batch(form: Any, n: int) -> None:
    """Value and gradient, for batches odd and even."""
    generator = torch.Generator().manual_seed(n)
    one, other = (F.normalize(torch.randn(n, D, dtype=torch.float64, generator=generator), dim=-1) for _ in range(2))
    one.requires_grad_()
    wanted = structure_loss(one, other, form=form, reduction="sum")
    parts = [structure_loss(one, other, form=form, reduction="sum", rows=slice(i, i + 1)) for i in range(n)]
    found = torch.stack(parts).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(value, one)[0] for value in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_a_part_of_infonce_is_its_images_among_all_texts_and_its_texts_among_all_images() -> None:
    images, texts, scale = embeds(N, D)
    logits, total = (scale.exp() * images @ texts.T).tolist(), 0.0
    for i in range(3, 7):
        total += 2 * math.log(math.exp(logits[i][i]))
        total -= math.log(sum(math.exp(logits[i][j]) for j in range(N)))
        total -= math.log(sum(math.exp(logits[j][i]) for j in range(N)))
    assert contrastive_loss(images, texts, scale, rows=slice(3, 7)).item() == pytest.approx(-total / 8, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_of_a_part(name: str) -> None:
    one, other, scale = embeds(N, D)
    with torch.no_grad():  # no two at distance 0, where there is no derivative
        one[N - 1] = -one[0]
    teacher = other if name in ("contrastive", "sigmoid") else other.detach()
    assert torch.autograd.gradcheck(lambda *x: LOSSES[name](*x, slice(2, 6)), (one, teacher, scale))


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("name", ["square", "smooth L1"])
@pytest.mark.parametrize("rows", [None, slice(2, 10)])
def test_chunks_change_nothing(rows: slice | None, name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = value_and_gradients(LOSSES[name], [rows])
    monkeypatch.setattr(losses, "CHUNK", size)
    for one, other in zip(value_and_gradients(LOSSES[name], [rows]), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_distances_are_of_half_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk's to itself, and to the rows after it: of the whole to all, of a part to half a batch."""
    found, real = [], losses._distances

    def distances(exact: Tensor, chunk: slice, others: slice, dtype: torch.dtype) -> Tensor:
        found.append((chunk, others))
        return real(exact, chunk, others, dtype)

    monkeypatch.setattr(losses, "CHUNK", 3)
    monkeypatch.setattr(losses, "_distances", distances)
    LOSSES["square"](*embeds(7, D), None)
    student = [(slice(start, min(start + 3, 7)), slice(start, 7)) for start in (0, 3, 6)]
    assert found == [place for place in student for _ in ("student", "teacher")]
    found.clear()
    LOSSES["square"](*embeds(8, D), slice(4, 8))  # rows 4 to 7, and 0 to 3 after them
    assert found[::2] == [(slice(0, 3), slice(0, 7)), (slice(3, 4), slice(3, 8))] == found[1::2]


def test_float32_distances_are_as_exact_as_subtraction() -> None:
    """Against differences in float64 of the very float32 embeds, from far to 1e-5 near."""
    generator = torch.Generator().manual_seed(0)
    far = F.normalize(torch.randn(8, 64, generator=generator), dim=-1)
    steps = torch.logspace(-5, 0, 8)[:, None] * torch.randn(8, 64, generator=generator) / 8
    student = torch.cat([far, F.normalize(far + steps, dim=-1)])
    found = losses._distances(losses._for_distances(student), slice(0, 16), slice(0, 16), torch.float32)
    wanted = (student.double()[:, None] - student.double()[None, :]).norm(dim=-1)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("width", [512, 768, 4096])
def test_equal_rows_are_at_no_distance_at_any_width(width: int) -> None:
    rows = F.normalize(torch.randn(40, width, generator=torch.Generator().manual_seed(width)), dim=-1)
    twice = torch.cat([rows, rows])
    found = losses._distances(losses._for_distances(twice), slice(0, 40), slice(0, 80), torch.float32)
    assert found[:, 40:].diagonal().eq(0).all()
    assert found[:, 40:].gt(0).sum() == 40 * 39


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_larger_than_the_part_times_the_batch(name: str) -> None:
    n, m = 256, 16
    leaves = embeds(n, 8, torch.float32)
    with Largest() as largest:
        LOSSES[name](*leaves, slice(32, 32 + m)).backward()  # type: ignore[no-untyped-call]
    assert largest.numbers <= m * n
    with Largest() as largest:
        LOSSES[name](*leaves, None)
    assert largest.numbers <= n * n


@pytest.mark.parametrize("rows", [slice(3, 3), slice(12, 14), slice(0, 4, 2)])
def test_rows_that_the_batch_has_not_are_errors(rows: slice) -> None:
    for loss in LOSSES.values():
        with pytest.raises(ProclipError, match="rows must be some of the 12 rows of the batch"):
            loss(*embeds(N, D), rows)
