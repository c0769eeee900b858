"""Progress of a stage: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

from ..distributed import is_main

RATE_STEPS = 50


class Progress:
    """Shows loss, rate and time left. The rate is of the last steps of this process: a resumed run starts afresh.

    Args:
        name: of the stage.
        start: steps done before.
        total: steps of the stage.
        samples_per_step: over all processes.
        plain_every: steps between two plain lines where the output is no terminal.
    """

    def __init__(self, name: str, *, start: int, total: int, samples_per_step: int, plain_every: int) -> None:
        self.name, self.step, self.total = name, start, total
        self.samples_per_step, self.plain_every = samples_per_step, plain_every
        self._times = deque([time.perf_counter()], maxlen=RATE_STEPS + 1)
        self._bar: Any = None

    @property
    def steps_per_second(self) -> float:
        """Over the last steps; 0 before the first."""
        span = self._times[-1] - self._times[0]
        return (len(self._times) - 1) / span if span > 0 else 0.0

    @property
    def samples_per_second(self) -> float:
        """Over all processes."""
        return self.steps_per_second * self.samples_per_step

    def advance(self, loss: float) -> float:
        """Count one step and show its loss.

        Returns:
            the seconds that it took.
        """
        self.step += 1
        before = self._times[-1]
        self._times.append(time.perf_counter())
        rate = f"loss {loss:.4f}  {self.samples_per_second:,.0f} samples/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.step, rate=rate, left=_clock(self._seconds_left()))
        elif is_main() and (self.step % self.plain_every == 0 or self.step == self.total):
            print(f"{self.name} {self.step}/{self.total}  {rate}  {_clock(self._seconds_left())} left", flush=True)
        return self._times[-1] - before

    def _seconds_left(self) -> float:
        return (self.total - self.step) / self.steps_per_second if self.steps_per_second else 0.0

    def __enter__(self) -> Self:
        if is_main() and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = ("[bold]{task.description}", "{task.fields[rate]}", "{task.fields[left]} left")
            self._bar = Bar(TextColumn(columns[0]), BarColumn(), MofNCompleteColumn(), *map(TextColumn, columns[1:]))
            self._task = self._bar.add_task(self.name, total=self.total, completed=self.step, rate="", left="--:--")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
