"""Random numbers that depend on what they are for, not on who draws them or when."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import torch

from .errors import ProclipError


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices): initial weights, dropout.

    Args:
        seed: in [0, 2^63).

    Raises:
        ProclipError: the seed is out of range.
    """
    if not 0 <= seed < 2**63:
        raise ProclipError(f"seed must be in [0, 2^63), not {seed}")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # all that NumPy's global generator takes
    torch.manual_seed(seed)


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) for one purpose, as in ``derive_seed(seed, "augment", epoch, key)``.

    It is a hash (SHA-256) of the parts, so it is the same on every machine and in every version of Python, and seeds
    of different parts have nothing to do with each other. The number 1 and the text "1" are different parts, and where
    one part ends matters.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A torch generator on the CPU, seeded with `derive_seed` of the parts."""
    return torch.Generator().manual_seed(derive_seed(*parts))
