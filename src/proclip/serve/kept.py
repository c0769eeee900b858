"""What is kept of earlier requests, within bounds: vectors of labels, pictures that were found."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from .faults import Fault
from .protocols import Hit

K = TypeVar("K")
V = TypeVar("V")
PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Recent(Generic[K, V]):
    """A dictionary of bounded size: what was not asked for longest goes first.

    Args:
        most: total size.
        size: of a value; 1 each if not given.
    """

    def __init__(self, most: int, size: Callable[[V], int] = lambda value: 1) -> None:
        self._most, self._size, self._total = most, size, 0
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value, which is now the most recent one."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Keep a value."""
        if key in self._values:
            self._total -= self._size(self._values.pop(key))
        self._values[key] = value
        self._total += self._size(value)
        while self._total > self._most and self._values:
            self._total -= self._size(self._values.popitem(last=False)[1])


def public_id(hit: Hit) -> str:
    """How answers call a picture: its id, or a hash of one that could be a path."""
    return hit.id if PLAIN.fullmatch(hit.id) else hashlib.sha256(hit.id.encode()).hexdigest()[:32]


def public_name(hit: Hit) -> str:
    """The last part of a hit's name: never a folder."""
    return re.split(r"[/\\]", hit.name)[-1]


def gone() -> Fault:
    """A picture that was found and is there no more: 404."""
    return Fault(404, "this picture is not there any more, or cannot be read", "id")


class Found:
    """Pictures that searches found lately: a client may ask for these, and for no others."""

    def __init__(self, hits: int = 4096) -> None:
        self._hits: Recent[str, Hit] = Recent(hits)

    def add(self, hit: Hit) -> str:
        """Keep a hit; its public id."""
        name = public_id(hit)
        self._hits.put(name, hit)
        return name

    def get(self, name: str) -> Hit:
        """The hit of a public id.

        Raises:
            Fault: 404, it was not found lately.
        """
        if (hit := self._hits.get(name)) is None:
            raise Fault(404, "no search found this picture lately: search again", "id")
        return hit
