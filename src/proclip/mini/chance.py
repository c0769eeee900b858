"""Choices that look random and never change: derived from a hash of their names, not from any generator's state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def stable_hash(*parts: str | int) -> int:
    """Returns a 64-bit number that depends on ``parts`` alone."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def pick(options: Sequence[T], *parts: str | int) -> T:
    """Returns one of ``options``, chosen by a hash of ``parts``."""
    return options[stable_hash(*parts) % len(options)]


def shuffled(items: Iterable[str], *parts: str | int) -> list[str]:
    """Returns ``items`` in an order that depends on the items and ``parts`` alone, not on the order given."""
    return sorted(items, key=lambda item: (stable_hash(*parts, item), item))
