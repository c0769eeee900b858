"""The one loop that trains every stage."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ..config import LogConfig, OptimConfig
from ..data.batches import BatchSource
from ..distributed import world_size
from ..errors import ProclipError
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from .metric_log import MetricLogger
from .optim import average_gradients, build_optimizer, build_scaler, clip_gradients, lr_at, set_lr
from .progress import Progress
from .stages import Stage


@dataclass(frozen=True)
class Hook:
    """Something to do every so many steps, such as an evaluation; what it returns is logged."""

    every_steps: int
    """Steps between two calls."""
    run: Callable[[int], Mapping[str, float]]
    """Given the number of steps done; may put the stage into evaluation mode."""


@dataclass(frozen=True)
class FitResult:
    """How a stage went."""

    steps: int
    """Steps done in all."""
    resumed_at: int
    """Step at which this call began: 0 for a new stage, `steps` for one that had ended before."""
    seconds: float
    """Time of training, earlier calls included."""
    metrics: Mapping[str, float]
    """Of the last step."""


def fit(
    stage: Stage,
    source: BatchSource[Any],
    *,
    name: str,
    epochs: int,
    optim: OptimConfig,
    log: LogConfig,
    run_dir: Path,
    logger: MetricLogger,
    hooks: Sequence[Hook] = (),
) -> FitResult:
    """Train a stage from its newest checkpoint, if ``run_dir/checkpoints/name`` has one, to its end.

    A resumed run ends with the weights of an uninterrupted one, on a CPU bit for bit; a stage that had ended is
    loaded and left as it is. On Ctrl-C the step is completed and a checkpoint written before KeyboardInterrupt.

    Raises:
        ProclipError: a loss or gradient is not finite (the last good checkpoint stays), or a checkpoint does not fit.
    """
    folder, total = run_dir / "checkpoints" / name, epochs * source.steps_per_epoch
    device = next(stage.parameters()).device
    optimizer, scaler = build_optimizer(stage.groups(), optim), build_scaler(optim, device)
    plan = {"stage": name, "steps_per_epoch": source.steps_per_epoch, "total_steps": total}
    start, seconds, metrics = _resume(folder, plan, stage, optimizer, scaler)
    logger.start_stage(name, start)
    samples = source.batch_size * world_size()
    progress = Progress(name, start=start, total=total, samples_per_step=samples, plain_every=log.every_steps)
    stage.train()
    with progress, _DeferredInterrupt() as interrupt:
        for step, batch in enumerate(_batches(source, start, total, device), start + 1):
            lr = set_lr(optimizer, lr_at(step - 1, total, optim.warmup_steps))
            optimizer.zero_grad(set_to_none=True)
            terms = stage.loss(batch)
            scaler.scale(terms["loss"]).backward()  # type: ignore[no-untyped-call]
            average_gradients(optimizer)
            scaler.unscale_(optimizer)
            terms["grad_norm"] = clip_gradients(optimizer, optim.grad_clip)
            values = _finite(terms, f"{name}, step {step} of {total}", folder, scaler)
            scaler.step(optimizer)
            scaler.update()
            stage.after_step()

            seconds += progress.advance(values["loss"])
            epoch, last = round(step / source.steps_per_epoch, 4), step == total
            metrics = values | {"lr": lr, "samples_per_second": progress.samples_per_second, "seconds": seconds}
            if step % log.every_steps == 0 or last:
                logger.log(name, step, epoch, metrics)
            _run_hooks(hooks, stage, name, step, epoch, logger)
            if step % log.checkpoint_every_steps == 0 or last or interrupt.asked:
                state = plan | {"finished": last, "seconds": seconds, "metrics": metrics, "scaler": scaler.state_dict()}
                save_checkpoint(folder, step, stage, optimizer, state, keep=log.keep_checkpoints)
            if interrupt.asked:
                raise KeyboardInterrupt
    return FitResult(total, start, seconds, metrics)


def _resume(
    folder: Path, plan: Mapping[str, Any], stage: Stage, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> tuple[int, float, dict[str, float]]:
    """Load the newest checkpoint: steps done, seconds spent, last metrics; 0 and nothing without one."""
    path = latest_checkpoint(folder)
    if path is None:
        return 0, 0.0, {}
    state = load_checkpoint(path, stage, optimizer)
    for key, wanted in plan.items():
        if state[key] != wanted:
            raise ProclipError(f"{path} has {key} {state[key]}, this run {wanted}; train it into another run folder")
    scaler.load_state_dict(state["scaler"])
    return state["step"], state["seconds"], state["metrics"]


def _batches(source: BatchSource[Any], start: int, total: int, device: torch.device) -> Iterator[Any]:
    """All batches from step `start` on, over the epochs, on `device`.

    Raises:
        ProclipError: the source gave another number of batches than it announced.
    """
    done = start
    while done < total:
        epoch, skip = divmod(done, source.steps_per_epoch)
        for batch in source.epoch(epoch, skip):
            yield _to_device(batch, device)
            done += 1
        if done != (epoch + 1) * source.steps_per_epoch:
            raise ProclipError(
                f"epoch {epoch} gave {done - epoch * source.steps_per_epoch} batches, not {source.steps_per_epoch}"
            )


def _to_device(batch: Any, device: torch.device) -> Any:
    """A batch dataclass with its tensors on `device`."""
    if device.type == "cpu":
        return batch
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return dataclasses.replace(
        batch, **{n: t.to(device, non_blocking=True) for n, t in tensors.items() if t is not None}
    )


def _finite(terms: Mapping[str, Tensor], where: str, folder: Path, scaler: torch.amp.GradScaler) -> dict[str, float]:
    """The terms as numbers; the one point of a step that waits for the device.

    Raises:
        ProclipError: the loss, or a gradient that no loss scaling excuses, is not finite.
    """
    numbers = torch.stack([t.detach().float() for t in terms.values()]).tolist()
    values = dict(zip(terms, numbers, strict=True))
    decisive = ("loss",) if scaler.is_enabled() else ("loss", "grad_norm")  # the scaler skips steps that overflow
    if all(math.isfinite(values[n]) for n in decisive):
        return values
    kept = latest_checkpoint(folder)
    listed = ", ".join(f"{n} = {v:g}" for n, v in values.items())
    raise ProclipError(
        f"{where}: not finite: {listed}; lower the learning rate, or set optim.grad_clip or optim.autocast = 'none'. "
        + (f"The last good checkpoint is {kept}" if kept else "There is no checkpoint yet")
    )


def _run_hooks(hooks: Sequence[Hook], stage: Stage, name: str, step: int, epoch: float, logger: MetricLogger) -> None:
    for hook in hooks:
        if step % hook.every_steps == 0:
            if found := hook.run(step):
                logger.log(name, step, epoch, found)
            stage.train()


class _DeferredInterrupt:
    """Holds Ctrl-C back until the step is done, so that no half-updated weights are saved; a second one is not held.

    Under several processes, and outside the main thread, Ctrl-C stays what it is: the processes would have to agree
    on the step, so the last regular checkpoint is the one to go on from.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        if world_size() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
