"""Work done ahead on threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(pool: ThreadPoolExecutor, make: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """What `make` gives of each item, in the order of the items; up to `most` are under way before they are asked for.

    The items are taken by the caller's thread, `make` runs on the pool's; what it raises is raised here.
    """
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(make, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
