"""Vectors in a file that only grows, memory-mapped, and the exact nearest among them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ProclipError

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
ITEM = 4
"""Bytes of a float32."""
GATHERED_ROWS = 1 << 14
"""Rows that are copied at once where not all are asked for."""
DECIMALS = 6
"""Scores are rounded so, as float32 sums differ beyond it with the order of adding."""


def append(path: Path, vectors: Floats, start: int) -> None:
    """Write vectors [n, d] as rows `start` and on; they are on disk when this returns.

    What lies from there on is of a run that was killed before it could say so, and is overwritten.
    """
    flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        file.seek(start * vectors.shape[1] * ITEM)
        file.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def mapped(path: Path, count: int, dim: int) -> Floats:
    """The first `count` vectors of a file, [count, dim], memory-mapped.

    Raises:
        ProclipError: the file is missing or too short.
    """
    if not count:
        return np.empty((0, dim), dtype=np.float32)
    found = path.stat().st_size if path.is_file() else 0
    if found < count * dim * ITEM:
        raise ProclipError(
            f"{path} holds {found // (dim * ITEM)} of {count} vectors: the index is damaged; delete its folder and "
            "index again"
        )
    # copy on write, which is never used: torch warns of an array that it may not write
    return np.asarray(np.memmap(path, dtype="<f4", mode="c", shape=(count, dim)))


def scores_of(vectors: Floats, query: Floats, rows: Numbers | None = None) -> torch.Tensor:
    """Inner products of a query [d] with all vectors, or with some rows of them, [n], rounded."""
    asked, matrix = torch.from_numpy(query), torch.from_numpy(vectors)
    if rows is None:
        found = matrix @ asked
    else:
        chosen, found = torch.from_numpy(rows), torch.empty(len(rows))
        for start in range(0, len(rows), GATHERED_ROWS):
            part = slice(start, start + GATHERED_ROWS)
            found[part] = matrix[chosen[part]] @ asked
    return found.round(decimals=DECIMALS)


def best(scores: torch.Tensor, k: int) -> Numbers:
    """Places of the k highest scores, and of all that are as high as the last of these; in any order."""
    if len(scores) <= k:
        return np.arange(len(scores))
    least = scores.topk(k).values[-1]
    places: Numbers = torch.nonzero(scores >= least).flatten().numpy()
    return places
