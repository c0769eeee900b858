"""Ranks of the right class.

Letters: n samples, c classes.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import ProclipError
from .checks import check_finite, shapes


def class_ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """Where each sample's class stands by its logits, 1 is the first; a class that ties with it is ahead of it.

    Top-k accuracy is the share of ``rank <= k``, mean per-class accuracy the mean over classes of the share of
    ``rank == 1`` (balanced accuracy).

    Args:
        logits: [n, c].
        targets: [n] int64, in [0, c).

    Returns:
        [n] int64, in [1, c].

    Raises:
        ProclipError: no samples, shapes that do not fit, a target out of range, or logits that are not finite.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or len(targets) == 0:
        raise ProclipError(f"wanted logits [n, c] and targets [n], n >= 1, not {shapes(logits, targets)}")
    if targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise ProclipError(f"targets must be classes in [0, {logits.shape[1]}), found {targets.min()}..{targets.max()}")
    check_finite(logits, "logits")
    return (logits >= logits.gather(1, targets[:, None])).sum(dim=1)  # the class itself among them
