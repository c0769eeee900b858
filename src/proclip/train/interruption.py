"""Ctrl-C and preemption: a step is completed and a checkpoint written before the process ends; else it ends at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from ..distributed import is_main, world_size
from ..errors import Preempted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_SIGNAL_S = 2.0
"""Signals within so many seconds of the first are that one: torchrun passes on what the terminal or the scheduler has
sent to all processes already."""


@contextmanager
def stopping() -> Iterator[None]:
    """The first signal ends the block, wherever it is; further ones do not disturb what it does on its way out.

    Within an `Interruption` signals are that one's. Outside the main thread they stay what they are.

    Raises:
        KeyboardInterrupt: SIGINT came.
        Preempted: SIGTERM came.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        _end(number, "stopped")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(one, stop) for one in SIGNALS]
    try:
        yield
    finally:
        for one, handler in zip(SIGNALS, before, strict=True):
            signal.signal(one, handler)


def _end(number: int, where: str) -> NoReturn:
    if number == signal.SIGTERM:
        raise Preempted(where if is_main() else "")
    raise KeyboardInterrupt


class Interruption:
    """Holds SIGINT and SIGTERM back until `fit` has saved; another one, later, is not held.

    Several processes agree on the step after which they stop: each step's `flag` is the largest of them all. Outside
    the main thread signals stay what they are.
    """

    def __init__(self) -> None:
        self.agreed = 0
        """Under several processes: the signal that one of them has got, as of the last flag that was read."""
        self._own, self._since = 0, 0.0
        self._previous: dict[int, Any] = {}

    @property
    def signal(self) -> int:
        """The signal after which all processes stop, 0 for none."""
        return self.agreed if world_size() > 1 else self._own

    def flag(self, device: torch.device) -> Tensor:
        """The signal that a process has got, 0 for none; every process must call it at the same step."""
        flag = torch.full((), float(self._own), device=device)  # a fill, no copy that would wait for the device
        if world_size() > 1:
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return flag

    def stop(self, where: str) -> NoReturn:
        """End as the signal asks; `where` says what is done and saved.

        Raises:
            KeyboardInterrupt: SIGINT came.
            Preempted: SIGTERM came.
        """
        _end(self.signal, where)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._own:
            self._own, self._since = number, time.monotonic()
        elif time.monotonic() - self._since >= ONE_SIGNAL_S:
            self._restore()
            os.kill(os.getpid(), number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()
        if self._own and kind is None:  # it came after the last step: nobody has acted on it
            _end(self._own, "stopped after the last step of a stage; its checkpoint is written")
