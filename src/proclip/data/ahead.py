"""The making of batches, started some batches ahead on threads, and batches that are made part by part."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from .batches import MicroBatches

T = TypeVar("T")
B = TypeVar("B")
Make = Callable[[T, ThreadPoolExecutor], Callable[[], B]]
"""Starts the work of one batch on threads; what it returns waits for the batch."""
DECODE_THREADS = min(16, os.cpu_count() or 1)
AHEAD = 2


def ahead(items: Iterator[T], make: Make[T, B]) -> Iterator[B]:
    """Start the work of the next batches while the present one is used."""
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        waiting: deque[Callable[[], B]] = deque()
        for item in items:
            waiting.append(make(item, pool))
            if len(waiting) > AHEAD:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()


def in_parts(items: Iterator[range], size: int, make: Make[range, B]) -> Iterator[MicroBatches[B]]:
    """Batches in parts of `size` samples, of which few are in memory; made anew at each walk, some parts ahead.

    Args:
        items: the places of each batch's samples.
        size: of a part; the last of a batch may be smaller.
        make: starts the work of one part; the same for the same places.
    """
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        present: _Parts[B] | None = None
        for places in items:
            chunks = [places[start : start + size] for start in range(0, len(places), size)]
            coming = _Parts(chunks, make, pool)
            if present is not None:
                present.following = coming
                yield MicroBatches(parts=present)
            present = coming
        if present is not None:
            yield MicroBatches(parts=present)


class _Parts(Generic[B]):
    """One batch's parts. The end of a walk starts the next: of the same batch after the first, then of the next."""

    def __init__(self, chunks: Sequence[range], make: Make[range, B], pool: ThreadPoolExecutor) -> None:
        self.following: _Parts[B] | None = None
        self._chunks, self._make, self._pool = chunks, make, pool
        self._started: deque[Callable[[], B]] = deque()
        self._walks = 0

    def start(self, count: int) -> None:
        """Start the first `count` parts of the next walk."""
        while len(self._started) < min(count, len(self._chunks)):
            self._started.append(self._make(self._chunks[len(self._started)], self._pool))

    def __iter__(self) -> Iterator[B]:
        self.start(AHEAD)
        self._walks += 1
        waiting, self._started = self._started, deque()
        for chunk in self._chunks[AHEAD:]:
            waiting.append(self._make(chunk, self._pool))
            yield waiting.popleft()()
        then = self if self._walks == 1 else self.following
        for count in range(1, len(waiting) + 1):
            if then is not None:
                then.start(count)
            yield waiting.popleft()()
