"""Outcomes of many figures in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import ProclipError
from ..files import write_atomically
from ..metrics.outcomes import Outcomes, Statistic

PARTS = ("strata", "clusters")


def write_outcomes(path: Path, outcomes: Mapping[str, Outcomes]) -> None:
    """Write outcomes by key, atomically; equal strata and clusters are written once."""
    tensors: dict[str, NDArray[np.generic]] = {}
    where: dict[bytes, str] = {}
    metadata: dict[str, str] = {}
    for key, one in outcomes.items():
        metadata[f"{key}|statistic"] = one.statistic
        small = one.values.astype(np.uint8)
        tensors[f"{key}|values"] = small if np.array_equal(small, one.values) else one.values.astype(np.float32)
        for part in PARTS:
            labels = getattr(one, part)
            if labels is None:
                continue
            content = np.ascontiguousarray(labels, dtype=np.int32)
            name = where.setdefault(content.tobytes(), f"labels|{len(where)}")
            tensors[name] = content
            metadata[f"{key}|{part}"] = name
    write_atomically(path, save(tensors, metadata))


def read_outcomes(path: Path) -> dict[str, Outcomes]:
    """Read them again.

    Raises:
        ProclipError: the file is not one that `write_outcomes` wrote.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = {}
        for field, statistic in metadata.items():
            key, _, kind = field.rpartition("|")
            if kind != "statistic":
                continue
            labels = {part: tensors[metadata[f"{key}|{part}"]] for part in PARTS if f"{key}|{part}" in metadata}
            known: Statistic = next(s for s in get_args(Statistic) if s == statistic)
            found[key] = Outcomes(values=tensors[f"{key}|values"].astype(np.float32), statistic=known, **labels)
    except (SafetensorError, KeyError, StopIteration) as error:
        raise ProclipError(f"{path} does not hold the outcomes of a result file: {error}") from None
    return found
