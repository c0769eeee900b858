"""What every step gives: checked, logged, shown. Read one step late, so that no step waits for the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..distributed import all_reduce_mean
from ..errors import ProclipError
from .checkpoint import Checkpoints
from .interruption import Interruption
from .metric_log import MetricLogger
from .progress import Progress

SIGNAL = "signal"
"""Name of the interruption's flag among a step's scalars."""


class Scalars:
    """Scalars on their way from the device to the CPU: the means over all processes.

    Args:
        terms: tensors of one number each, as they are now.
    """

    def __init__(self, terms: Mapping[str, Tensor]) -> None:
        numbers = all_reduce_mean(torch.stack([term.detach().float() for term in terms.values()]))
        self._names, self._numbers = tuple(terms), numbers.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if numbers.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record()

    def values(self) -> dict[str, float]:
        """The numbers by name; waits until they are there, not for what the device was given after them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._numbers.tolist(), strict=True))


@dataclass
class Record:
    """The course of a stage.

    A step's scalars are read when the next step is under way, or by `settle`. Before anything is saved or evaluated
    they are settled, so that weights which are not finite never get into a checkpoint.
    """

    name: str
    """Of the stage."""
    total: int
    """Its steps."""
    steps_per_epoch: int
    """Steps of a pass."""
    every_steps: int
    """Steps between two lines of the log."""
    scaled: bool
    """The loss is scaled: steps whose gradients overflow are skipped, and only the loss must be finite."""
    logger: MetricLogger
    """Where the lines go."""
    progress: Progress
    """What the user sees."""
    interruption: Interruption
    """Learns which signal the processes have got."""
    checkpoints: Checkpoints
    """Asked for the last good one."""
    seconds: float = 0.0
    """Time of training so far."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last step that was read."""
    _late: tuple[int, float, Scalars] | None = field(default=None, init=False)

    def add(self, step: int, lr: float, scalars: Scalars) -> None:
        """Take the scalars of a step that is under way, and settle the step before."""
        self.settle()
        self._late = step, lr, scalars

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on with, as JSON values."""
        return {"seconds": self.seconds, "metrics": self.metrics}

    def epoch(self, step: int) -> float:
        """Passes done after a step."""
        return round(step / self.steps_per_epoch, 4)

    def settle(self) -> None:
        """Read, check, show and log the last step that was added, if it has not been.

        Raises:
            ProclipError: the loss, or a gradient that no loss scaling excuses, is not finite.
        """
        if self._late is None:
            return
        (step, lr, scalars), self._late = self._late, None
        values = scalars.values()
        self.interruption.agreed = int(values.pop(SIGNAL))
        decisive = ("loss",) if self.scaled else ("loss", "grad_norm")
        if not all(math.isfinite(values[name]) for name in decisive):
            raise ProclipError(self._not_finite(step, values))
        self.seconds += self.progress.advance(values["loss"])
        rates = {"lr": lr, "samples_per_second": self.progress.samples_per_second, "seconds": self.seconds}
        self.metrics = values | rates
        if step % self.every_steps == 0 or step == self.total:
            self.logger.log(self.name, step, self.epoch(step), self.metrics)

    def _not_finite(self, step: int, values: Mapping[str, float]) -> str:
        kept = self.checkpoints.latest()
        listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        return (
            f"{self.name}, step {step} of {self.total}: not finite: {listed}; lower the learning rate, or set "
            "optim.grad_clip or optim.autocast = 'none'. "
            + (f"The last good checkpoint is {kept}" if kept else "There is no checkpoint yet")
        )
