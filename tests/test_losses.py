"""The losses against slow loops written from the equations of the paper, in float64."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proclip.errors import ProclipError
from proclip.losses import contrastive_loss, distillation_loss, instance_loss, structure_loss

WITHIN = {"rel": 1e-6, "abs": 1e-12}
SHAPES = [(1, 4), (2, 1), (2, 3), (5, 3), (17, 8)]


def embeds(b: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    noise = torch.randn(b, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise, dim=-1).to(dtype)


def embeds_pair(b: int = 9, d: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return embeds(b, d, 1, dtype), embeds(b, d, 2, dtype)


def distance(x: list[float], y: list[float]) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))


def slow_instance(student: Tensor, teacher: Tensor) -> float:
    """Eq. 1: sum over samples of the squared distance."""
    s, t = student.tolist(), teacher.tolist()
    return sum(distance(s[i], t[i]) ** 2 for i in range(len(s)))


def slow_structure(student: Tensor, teacher: Tensor, form: str = "square") -> float:
    """Eq. 2: sum over pairs of the squared (or smooth-L1) difference of distances."""
    s, t = student.tolist(), teacher.tolist()
    total = 0.0
    for i, j in combinations(range(len(s)), 2):
        x = abs(distance(s[i], s[j]) - distance(t[i], t[j]))
        total += x**2 if form == "square" else (0.5 * x**2 if x < 1 else x - 0.5)
    return total


def slow_info_nce(
    images: Tensor, texts: Tensor, scale: float, image_ids: list[int] | None = None, text_ids: list[int] | None = None
) -> float:
    """Eq. 4, the denominators without duplicates of the pair in question."""
    v, t, b, total = images.tolist(), texts.tolist(), len(images), 0.0

    def exp_logit(i: int, j: int) -> float:
        return math.exp(scale * sum(x * y for x, y in zip(v[i], t[j], strict=True)))

    def negative(i: int, j: int) -> bool:
        return not any(ids is not None and ids[i] == ids[j] for ids in (image_ids, text_ids))

    for i in range(b):
        others = [j for j in range(b) if j != i and negative(i, j)]
        total -= math.log(exp_logit(i, i) / (exp_logit(i, i) + sum(exp_logit(i, j) for j in others)))
        total -= math.log(exp_logit(i, i) / (exp_logit(i, i) + sum(exp_logit(j, i) for j in others)))
    return total / (2 * b)


@pytest.mark.parametrize(("b", "d"), SHAPES)
def test_instance_loss_is_equation_1(b: int, d: int) -> None:
    student, teacher = embeds_pair(b, d)
    wanted = slow_instance(student, teacher)
    assert instance_loss(student, teacher, reduction="sum").item() == pytest.approx(wanted, **WITHIN)
    assert instance_loss(student, teacher, reduction="mean").item() == pytest.approx(wanted / b, **WITHIN)


@pytest.mark.parametrize("form", ["square", "smooth_l1"])
@pytest.mark.parametrize(("b", "d"), SHAPES)
def test_structure_loss_is_equation_2(b: int, d: int, form: str) -> None:
    student, teacher = embeds_pair(b, d)
    wanted, pairs = slow_structure(student, teacher, form), b * (b - 1) // 2
    assert structure_loss(student, teacher, form=form, reduction="sum").item() == pytest.approx(wanted, **WITHIN)
    mean = structure_loss(student, teacher, form=form, reduction="mean").item()
    assert mean == pytest.approx(wanted / max(pairs, 1), **WITHIN)


def test_smooth_l1_is_half_the_square_within_one_and_linear_beyond() -> None:
    """Two students at distance x, two equal teachers: the difference of distances is x."""
    teacher = torch.ones(2, 1, dtype=torch.float64)
    for x, wanted in ((0.5, 0.125), (1.0, 0.5), (1.75, 1.25)):
        student = torch.tensor([[0.0], [x]], dtype=torch.float64)
        assert structure_loss(student, teacher, form="smooth_l1", reduction="sum").item() == pytest.approx(wanted)
        assert structure_loss(student, teacher, form="square", reduction="sum").item() == pytest.approx(x**2)


@pytest.mark.parametrize("structure", ["square", "smooth_l1"])
def test_paper_reduction_is_the_published_sums(structure: str) -> None:
    student, teacher = embeds_pair(13, 6)
    terms = distillation_loss(
        student, teacher, instance_weight=0.7, structure_weight=1.9, structure=structure, reduction="paper"
    )
    instance, pair_sum = slow_instance(student, teacher), slow_structure(student, teacher, structure)
    assert terms.loss.item() == pytest.approx(0.7 * instance + 1.9 * pair_sum, **WITHIN)
    assert terms.instance.item() == pytest.approx(instance / 13, **WITHIN)
    assert terms.structure.item() == pytest.approx(pair_sum / (13 * 12 / 2), **WITHIN)


def test_mean_equals_paper_at_the_reference_batch_in_value_and_gradient() -> None:
    student, teacher = embeds_pair(16, 6)
    student.requires_grad_(True)
    found = {}
    for reduction in ("mean", "paper"):
        loss = distillation_loss(
            student, teacher, instance_weight=0.3, structure_weight=2.0, reduction=reduction, reference_batch=16
        ).loss
        found[reduction] = (loss.item(), torch.autograd.grad(loss, student)[0])
    assert found["mean"][0] == pytest.approx(found["paper"][0], rel=1e-12)
    torch.testing.assert_close(found["mean"][1], found["paper"][1], rtol=1e-12, atol=1e-12)


def test_mean_is_scaled_to_the_reference_batch_at_any_other() -> None:
    student, teacher = embeds_pair(6, 4)
    terms = distillation_loss(student, teacher, instance_weight=2.0, structure_weight=3.0, reference_batch=512)
    wanted = 2 * 512 * slow_instance(student, teacher) / 6 + 3 * (512 * 511 / 2) * slow_structure(student, teacher) / 15
    assert terms.loss.item() == pytest.approx(wanted, **WITHIN)


def test_mean_does_not_change_when_a_batch_is_seen_twice_but_for_its_zero_pairs() -> None:
    """The instance mean of a doubled batch is the same; of its pairs, b of b (2b - 1) join equal rows and add 0."""
    student, teacher = embeds_pair(8, 4)
    once = distillation_loss(student, teacher)
    twice = distillation_loss(torch.cat([student, student]), torch.cat([teacher, teacher]))
    assert twice.instance.item() == pytest.approx(once.instance.item(), rel=1e-12)
    assert twice.structure.item() * (16 * 15 / 2) == pytest.approx(4 * once.structure.item() * (8 * 7 / 2), rel=1e-12)


@pytest.mark.parametrize("ids", ["none", "image", "text", "both"])
def test_contrastive_loss_is_equation_4(ids: str) -> None:
    images, texts = embeds_pair(7, 5)
    image_ids = [3, 1, 3, 0, 2, 2, 2] if ids in ("image", "both") else None
    text_ids = [0, 5, 1, 5, 2, 3, 4] if ids in ("text", "both") else None
    found = contrastive_loss(
        images, texts, torch.tensor(math.log(11.0), dtype=torch.float64),
        image_ids=None if image_ids is None else torch.tensor(image_ids),
        text_ids=None if text_ids is None else torch.tensor(text_ids),
    )  # fmt: skip
    assert found.item() == pytest.approx(slow_info_nce(images, texts, 11.0, image_ids, text_ids), **WITHIN)


def test_contrastive_loss_closed_forms() -> None:
    eye, zero = torch.eye(4, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    one_hot = math.log(math.e + 3) - 1  # a softmax over one logit 1 and three logits 0
    assert contrastive_loss(eye, eye, zero).item() == pytest.approx(one_hot)
    same = torch.ones(4, 1, dtype=torch.float64)
    assert contrastive_loss(same, same, zero).item() == pytest.approx(math.log(4))  # cannot tell them apart
    ids = torch.zeros(4, dtype=torch.int64)
    assert contrastive_loss(same, same, zero, text_ids=ids).item() == pytest.approx(0.0)  # and need not


def test_distinct_ids_mask_nothing() -> None:
    images, texts = embeds_pair()
    ids, scale = torch.arange(9), torch.tensor(3.0)
    plain = contrastive_loss(images, texts, scale)
    assert torch.equal(contrastive_loss(images, texts, scale, image_ids=ids, text_ids=ids.flip(0)), plain)


def test_masked_pairs_get_no_gradient() -> None:
    """With two pairs of one image each is the other's only candidate, so nothing is left to learn."""
    images, texts = (e.requires_grad_(True) for e in embeds_pair(2, 3))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    loss = contrastive_loss(images, texts, scale, image_ids=torch.tensor([7, 7]))
    loss.backward()
    assert loss.item() == 0.0
    assert all(x.grad is not None and not x.grad.any() for x in (images, texts, scale))


@pytest.mark.parametrize("form", ["square", "smooth_l1"])
def test_gradcheck_distillation(form: str) -> None:
    student, teacher = embeds_pair(6, 4)
    teacher[0] = -student[0]  # some differences beyond 1, some within
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: instance_loss(s, teacher, reduction="mean"), student)
    assert torch.autograd.gradcheck(lambda s: structure_loss(s, teacher, form=form, reduction="sum"), student)
    assert torch.autograd.gradcheck(
        lambda s: distillation_loss(s, teacher, structure_weight=0.5, structure=form, reference_batch=4).loss, student
    )


def test_gradcheck_contrastive() -> None:
    images, texts = (e.requires_grad_(True) for e in embeds_pair(6, 4))
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    image_ids, text_ids = torch.tensor([0, 1, 0, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 1, 4])

    def loss(v: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return contrastive_loss(v, t, s, image_ids=image_ids, text_ids=text_ids)

    assert torch.autograd.gradcheck(loss, (images, texts, scale))


def test_structure_gradient_is_that_of_plain_autograd() -> None:
    student, teacher = embeds_pair(12, 7)
    student.requires_grad_(True)
    (found,) = torch.autograd.grad(structure_loss(student, teacher, reduction="sum"), student)
    plain = sum(
        ((student[i] - student[j]).norm() - (teacher[i] - teacher[j]).norm()) ** 2
        for i, j in combinations(range(12), 2)
    )
    (wanted,) = torch.autograd.grad(plain, student)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_distance_between_students_has_the_subgradient_zero(dtype: torch.dtype) -> None:
    """Rows 0 and 3 coincide: the value counts their pair, the gradient is that of all other pairs."""
    student, teacher = embeds_pair(5, 4, dtype)
    student[3] = student[0]
    student.requires_grad_(True)
    loss = structure_loss(student, teacher, reduction="sum")
    assert loss.item() == pytest.approx(slow_structure(student.detach(), teacher), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, student)
    others = sum(
        ((student[i] - student[j]).norm() - (teacher[i] - teacher[j]).norm()) ** 2
        for i, j in combinations(range(5), 2)
        if (i, j) != (0, 3)
    )
    (wanted,) = torch.autograd.grad(others, student)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("form", ["square", "smooth_l1"])
def test_all_rows_equal_has_no_gradient_and_no_nan(form: str) -> None:
    student = torch.ones(6, 3).div(3**0.5).requires_grad_(True)
    loss = structure_loss(student, embeds(6, 3, 2, torch.float32), form=form, reduction="mean")
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros(6, 3))


def test_near_duplicates_keep_their_distance_in_float32() -> None:
    """2 - 2 x.y would lose a distance of 1e-4 to rounding; subtracting first does not."""
    angle = 1e-4
    student = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    loss = structure_loss(student, torch.ones(2, 2), reduction="sum")
    assert math.sqrt(loss.item()) == pytest.approx(2 * math.sin(angle / 2), rel=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "paper"])
def test_student_equal_to_teacher_is_zero_with_zero_gradient(reduction: str) -> None:
    student = embeds(7, 4, 1).requires_grad_(True)
    loss = distillation_loss(student, student.detach().clone(), reduction=reduction).loss
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros(7, 4, dtype=torch.float64))


def test_teacher_gets_no_gradient() -> None:
    student, teacher = (e.requires_grad_(True) for e in embeds_pair())
    distillation_loss(student, teacher).loss.backward()
    assert student.grad is not None and teacher.grad is None


def test_logged_terms_carry_no_gradient() -> None:
    student, teacher = embeds_pair()
    terms = distillation_loss(student.requires_grad_(True), teacher)
    assert terms.loss.requires_grad and not terms.instance.requires_grad and not terms.structure.requires_grad


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_order_of_the_batch_changes_nothing(seed: int) -> None:
    student, teacher = embeds_pair(11, 6)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    image_ids, text_ids = torch.arange(11) // 2, torch.arange(11) % 9
    scale = torch.tensor(2.5)
    for structure in ("square", "smooth_l1"):
        before = distillation_loss(student, teacher, structure=structure)
        after = distillation_loss(student[order], teacher[order], structure=structure)
        assert [t.item() for t in after] == pytest.approx([t.item() for t in before], rel=1e-12)
    before_info = contrastive_loss(student, teacher, scale, image_ids=image_ids, text_ids=text_ids)
    after_info = contrastive_loss(
        student[order], teacher[order], scale, image_ids=image_ids[order], text_ids=text_ids[order]
    )
    assert after_info.item() == pytest.approx(before_info.item(), rel=1e-12)


def test_image_and_text_are_alike_to_the_contrastive_loss() -> None:
    images, texts = embeds_pair()
    scale, ids = torch.tensor(2.5), torch.arange(9) // 2
    one = contrastive_loss(images, texts, scale, image_ids=ids)
    assert contrastive_loss(texts, images, scale, text_ids=ids).item() == pytest.approx(one.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_precision(dtype: torch.dtype, wanted: torch.dtype) -> None:
    student, teacher = embeds_pair(dtype=dtype)
    student.requires_grad_(True)
    terms = distillation_loss(student, teacher)
    info = contrastive_loss(student, teacher, torch.tensor(3.0, dtype=dtype))
    assert {t.dtype for t in (*terms, info)} == {wanted}
    exact = distillation_loss(student.detach().double(), teacher.double())
    assert terms.loss.item() == pytest.approx(exact.loss.item(), rel=1e-5)
    (terms.loss + info).backward()
    assert student.grad is not None and student.grad.dtype == dtype


def test_float64_is_not_narrowed_by_a_float32_temperature() -> None:
    images, texts = embeds_pair()
    found = contrastive_loss(images, texts, torch.tensor(2.0, dtype=torch.float32))
    assert found.item() == pytest.approx(slow_info_nce(images, texts, math.exp(2.0)), rel=1e-12)


def test_autocast_does_not_narrow() -> None:
    student, teacher = embeds_pair(dtype=torch.float32)
    student.requires_grad_(True)

    def loss() -> Tensor:
        return distillation_loss(student, teacher).loss + contrastive_loss(student, teacher, torch.tensor(4.6))

    plain = loss()
    (plain_gradient,) = torch.autograd.grad(plain, student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss()
    (cast_gradient,) = torch.autograd.grad(cast, student)
    assert cast.dtype == torch.float32
    assert cast.item() == plain.item()
    torch.testing.assert_close(cast_gradient, plain_gradient)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (torch.ones(3, 2), torch.ones(1, 2)),  # would broadcast
        (torch.ones(3, 2), torch.ones(3, 4)),
        (torch.ones(2), torch.ones(2)),
        (torch.ones(0, 2), torch.ones(0, 2)),
    ],
)
def test_shapes_that_do_not_fit_are_errors(student: Tensor, teacher: Tensor) -> None:
    for call in (
        lambda: instance_loss(student, teacher, reduction="mean"),
        lambda: structure_loss(student, teacher, reduction="mean"),
        lambda: distillation_loss(student, teacher),
    ):
        with pytest.raises(ProclipError, match="student and teacher must both be"):
            call()
    with pytest.raises(ProclipError, match="image_embeds and text_embeds must both be"):
        contrastive_loss(student, teacher, torch.tensor(0.0))


def test_unknown_options_and_ids_that_do_not_fit_are_errors() -> None:
    student, teacher = embeds_pair()
    with pytest.raises(ProclipError, match="form must be 'square' or 'smooth_l1', not 'l1'"):
        structure_loss(student, teacher, form="l1", reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(ProclipError, match="reduction must be 'mean' or 'sum', not 'paper'"):
        instance_loss(student, teacher, reduction="paper")  # type: ignore[arg-type]
    with pytest.raises(ProclipError, match="reduction must be 'mean' or 'paper', not 'sum'"):
        distillation_loss(student, teacher, reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(ProclipError, match=r"text_ids must have shape \[9\]"):
        contrastive_loss(student, teacher, torch.tensor(0.0), text_ids=torch.arange(8))
