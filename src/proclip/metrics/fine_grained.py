"""Whether a model tells two images, or two captions, apart: a hit or a miss for each item; a tie is a miss.

Letters: n items.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import ProclipError
from .checks import check_finite, shapes


def text_hits(scores: Tensor) -> Tensor:
    """Whether both images of a pair prefer their own statement: Winoground's text score (Thrush et al. 2022).

    Args:
        scores: [n, 2, 2], ``scores[i, a, b]`` of image a and statement b of pair i; they belong together where a == b.

    Returns:
        [n] bool.

    Raises:
        ProclipError: no pairs, another shape, or scores that are not finite.
    """
    _check_pairs(scores)
    return (scores[:, 0, 0] > scores[:, 0, 1]) & (scores[:, 1, 1] > scores[:, 1, 0])


def image_hits(scores: Tensor) -> Tensor:
    """Whether both statements of a pair prefer their own image: Winoground's image score, and MMVP-VLM's figure.

    Arguments, result and errors are those of `text_hits`; where both hit is Winoground's group score.
    """
    _check_pairs(scores)
    return (scores[:, 0, 0] > scores[:, 1, 0]) & (scores[:, 1, 1] > scores[:, 0, 1])


def hard_negative_hits(positive_scores: Tensor, negative_scores: Tensor) -> Tensor:
    """Whether an image's true caption scores strictly more than its hard negative (SugarCrepe).

    Args:
        positive_scores: [n], of the true caption.
        negative_scores: [n], of the false one.

    Returns:
        [n] bool.

    Raises:
        ProclipError: no images, shapes that do not fit, or scores that are not finite.
    """
    if positive_scores.ndim != 1 or positive_scores.shape != negative_scores.shape or len(positive_scores) == 0:
        raise ProclipError(f"wanted two tensors [n], n >= 1, not {shapes(positive_scores, negative_scores)}")
    check_finite(positive_scores, "positive_scores")
    check_finite(negative_scores, "negative_scores")
    return positive_scores > negative_scores


def _check_pairs(scores: Tensor) -> None:
    if scores.ndim != 3 or scores.shape[1:] != (2, 2) or len(scores) == 0:
        raise ProclipError(f"wanted scores [n, 2, 2], n >= 1, not {shapes(scores)}")
    check_finite(scores, "scores")
