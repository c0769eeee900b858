"""Checkpoints: everything that a run needs to go on as if it had never stopped, in safetensors and JSON.

``step-00000200/`` holds ``stage.safetensors`` (weights, EMA teacher), ``optimizer.safetensors`` (moments by parameter
*name*), ``rng.safetensors`` (torch's generators of every process) and ``state.json`` (step, data position, size and
SHA-256 of each file). Nothing in it but the generators depends on the number of processes, or on how they share the
stage. A folder gets its name only when all of it is on disk; one that is damaged all the same is passed over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..distributed import barrier, from_all, is_main, rank, sharded_as, whole, world_size
from ..errors import ProclipError
from ..files import read_json, write_json
from ..models.proclip import load_weights
from ..seeding import derive_seed
from .optim import named_parameters

FORMAT_VERSION = 2
STATE = "state.json"
WEIGHTS = "stage.safetensors"


@dataclass(frozen=True)
class Best:
    """The best step of a stage so far."""

    key: str
    """The figure that says so."""
    value: float
    """Of that figure."""
    step: int
    """Steps done."""


class Checkpoints:
    """The checkpoints of a stage: written by a thread while training goes on; the newest ones stay, and the best.

    Use it as a context manager: leaving it waits for what is being written. Every process calls `save` and `wait`, the
    main one writes.

    Args:
        folder: of the stage's checkpoints.
        keep: how many of the newest stay.
        best: whose checkpoint stays too.
    """

    def __init__(self, folder: Path, *, keep: int = 2, best: Best | None = None) -> None:
        self.folder, self.keep, self.best = folder, keep, best
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}

    def save(self, step: int, stage: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint: when this returns, what is saved may change, and `wait` tells when it is there.

        It first waits for the one before, so that at most one is being written.

        Args:
            step: steps done.
            stage: its state dict is saved.
            optimizer: made by `build_optimizer`, whose parameters have names.
            extra: JSON values that `load_checkpoint` gives back.

        Raises:
            OSError: the one before could not be written.
        """
        self._join()
        parts = {
            "stage": stage.state_dict(),
            "optimizer": _optimizer_tensors(optimizer),
            "rng": _rng_of_all_processes(),
        }
        copies = {f"{part}.safetensors": self._copy(part, tensors) for part, tensors in parts.items()}
        if not is_main():
            return
        state = {"format_version": FORMAT_VERSION, "step": step, "processes": world_size(), "best": _values(self.best)}
        state |= extra
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()  # the copies are there
        self._writing = self._thread.submit(self._write, step, copies, json.loads(json.dumps(state)), self.best)

    def wait(self) -> None:
        """Until the last checkpoint is on disk, for every process.

        Raises:
            OSError: it could not be written.
        """
        self._join()
        barrier()

    def amend(self, step: int, best: Best | None, extra: Mapping[str, Any]) -> None:
        """Change what the newest checkpoint says of the best step and some extra values; waits until it is there.

        Raises:
            OSError: it could not be written.
        """
        self._join()
        self.best = best
        if is_main():
            path = checkpoint_path(self.folder, step) / STATE
            write_json(path, {**read_json(path), "best": _values(best), **extra})

    def latest(self) -> Path | None:
        """The newest whole checkpoint, what is being written awaited."""
        self._join()
        return latest_checkpoint(self.folder)

    def _join(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _copy(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies on the CPU, in memory that serves every checkpoint again, page-locked for a GPU's tensors.

        Of sharded tensors one at a time is gathered by all processes; the main one alone makes copies.
        """
        copies = {}
        for name, own in tensors.items():
            tensor = whole(own.detach())
            if not is_main():
                continue
            copy = self._copies.get(f"{part}/{name}")
            if copy is None or copy.shape != tensor.shape:
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self._copies[f"{part}/{name}"] = copy
            copies[name] = copy.copy_(tensor, non_blocking=True)
        return copies

    def _write(
        self, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], best: Best | None
    ) -> None:
        draft, target = self.folder / f".draft-{step:08d}", checkpoint_path(self.folder, step)
        for leftover in self.folder.glob(".draft-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, tensors in parts.items():
            _save(draft / name, tensors)
        files = {file.name: _facts(file) for file in sorted(draft.iterdir())}
        (draft / STATE).write_text(json.dumps({**state, "files": files}, indent=2) + "\n")
        for file in (*draft.iterdir(), draft):
            _sync(file)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one, passed over when the run was resumed
        draft.replace(target)
        _sync(self.folder)
        there = _steps(self.folder)
        kept = [*[number for number in there if number <= step][-self.keep :], *([best.step] if best else [])]
        for number, old in there.items():  # later ones are of a course that was given up
            if number not in kept:
                shutil.rmtree(old)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown()  # waits
        if kind is None:
            self._join()


def _values(best: Best | None) -> dict[str, Any] | None:
    return None if best is None else dataclasses.asdict(best)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Folder of a step's checkpoint."""
    return folder / f"step-{step:08d}"


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a stage, None if there is none; a line tells which damaged ones are passed over.

    Every file of it is read, to compare its SHA-256.
    """
    for path in reversed(_steps(folder).values()):
        damage = _damage(path)
        if damage is None:
            return path
        print(f"{path} is passed over: {damage}", file=sys.stderr, flush=True)
    return None


def load_checkpoint(path: Path, stage: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put stage, optimiser and torch's generators back to where they were.

    On another number of processes than wrote it (a line says so) the processes that are new get generators of their
    own: the order of the data is the same, dropout is not.

    Returns:
        ``state.json``: step, processes and the values that were saved as `extra`.

    Raises:
        ProclipError: another format, a damaged file, or weights or moments that do not fit; the message names what.
    """
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    if state["format_version"] != FORMAT_VERSION:
        raise ProclipError(f"{path}: format_version {state['format_version']}, this code reads {FORMAT_VERSION}")
    if state["processes"] != world_size() and is_main():
        now = "is 1" if world_size() == 1 else f"are {world_size()}"
        line = f"{path} was written by {state['processes']} processes, now there {now}: same data, same order"
        print(line, file=sys.stderr, flush=True)
    load_stage(path, stage)
    _restore_optimizer(optimizer, _load(path / "optimizer.safetensors"), path / "optimizer.safetensors")
    _restore_rng(_load(path / "rng.safetensors"), state["step"])
    return state


def load_stage(path: Path, stage: nn.Module) -> None:
    """The weights of a checkpoint alone.

    Raises:
        ProclipError: the file is damaged or the weights do not fit.
    """
    own = stage.state_dict()
    saved = {
        name: sharded_as(tensor, own[name]) if name in own and own[name].shape == tensor.shape else tensor
        for name, tensor in _load(path / WEIGHTS).items()
    }
    load_weights(stage, saved, str(path / WEIGHTS))


def part_generators() -> None:
    """Give every process but the first generators of its own, for dropout: all of them began with the same seed."""
    if rank() > 0:
        torch.manual_seed(derive_seed("process", rank(), torch.initial_seed()))


def _steps(folder: Path) -> dict[int, Path]:
    """Folders of checkpoints by step, in order, half-deleted ones among them."""
    named = [(re.fullmatch(r"step-(\d{8,})", path.name), path) for path in folder.glob("step-*")]
    return dict(sorted((int(match[1]), path) for match, path in named if match))


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files; None: nothing."""
    try:
        state = json.loads((path / STATE).read_text())
        if state["format_version"] == FORMAT_VERSION:
            changed = [name for name, facts in state["files"].items() if _facts(path / name) != facts]
            return f"{', '.join(changed)} changed since it was written" if changed else None
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{STATE} is damaged"
    return None  # `load_checkpoint` says that it is of another version


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(dict(tensors), path)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ProclipError(f"{path} is damaged ({error}); delete its folder to go on from an earlier one") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``<what>/<parameter name>`` -> tensor, what being exp_avg, exp_avg_sq and step."""
    return {
        f"{what}/{name}": value
        for name, parameter in named_parameters(optimizer).items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], source: Path) -> None:
    parameters = named_parameters(optimizer)
    for key, tensor in tensors.items():
        what, _, name = key.partition("/")
        if name not in parameters:
            raise ProclipError(f"{source}: {key} is of a parameter that this stage does not train")
        parameter = parameters[name]
        if what != "step" and tensor.shape != parameter.shape:
            raise ProclipError(f"{source}: {key} has shape {tuple(tensor.shape)}, wanted {tuple(parameter.shape)}")
        like = parameter if what != "step" else torch.empty(0, device=parameter.device)
        optimizer.state[parameter][what] = sharded_as(tensor, like)


def _rng_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _rng_of_all_processes() -> dict[str, Tensor]:
    """``<rank>/<device>`` -> generator state."""
    everyone = enumerate(from_all(_rng_states()))
    return {f"{number}/{device}": state for number, states in everyone for device, state in states.items()}


def _restore_rng(states: Mapping[str, Tensor], step: int) -> None:
    own = states.get(f"{rank()}/cpu")
    if own is None:
        torch.manual_seed(derive_seed("resumed", step, rank()))
        return
    torch.set_rng_state(own)
    cuda = states.get(f"{rank()}/cuda")
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
