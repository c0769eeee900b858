"""The losses of ProCLIP (arXiv 2510.18795), as pure functions on tensors.

Every function takes the batch over which the loss is defined: the caller gathers the embeddings of all processes first
(`proclip.distributed.gather`), nothing here knows of processes. Embeddings are L2-normalised already. Half precision
is raised to float32, also under autocast; float64 stays float64. The order of a batch changes nothing.

Letters: b batch, d width of the shared space. In the paper's symbols: t* and v are students (text, image), e and v*
their teachers.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .errors import ProclipError


class DistillationTerms(NamedTuple):
    """What `distillation_loss` found; scalars."""

    loss: Tensor
    """Weighted sum of both terms, to differentiate."""
    instance: Tensor
    """Unweighted mean over samples of the instance loss (Eq. 1), in [0, 4], for logs; no gradient."""
    structure: Tensor
    """Unweighted mean over pairs of the structure loss (Eq. 2), in [0, 4], for logs; no gradient."""


def instance_loss(student: Tensor, teacher: Tensor, *, reduction: Literal["mean", "sum"]) -> Tensor:
    """Instance semantic alignment: each embedding near its teacher's.

    ``sum_i ||s_i - t_i||^2``, Eq. 1 of the paper (squared, as in its version 1 and the published code; version 3
    prints the norm without the square). Stage 1 with s = t*, t = e; stage 2 with s = v, t = v*.

    Args:
        student: [b, d], L2-normalised.
        teacher: [b, d], L2-normalised; gets no gradient.
        reduction: ``sum`` over the b samples (paper), or their ``mean``, in [0, 4].

    Raises:
        ProclipError: shapes that differ, or an empty batch.
    """
    student, teacher = _student_and_teacher(student, teacher)
    return _reduce((student - teacher).square().sum(), count=len(student), reduction=reduction)


def structure_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    form: Literal["square", "smooth_l1"] = "square",
    reduction: Literal["mean", "sum"],
) -> Tensor:
    """Embedding structure alignment: distances within the batch as among the teacher's embeddings.

    ``sum_{i<j} (||s_i - s_j|| - ||t_i - t_j||)^2``, Eq. 2 of the paper. Where two students coincide, their distance
    has no derivative; the subgradient 0 is taken, so duplicates neither pull nor push each other.

    Args:
        student: [b, d], L2-normalised.
        teacher: [b, d], L2-normalised; gets no gradient.
        form: of the difference x of distances: ``square``, x^2 (paper); ``smooth_l1`` with beta 1 (published code),
            x^2 / 2 while ``|x| < 1``, ``|x| - 1/2`` beyond.
        reduction: ``sum`` over the b (b - 1) / 2 pairs (paper), or their ``mean``; 0 where there is no pair.

    Raises:
        ProclipError: shapes that differ, an empty batch, or an unknown `form`.
    """
    student, teacher = _student_and_teacher(student, teacher)
    student_distances, teacher_distances = _pairwise_distances(student), F.pdist(teacher)
    if form == "square":
        total = (student_distances - teacher_distances).square().sum()
    elif form == "smooth_l1":
        total = F.smooth_l1_loss(student_distances, teacher_distances, reduction="sum", beta=1.0)
    else:
        raise ProclipError(f"form must be 'square' or 'smooth_l1', not {form!r}")
    return _reduce(total, count=len(student_distances), reduction=reduction)


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    instance_weight: float = 1.0,
    structure_weight: float = 1.0,
    structure: Literal["square", "smooth_l1"] = "square",
    reduction: Literal["mean", "paper"] = "mean",
    reference_batch: int = 512,
) -> DistillationTerms:
    """Instance and structure loss together.

    ``L_dis = L_ins + L_struct``, Eq. 3 of the paper, in stage 1 between the adapter's text embeddings and CLIP's text
    tower; ``L_reg``, Eq. 5, in stage 2 between the image tower and its EMA teacher.

    The paper sums over samples and pairs, so what a weight does changes with the batch: the pairs grow with b^2.
    ``mean`` takes the means instead and multiplies them by the number of samples, R, and of pairs, R (R - 1) / 2, of a
    batch of R: the same value and gradient as ``paper`` at b == R, and comparable at any other b.

    Args:
        student: [b, d], L2-normalised.
        teacher: [b, d], L2-normalised; gets no gradient.
        instance_weight: of the instance loss.
        structure_weight: of the structure loss.
        structure: form of the structure loss, see `structure_loss`.
        reduction: ``paper``, sums over the b samples and b (b - 1) / 2 pairs; or ``mean``, scaled to `reference_batch`.
        reference_batch: R. The paper's lambda = 4e-4 belongs to sums over 512 samples.

    Raises:
        ProclipError: shapes that differ, an empty batch, or an unknown `structure` or `reduction`.
    """
    instance_mean = instance_loss(student, teacher, reduction="mean")
    structure_mean = structure_loss(student, teacher, form=structure, reduction="mean")
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
) -> Tensor:
    """Symmetric InfoNCE: each image picks its text among the batch's, each text its image.

    Half the sum of both cross-entropies, each a mean over the b pairs, Eq. 4 of the paper (stage 2's ``L_info``), with
    logits ``exp(logit_scale) * image_embeds @ text_embeds.T``.

    Two pairs that share an image, or a text, are no negatives of each other: both of them are right. Where ids say so,
    their logits are left out of the denominators.

    Args:
        image_embeds: [b, d], L2-normalised; row i belongs to row i of `text_embeds`.
        text_embeds: [b, d], L2-normalised.
        logit_scale: scalar, log of the inverse temperature.
        image_ids: [b] int64, equal for equal images.
        text_ids: [b] int64, equal for equal texts.

    Raises:
        ProclipError: shapes that differ, or an empty batch.
    """
    _check_same_shape(image_embeds, text_embeds, "image_embeds", "text_embeds")
    image_embeds, text_embeds = _widen(image_embeds), _widen(text_embeds)
    with torch.autocast(image_embeds.device.type, enabled=False):
        similarities = image_embeds @ text_embeds.T
        logits = logit_scale.to(similarities.dtype).exp() * similarities
        for name, ids in (("image_ids", image_ids), ("text_ids", text_ids)):
            if ids is not None:
                logits = logits.masked_fill(_duplicates(ids, len(logits), name), -torch.inf)
        labels = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
) -> Tensor:
    """SigLIP's loss: each of the b x b pairs of an image and a text is a yes-or-no question of its own.

    ``-1/b sum_ij log sigmoid(z_ij (t x_i . y_j + b))``, Algorithm 1 of arXiv 2303.15343, with z_ij = 1 where i = j,
    else -1, and t = exp(logit_scale). ProCLIP's paper takes InfoNCE
    throughout; this is an option of stage 2.

    Two pairs that share an image, or a text, are no negatives of each other: where ids say so, their terms are left
    out of the sum.

    Args:
        image_embeds: [b, d], L2-normalised; row i belongs to row i of `text_embeds`.
        text_embeds: [b, d], L2-normalised.
        logit_scale: scalar, log of the inverse temperature.
        logit_bias: scalar, added to every logit.
        image_ids: [b] int64, equal for equal images.
        text_ids: [b] int64, equal for equal texts.

    Raises:
        ProclipError: shapes that differ, or an empty batch.
    """
    _check_same_shape(image_embeds, text_embeds, "image_embeds", "text_embeds")
    image_embeds, text_embeds = _widen(image_embeds), _widen(text_embeds)
    with torch.autocast(image_embeds.device.type, enabled=False):
        similarities = image_embeds @ text_embeds.T
        dtype, count = similarities.dtype, len(similarities)
        logits = logit_scale.to(dtype).exp() * similarities + logit_bias.to(dtype)
        signs = 2 * torch.eye(count, dtype=dtype, device=logits.device) - 1
        losses = -F.logsigmoid(signs * logits)
        for name, ids in (("image_ids", image_ids), ("text_ids", text_ids)):
            if ids is not None:
                losses = losses.masked_fill(_duplicates(ids, count, name), 0.0)
        return losses.sum() / count


def _duplicates(ids: Tensor, count: int, name: str) -> Tensor:
    """[b, b], True at i != j with the same id."""
    if ids.shape != (count,):
        raise ProclipError(f"{name} must have shape [{count}], one for each pair, not {list(ids.shape)}")
    same = ids[:, None] == ids[None, :]
    return same.fill_diagonal_(False)


def _widen(tensor: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_same_shape(one: Tensor, other: Tensor, one_name: str, other_name: str) -> None:
    if one.ndim != 2 or one.shape != other.shape or len(one) == 0:
        shapes = f"{list(one.shape)} and {list(other.shape)}"
        raise ProclipError(f"{one_name} and {other_name} must both be [b, d] with b >= 1, not {shapes}")


def _student_and_teacher(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    _check_same_shape(student, teacher, "student", "teacher")
    return _widen(student), _widen(teacher.detach())


def _reduce(total: Tensor, *, count: int, reduction: str) -> Tensor:
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / max(count, 1)
    raise ProclipError(f"reduction must be 'mean' or 'sum', not {reduction!r}")


def _pairwise_distances(embeds: Tensor) -> Tensor:
    """Euclidean distances of all pairs i < j, row by row: [b, d] -> [b (b - 1) / 2]."""
    distances: Tensor = _PairwiseDistances.apply(embeds)  # type: ignore[no-untyped-call]
    return distances


class _PairwiseDistances(torch.autograd.Function):
    """`F.pdist` with a backward pass of b x b memory.

    The forward pass subtracts before it squares, so that equal rows are at distance 0 exactly and near ones are not
    lost to cancellation, as they are in ``2 - 2 x.y``. The backward pass of `F.pdist` holds a b x b x d tensor on CUDA
    (50 GB at b = 4096, d = 768); the same gradient is two products of matrices.
    """

    @staticmethod
    def forward(ctx: Any, embeds: Tensor) -> Tensor:
        distances = F.pdist(embeds)
        ctx.save_for_backward(embeds, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """With w_ij = grad_ij / d_ij, and 0 at d_ij = 0: ``sum_j w_ij (x_i - x_j) = (sum_j w_ij) x_i - (w x)_i``."""
        embeds, distances = ctx.saved_tensors
        rows, columns = torch.triu_indices(len(embeds), len(embeds), offset=1, device=embeds.device)
        weights = embeds.new_zeros(len(embeds), len(embeds))
        weights[rows, columns] = torch.where(distances > 0, grad / distances, 0.0)
        weights = weights + weights.T
        with torch.autocast(embeds.device.type, enabled=False):
            gradient: Tensor = weights.sum(dim=1, keepdim=True) * embeds - weights @ embeds
        return gradient
