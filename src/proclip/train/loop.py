"""The one loop that trains every stage."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import LogConfig, OptimConfig
from ..data.batches import BatchSource, MicroBatches
from ..distributed import check_alike, comparing_sizes, from_main, is_main, world_size
from ..errors import ProclipError
from .backward import backward
from .checkpoint import Best, Checkpoints, latest_checkpoint, load_checkpoint, part_generators
from .interruption import Interruption
from .metric_log import MetricLogger
from .optim import build_optimizer, build_scaler, clip_gradients, lr_at, set_lr
from .parallel import Parallel, parallel
from .parameters import frozen, parameter_groups, show_parameters
from .progress import Progress
from .record import SIGNAL, Record, Scalars
from .stages import Stage

UNMEASURED = "unmeasured"
"""In a checkpoint's state: hooks are due after its step, and have not run to their end."""


@dataclass(frozen=True)
class Hook:
    """Something to do every so many steps, such as an evaluation; what it returns is logged."""

    every_steps: int
    """Steps between two calls."""
    run: Callable[[int], Mapping[str, float]]
    """Given the number of steps done; may put the stage into evaluation mode, and draw random numbers."""
    quick: bool = False
    """It takes no time: no checkpoint is written before it."""


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
    best: Best | None = None
    """The best step by ``log.keep_best``, whose checkpoint is there."""


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
    """Train a stage from its newest checkpoint, if `checkpoints_of` it has one, to its end.

    A resumed run ends with the weights of an uninterrupted one, on a CPU bit for bit; a stage that had ended is
    loaded and left as it is. On Ctrl-C and SIGTERM the step is completed and a checkpoint written first. Before hooks
    that are not quick a checkpoint is written too; a run that ends before they have, is resumed with them. Several
    processes all call it, each with its own part of the samples: N train as one does whose batch is N times as large.

    Raises:
        ProclipError: a loss or gradient is not finite (the last good one stays), or a checkpoint or data do not fit.
        KeyboardInterrupt: on Ctrl-C.
        Preempted: on SIGTERM.
    """
    folder, total = checkpoints_of(run_dir, name), epochs * source.steps_per_epoch
    device, spread = next(stage.parameters()).device, parallel(stage, optim.parallel)
    trained, samples = spread.stage, source.batch_size * world_size()
    groups = parameter_groups(trained.groups(), optim, trained.layers_above())
    optimizer, scaler = build_optimizer(trained.groups(), optim, trained.layers_above()), build_scaler(optim, device)
    plan = {"stage": name, "global_batch": samples, "steps_per_epoch": source.steps_per_epoch, "total_steps": total}
    start, best, unmeasured, so_far = _resume(folder, plan, trained, optimizer, scaler)
    if is_main() and start < total:
        show_parameters(run_dir, name, groups)
    logger.start_stage(name, start)
    progress = Progress(name, start=start, total=total, samples_per_step=samples, plain_every=log.every_steps)
    checkpoints, interruption = Checkpoints(folder, keep=log.keep_checkpoints, best=best), Interruption()
    record = Record(
        name, total, source.steps_per_epoch, log.every_steps, scaler.is_enabled(), logger, progress, interruption,
        checkpoints, **so_far,
    )  # fmt: skip
    milestones = _Milestones(spread, optimizer, scaler, plan, record, hooks, log)
    trained.train()
    with progress, frozen(groups), interruption, checkpoints:
        if unmeasured:
            milestones.measure(start)
        for step, batch in enumerate(_batches(source, start, total, device), start + 1):
            lr = set_lr(optimizer, lr_at(step - 1, total, optim.warmup_steps))
            with comparing_sizes() if step == start + 1 else nullcontext():
                scalars = train_step(spread, batch, optimizer, scaler, optim, interruption.flag(device))
            record.add(step, lr, scalars)
            milestones.after(step)
        checkpoints.wait()
    spread.gather()
    return FitResult(total, start, record.seconds, record.metrics, checkpoints.best)


def checkpoints_of(run_dir: Path, name: str) -> Path:
    """Folder of a stage's checkpoints."""
    return run_dir / "checkpoints" / name


def train_step(
    spread: Parallel,
    batch: Any,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    optim: OptimConfig,
    flag: Tensor,
) -> Scalars:
    """One step of the optimiser; its scalars, and the interruption's flag with them. Nothing waits for the device."""
    optimizer.zero_grad(set_to_none=True)
    terms = backward(spread, batch, scaler)
    scaler.unscale_(optimizer)
    terms["grad_norm"] = clip_gradients(optimizer, optim.grad_clip)
    scalars = Scalars({**terms, SIGNAL: flag})  # before the step changes a parameter that is among them
    scaler.step(optimizer)
    scaler.update()
    spread.stage.after_step()
    return scalars


@dataclass(frozen=True)
class _Milestones:
    """What follows some steps: evaluations, checkpoints, the stop that a signal asks for."""

    spread: Parallel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    plan: Mapping[str, Any]
    record: Record
    hooks: Sequence[Hook]
    log: LogConfig

    def after(self, step: int) -> None:
        """Do what is due after a step; its scalars are settled first.

        Raises:
            ProclipError: they are not finite.
            KeyboardInterrupt, Preempted: a signal came.
        """
        record, checkpoints, interruption = self.record, self.record.checkpoints, self.record.interruption
        quick, slow = self._due(step, quick=True), self._due(step, quick=False)
        last, save = step == record.total, step % self.log.checkpoint_every_steps == 0
        if not (quick or slow or last or save or interruption.signal):
            return
        record.settle()
        self._run(quick, step)
        if slow or last or save or interruption.signal:
            state = {"finished": last, UNMEASURED: bool(slow), "scaler": self.scaler.state_dict(), **record.state()}
            checkpoints.save(step, self.spread.stage, self.optimizer, {**self.plan, **state})
        if interruption.signal:
            checkpoints.wait()
            interruption.stop(f"{record.name}: stopped after step {step} of {record.total}; its checkpoint is written")
        if slow:
            self.measure(step)

    def measure(self, step: int) -> None:
        """Run what takes its time after a step whose checkpoint is written, and note there what it found."""
        slow = self._due(step, quick=False)
        all_ran = len(slow) == sum(not hook.quick for hook in self.hooks)
        best = self._better(step, self._run(slow, step), all_ran=all_ran)
        self.record.checkpoints.amend(step, best, {UNMEASURED: False})

    def _due(self, step: int, *, quick: bool) -> list[Hook]:
        return [hook for hook in self.hooks if hook.quick == quick and step % hook.every_steps == 0]

    def _run(self, due: Sequence[Hook], step: int) -> dict[str, float]:
        """Run and log hooks: all that they found. Training goes on with the random numbers that it would have had."""
        found: dict[str, float] = {}
        device = next(self.spread.stage.parameters()).device
        for hook in due:
            with self.spread.gathered(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                metrics = hook.run(step)
            if metrics:
                self.record.logger.log(self.record.name, step, self.record.epoch(step), metrics)
            found |= metrics
            self.spread.stage.train()
        return found

    def _better(self, step: int, found: Mapping[str, float], *, all_ran: bool) -> Best | None:
        """The best step so far, this one or that before."""
        best, wanted = self.record.checkpoints.best, self.log.keep_best
        if not found or wanted is None:
            return best
        keys = [key for key in found if key == wanted or key.endswith(f"/{wanted}")]
        if len(keys) != 1 and all_ran:
            near = keys or difflib.get_close_matches(wanted, found, n=3, cutoff=0)
            what = "could be any of" if keys else "is no figure that was measured; near it:"
            raise ProclipError(f"log.keep_best: {wanted!r} {what} {', '.join(near)}")
        if len(keys) != 1 or math.isnan(value := found[keys[0]]):
            return best
        sign = 1 if self.log.best_is == "highest" else -1
        better = best is None or sign * value > sign * best.value
        return from_main(Best(keys[0], value, step) if better else best)


def _resume(
    folder: Path, plan: Mapping[str, Any], stage: Stage, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> tuple[int, Best | None, bool, dict[str, Any]]:
    """Load the newest checkpoint: steps done, best step, whether hooks are yet to run, state of the record.

    Without one: 0 and nothing.

    Raises:
        ProclipError: a checkpoint does not fit, or the processes do not read the same data.
    """
    check_alike(plan, "all must read the same data set")
    path = from_main(latest_checkpoint(folder) if is_main() else None)
    if path is None:
        part_generators()
        return 0, None, False, {}
    state = from_main(load_checkpoint(path, stage, optimizer))
    for key, wanted in plan.items():
        if state[key] != wanted:
            raise ProclipError(f"{path} has {key} {state[key]}, this run {wanted}; train it into another run folder")
    scaler.load_state_dict(state["scaler"])
    best = Best(**state["best"]) if state["best"] else None
    so_far = {name: state[name] for name in ("seconds", "metrics")}
    return state["step"], best, state.get(UNMEASURED, False), so_far


def _batches(source: BatchSource[Any], start: int, total: int, device: torch.device) -> Iterator[Any]:
    """All batches from step `start` on, over the epochs, on `device`.

    Raises:
        ProclipError: the source gave another number of batches than it announced.
    """
    done = start
    while done < total:
        epoch, skip = divmod(done, source.steps_per_epoch)
        for batch in source.epoch(epoch, skip):
            yield to_device(batch, device)
            done += 1
        if done != (epoch + 1) * source.steps_per_epoch:
            raise ProclipError(
                f"epoch {epoch} gave {done - epoch * source.steps_per_epoch} batches, not {source.steps_per_epoch}"
            )


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch dataclass with its tensors on `device`; the parts of one in parts go there as they are walked."""
    if device.type == "cpu":
        return batch
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    moved: dict[str, Any] = {name: _moved(t, device) for name, t in values.items() if isinstance(t, Tensor)}
    if isinstance(batch, MicroBatches):
        moved["parts"] = _OnDevice(batch.parts, device)
    return dataclasses.replace(batch, **moved)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; from page-locked memory to a GPU, or the copy would wait for the steps before it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True)
class _OnDevice:
    """Parts of a batch, moved one by one at each walk."""

    parts: Iterable[Any]
    device: torch.device

    def __iter__(self) -> Iterator[Any]:
        return (to_device(part, self.device) for part in self.parts)
