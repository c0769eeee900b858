"""The losses of ProCLIP (arXiv 2510.18795), as pure functions on tensors.

Every function takes the batch over which the loss is defined: the caller gathers the embeddings of all processes first
(`proclip.distributed.gather`), nothing here knows of processes. Embeddings are L2-normalised already. Half precision
is raised to float32, also under autocast; float64 stays float64. The order of a batch changes nothing.

`rows` divides the work. A loss is a sum over rows of the batch, and with ``rows=slice(s, s + m)`` a function returns
the part of m rows, times n / m: where equal parts cover the batch, the mean of what they give is the loss, in value and
gradient. Nothing is made that is larger than m x n. Without `rows` it is the whole.

Letters: n batch, m rows of the part, d width of the shared space. In the paper's symbols: t* and v are students (text,
image), e and v* their teachers.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .errors import ProclipError

CHUNK = 1024
"""Rows whose distances to all others are in memory at a time."""
SMALL_CHUNK = 128
"""The same of a part, where a larger chunk would find more distances that it does not count."""
EQUAL = 128 * torch.finfo(torch.float64).eps
"""Squared distance that rounding alone can make of two equal rows of length 1."""


class DistillationTerms(NamedTuple):
    """What `distillation_loss` found; scalars."""

    loss: Tensor
    """Weighted sum of both terms, to differentiate."""
    instance: Tensor
    """Unweighted mean over samples of the instance loss (Eq. 1), in [0, 4], for logs; no gradient."""
    structure: Tensor
    """Unweighted mean over pairs of the structure loss (Eq. 2), in [0, 4], for logs; no gradient."""


def instance_loss(
    student: Tensor, teacher: Tensor, *, reduction: Literal["mean", "sum"], rows: slice | None = None
) -> Tensor:
    """Instance semantic alignment: each embedding near its teacher's.

    ``sum_i ||s_i - t_i||^2``, Eq. 1 of the paper (squared, as in its version 1 and the published code; version 3
    prints the norm without the square). Stage 1 with s = t*, t = e; stage 2 with s = v, t = v*.

    Args:
        student: [n, d], L2-normalised.
        teacher: [n, d], L2-normalised; gets no gradient.
        reduction: ``sum`` over the n samples (paper), or their ``mean``, in [0, 4].
        rows: the part to take, see the module.

    Raises:
        ProclipError: shapes that differ, an empty batch, or rows that it has not.
    """
    student, teacher = _student_and_teacher(student, teacher)
    part = _part(rows, len(student))
    total = (student[part] - teacher[part]).square().sum()
    return _reduce(total, part, batch=len(student), count=len(student), reduction=reduction)


def structure_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    form: Literal["square", "smooth_l1"] = "square",
    reduction: Literal["mean", "sum"],
    rows: slice | None = None,
) -> Tensor:
    """Embedding structure alignment: distances within the batch as among the teacher's embeddings.

    ``sum_{i<j} (||s_i - s_j|| - ||t_i - t_j||)^2``, Eq. 2 of the paper. Where two students coincide, their distance
    has no derivative; the subgradient 0 is taken, so duplicates neither pull nor push each other. Distances below 2e-7
    are zero: float32 cannot tell such embeddings apart.

    A part of the rows counts the pairs of each with the n / 2 rows that come after it, the first following on the
    last: so every pair is counted by one part.

    Args:
        student: [n, d], L2-normalised.
        teacher: [n, d], L2-normalised; gets no gradient.
        form: of the difference x of distances: ``square``, x^2 (paper); ``smooth_l1`` with beta 1 (published code),
            x^2 / 2 while ``|x| < 1``, ``|x| - 1/2`` beyond.
        reduction: ``sum`` over the n (n - 1) / 2 pairs (paper), or their ``mean``; 0 where there is no pair.
        rows: the part to take, see the module.

    Raises:
        ProclipError: shapes that differ, an empty batch, rows that it has not, or an unknown `form`.
    """
    student, teacher = _student_and_teacher(student, teacher)
    if form not in ("square", "smooth_l1"):
        raise ProclipError(f"form must be 'square' or 'smooth_l1', not {form!r}")
    batch = len(student)
    part = _part(rows, batch)
    total: Tensor = _StructureSum.apply(student, teacher, part, form)  # type: ignore[no-untyped-call]
    return _reduce(total, part, batch=batch, count=batch * (batch - 1) // 2, reduction=reduction)


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    instance_weight: float = 1.0,
    structure_weight: float = 1.0,
    structure: Literal["square", "smooth_l1"] = "square",
    reduction: Literal["mean", "paper"] = "mean",
    reference_batch: int = 512,
    rows: slice | None = None,
) -> DistillationTerms:
    """Instance and structure loss together.

    ``L_dis = L_ins + L_struct``, Eq. 3 of the paper, in stage 1 between the adapter's text embeddings and CLIP's text
    tower; ``L_reg``, Eq. 5, in stage 2 between the image tower and its EMA teacher.

    The paper sums over samples and pairs, so what a weight does changes with the batch: the pairs grow with n^2.
    ``mean`` takes the means instead and multiplies them by the number of samples, R, and of pairs, R (R - 1) / 2, of a
    batch of R: the same value and gradient as ``paper`` at n == R, and comparable at any other n.

    Args:
        student: [n, d], L2-normalised.
        teacher: [n, d], L2-normalised; gets no gradient.
        instance_weight: of the instance loss.
        structure_weight: of the structure loss.
        structure: form of the structure loss, see `structure_loss`.
        reduction: ``paper``, sums over the n samples and n (n - 1) / 2 pairs; or ``mean``, scaled to `reference_batch`.
        reference_batch: R. The paper's lambda = 4e-4 belongs to sums over 512 samples.
        rows: the part to take of all terms, see the module.

    Raises:
        ProclipError: shapes that differ, an empty batch, rows that it has not, or an unknown `structure` or
            `reduction`.
    """
    instance_mean = instance_loss(student, teacher, reduction="mean", rows=rows)
    structure_mean = structure_loss(student, teacher, form=structure, reduction="mean", rows=rows)
    if reduction == "paper":
        batch = len(student)
    elif reduction == "mean":
        batch = reference_batch
    else:
        raise ProclipError(f"reduction must be 'mean' or 'paper', not {reduction!r}")
    pairs = batch * (batch - 1) / 2
    loss = instance_weight * batch * instance_mean + structure_weight * pairs * structure_mean
    return DistillationTerms(loss, instance_mean.detach(), structure_mean.detach())


def contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    *,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Symmetric InfoNCE: each image picks its text among the batch's, each text its image.

    Half the sum of both cross-entropies, each a mean over the n pairs, Eq. 4 of the paper (stage 2's ``L_info``), with
    logits ``exp(logit_scale) * image_embeds @ text_embeds.T``.

    Two pairs that share an image, or a text, are no negatives of each other: both of them are right. Where ids say so,
    their logits are left out of the denominators.

    Args:
        image_embeds: [n, d], L2-normalised; row i belongs to row i of `text_embeds`.
        text_embeds: [n, d], L2-normalised.
        logit_scale: scalar, log of the inverse temperature.
        image_ids: [n] int64, equal for equal images.
        text_ids: [n] int64, equal for equal texts.
        rows: the part to take, see the module: these images among all texts and these texts among all images.

    Raises:
        ProclipError: shapes that differ, an empty batch, or rows that it has not.
    """
    _check_same_shape(image_embeds, text_embeds, "image_embeds", "text_embeds")
    image_embeds, text_embeds = _widen(image_embeds), _widen(text_embeds)
    part = _part(rows, len(image_embeds))
    with torch.autocast(image_embeds.device.type, enabled=False):
        scale = logit_scale.to(image_embeds.dtype).exp()
        logits = scale * (image_embeds[part] @ text_embeds.T)
        other = logits.T if rows is None else scale * (text_embeds[part] @ image_embeds.T)
        for name, ids in (("image_ids", image_ids), ("text_ids", text_ids)):
            if ids is not None:
                duplicates = _duplicates(ids, part, len(image_embeds), name)
                logits, other = (one.masked_fill(duplicates, -torch.inf) for one in (logits, other))
        labels = torch.arange(part.start, part.stop, device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(other, labels)) / 2


def sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
    rows: slice | None = None,
) -> Tensor:
    """SigLIP's loss: each of the n x n pairs of an image and a text is a yes-or-no question of its own.

    ``-1/n sum_ij log sigmoid(z_ij (t x_i . y_j + b))``, Algorithm 1 of arXiv 2303.15343, with z_ij = 1 where i = j,
    else -1, and t = exp(logit_scale). ProCLIP's paper takes InfoNCE
    throughout; this is an option of stage 2.

    Two pairs that share an image, or a text, are no negatives of each other: where ids say so, their terms are left
    out of the sum.

    Args:
        image_embeds: [n, d], L2-normalised; row i belongs to row i of `text_embeds`.
        text_embeds: [n, d], L2-normalised.
        logit_scale: scalar, log of the inverse temperature.
        logit_bias: scalar, added to every logit.
        image_ids: [n] int64, equal for equal images.
        text_ids: [n] int64, equal for equal texts.
        rows: the part to take, see the module: these images with all texts.

    Raises:
        ProclipError: shapes that differ, an empty batch, or rows that it has not.
    """
    _check_same_shape(image_embeds, text_embeds, "image_embeds", "text_embeds")
    image_embeds, text_embeds = _widen(image_embeds), _widen(text_embeds)
    part = _part(rows, len(image_embeds))
    with torch.autocast(image_embeds.device.type, enabled=False):
        similarities = image_embeds[part] @ text_embeds.T
        dtype = similarities.dtype
        logits = logit_scale.to(dtype).exp() * similarities + logit_bias.to(dtype)
        signs = torch.full_like(logits, -1.0)
        signs.diagonal(part.start).fill_(1.0)
        losses = -F.logsigmoid(signs * logits)
        for name, ids in (("image_ids", image_ids), ("text_ids", text_ids)):
            if ids is not None:
                losses = losses.masked_fill(_duplicates(ids, part, len(image_embeds), name), 0.0)
        return losses.sum() / len(losses)


def _part(rows: slice | None, batch: int) -> slice:
    """`rows` with plain bounds."""
    start, stop, step = (rows or slice(None)).indices(batch)
    if step != 1 or start >= stop:
        raise ProclipError(f"rows must be some of the {batch} rows of the batch, one after the other, not {rows}")
    return slice(start, stop)


def _duplicates(ids: Tensor, part: slice, batch: int, name: str) -> Tensor:
    """[m, n], True at i != j with the same id."""
    if ids.shape != (batch,):
        raise ProclipError(f"{name} must have shape [{batch}], one for each pair, not {list(ids.shape)}")
    same = ids[part, None] == ids[None, :]
    same.diagonal(part.start).fill_(False)
    return same


def _widen(tensor: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_same_shape(one: Tensor, other: Tensor, one_name: str, other_name: str) -> None:
    if one.ndim != 2 or one.shape != other.shape or len(one) == 0:
        shapes = f"{list(one.shape)} and {list(other.shape)}"
        raise ProclipError(f"{one_name} and {other_name} must both be [n, d] with n >= 1, not {shapes}")


def _student_and_teacher(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    _check_same_shape(student, teacher, "student", "teacher")
    return _widen(student), _widen(teacher.detach())


def _reduce(total: Tensor, part: slice, *, batch: int, count: int, reduction: str) -> Tensor:
    """The share of a part: its sum, or that over the `count` terms of the whole batch, as if all parts were alike."""
    total = total * (batch / (part.stop - part.start))
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / max(count, 1)
    raise ProclipError(f"reduction must be 'mean' or 'sum', not {reduction!r}")


class _StructureSum(torch.autograd.Function):
    """``sum f(||s_i - s_j|| - ||t_i - t_j||)`` over the pairs i, j of the whole, or those that a part counts.

    The gradient is found along with the value, so that no matrix of distances outlives its chunk: with w_ij the
    derivative by the student's distance over that distance, and 0 where it is 0, it is ``sum_j w_ij (s_i - s_j)`` for
    s_i and its opposite for every s_j; each is a product of matrices. Hardly more distances are found than there are
    pairs; those of a chunk's rows among themselves twice.

    - Where the part is the whole, a chunk leaves out the rows before it, whose pairs with it are done.
    - Row i of a part is paired with i + 1 to i + h, h = n // 2, counted round the batch; so the rows are followed by
      the first h. Where n is even, i and i + h meet from both: each counts half.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, part: slice, form: str) -> Tensor:
        total, batch, count = student.new_zeros(()), len(student), part.stop - part.start
        half, whole = batch // 2, count == batch
        needed = slice(part.start, batch if whole else part.stop + half)
        student, teacher = (
            torch.cat([rows, rows[: max(needed.stop - batch, 0)]])[needed] for rows in (student, teacher)
        )
        gradient = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        exact_student, exact_teacher = _for_distances(student), _for_distances(teacher)
        size = CHUNK if whole else min(CHUNK, batch - half, max(SMALL_CHUNK, batch // 16))
        with torch.autocast(student.device.type, enabled=False):
            for start in range(0, count, size):
                chunk = slice(start, min(start + size, count))
                own = chunk.stop - chunk.start
                others = slice(start, batch if whole else chunk.stop + half)
                distances = _distances(exact_student, chunk, others, student.dtype)
                difference = distances - _distances(exact_teacher, chunk, others, student.dtype)
                if not whole:
                    difference[:, :own].triu_()
                    difference[:, half:].tril_()
                if form == "square":
                    values, slope = difference.square(), difference
                else:  # smooth L1 with beta 1: x^2 / 2 while |x| < 1, else |x| - 1/2
                    values = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
                    slope = difference.clamp_(-1.0, 1.0).div_(2)
                if not whole and batch % 2 == 0:
                    values[:, half:].diagonal().div_(2)
                    slope[:, half:].diagonal().div_(2)
                twice = own if whole else 0  # columns that have each of their pairs from both its rows
                total += values[:, :twice].sum() / 2 + values[:, twice:].sum()
                if gradient is not None:
                    weights = slope.div_(distances).masked_fill_(distances == 0, 0.0)
                    gradient[chunk] += weights.sum(1, keepdim=True) * student[chunk] - weights @ student[others]
                    if twice < weights.shape[1]:
                        weights, rest = weights[:, twice:], slice(others.start + twice, others.stop)
                        gradient[rest] += weights.sum(0)[:, None] * student[rest] - weights.T @ student[chunk]
        ctx.save_for_backward(gradient if gradient is None else 2 * _in_place(gradient, part.start, batch))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None


def _in_place(rows: Tensor, start: int, batch: int) -> Tensor:
    """Rows from `start` of a batch on and then from its first, added to those of no part: [n, d]."""
    whole = rows.new_zeros(batch, rows.shape[1])
    before_the_end = min(len(rows), batch - start)
    whole[start : start + before_the_end] = rows[:before_the_end]
    whole[: len(rows) - before_the_end] += rows[before_the_end:]
    return whole


def _for_distances(embeds: Tensor) -> Tensor:
    """Rows ``(x, 1, |x|^2)`` in float64, [n, d + 2]."""
    exact = embeds.double()
    lengths = exact.square().sum(dim=1, keepdim=True)
    return torch.cat([exact, torch.ones_like(lengths), lengths], dim=1)


def _distances(exact: Tensor, chunk: slice, others: slice, dtype: torch.dtype) -> Tensor:
    """Euclidean distances of a chunk of rows to others that it is among: of `_for_distances`, [m, k] of `dtype`.

    From the products ``(-2 x, |x|^2, 1) . (y, 1, |y|^2) = |x|^2 + |y|^2 - 2 x . y`` in float64, whose rounding is far
    below what float32 tells apart: down to 1e-5 distances are as when rows are subtracted first, at the price of a
    product of matrices. Equal rows are at distance 0 exactly, if they are of length 1.
    """
    own, one, length = torch.split(exact[chunk], [exact.shape[1] - 2, 1, 1], dim=1)
    squares = (torch.cat([-2 * own, length, one], dim=1) @ exact[others].T).to(dtype)
    torch.threshold_(squares, EQUAL, 0.0)
    squares.diagonal(chunk.start - others.start).zero_()
    return squares.sqrt_()
