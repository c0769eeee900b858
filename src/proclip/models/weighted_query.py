"""The vector of a query that has several parts: the same for `Index.search` and for the server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ProclipError

MOST_WEIGHT = 10.0
"""Largest weight of a part."""
NOTHING = 1e-4
"""Share of the weights that a sum must be long to have a direction: below it there is little but rounding."""


def check_wanted(weights: Sequence[float]) -> None:
    """Refuse a query of which nothing is wanted.

    Args:
        weights: of its parts; below zero for what is not wanted.

    Raises:
        ProclipError: none is above zero.
    """
    if not any(weight > 0 for weight in weights):
        raise ProclipError("only what is not wanted is asked: give a text or a picture with a weight above 0")


def weighted_query(vectors: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32]:
    """The weighted sum of L2-normalised vectors, L2-normalised, [d].

    Args:
        vectors: of the parts, [d] each, of any length.
        weights: one of each, as of `check_wanted`.

    Raises:
        ProclipError: nothing is wanted, or the parts cancel each other out.
    """
    check_wanted(weights)
    signed = np.asarray(weights, dtype=np.float64)
    total: NDArray[np.float64] = signed @ np.stack([_unit(vector.astype(np.float64)) for vector in vectors])
    if float(np.linalg.norm(total)) < NOTHING * float(np.abs(signed).sum()):
        raise ProclipError("the parts of the query cancel each other out: nothing is left to search for")
    found: NDArray[np.float32] = _unit(total).astype(np.float32)
    return found


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(vector)
    return vector / length if length else vector
