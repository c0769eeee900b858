"""Work that processes share without waiting for one another: who takes which unit, and how much is done."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, final

import torch.distributed as dist

from .. import distributed
from ..errors import ProclipError

LOOK_SECONDS = 0.05
HEARING_SECONDS = 5.0
"""How long a main process that failed waits for the others to hear of it."""


@final
class SharedWork:
    """Counters that all processes of a run see; the identity on one process.

    Every process must make it at the same point, and work within its context: where one fails there, the others hear of
    it. Process 0 keeps the counters, so no process can go on long after it has died.
    """

    def __init__(self) -> None:
        self._own: Counter[str] = Counter()
        self._store: Any = None
        if distributed.world_size() > 1:
            host = os.environ.get("MASTER_ADDR", "localhost")
            if distributed.is_main():
                self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
            port = [self._store.port if self._store is not None else 0]
            dist.broadcast_object_list(port, src=0)
            if self._store is None:
                self._store = dist.TCPStore(host, port[0], timeout=timedelta(minutes=1))  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is None or not isinstance(error, Exception) or isinstance(error, distributed.AnotherFailed):
            return
        others, end = distributed.world_size() - 1 if distributed.is_main() else 0, time.monotonic() + HEARING_SECONDS
        with suppress(RuntimeError, ProclipError):
            self.add("failed", 1)
            while self.add("heard", 0) < others and time.monotonic() < end:
                time.sleep(LOOK_SECONDS)  # the counters end with the main process

    def add(self, name: str, count: int) -> int:
        """Add to a counter; its value afterwards.

        Raises:
            ProclipError: process 0 has ended.
        """
        if self._store is None:
            self._own[name] += count
            return self._own[name]
        try:
            return int(self._store.add(name, count))
        except RuntimeError as error:
            raise ProclipError(f"process 0 has ended, this one ends too ({error})") from None

    def units(self, count: int) -> Iterator[int]:
        """Numbers below `count`, each given to one process only, whichever asks first."""
        while (number := self.add("units", 1) - 1) < count:
            self._listen()
            yield number

    def reach(self, name: str, count: int = 1) -> None:
        """Say that this process has come to a point, and wait until `count` have."""
        self.add(name, 1)
        self.wait(name, count)

    def wait(self, name: str, count: int = 1) -> None:
        """Wait until a counter has a value; a signal can interrupt it."""
        while self.add(name, 0) < count:
            self._listen()
            time.sleep(LOOK_SECONDS)

    def _listen(self) -> None:
        """Stop where another process has failed.

        Raises:
            AnotherFailed: one has.
        """
        if self.add("failed", 0):
            self.add("heard", 1)
            raise distributed.AnotherFailed("another process of this run has failed, this one ends too")

    def leave(self) -> None:
        """The end: no process goes on before process 0 is here, and that one not before all have heard so."""
        if distributed.is_main():
            self.add("main is here", 1)
            self.wait("left", distributed.world_size() - 1)
        else:
            self.wait("main is here")
            self.add("left", 1)
