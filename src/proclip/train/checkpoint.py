"""Checkpoints: everything that a run needs to go on as if it had never stopped, in safetensors and JSON.

``step-00000200/`` holds ``stage.safetensors`` (weights, EMA teacher), ``optimizer.safetensors`` (moments by parameter
*name*), ``rng.safetensors`` (torch's generators of every process) and ``state.json`` (step, data position, sizes of
the files). Nothing in it but the generators depends on the number of processes, or on how they shared the stage. A folder gets its name only when all of it is on disk; one that is damaged all the same is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..distributed import barrier, is_main, rank, sharded_as, whole, world_size
from ..errors import ProclipError
from ..models.proclip import load_weights
from ..seeding import derive_seed
from .optim import named_parameters

FORMAT_VERSION = 1
STATE = "state.json"


def save_checkpoint(
    folder: Path,
    step: int,
    stage: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: Mapping[str, Any],
    *,
    keep: int = 2,
) -> Path:
    """Write a checkpoint atomically and delete all but the `keep` newest. Every process calls it, one writes.

    Args:
        folder: of the stage's checkpoints.
        step: steps done.
        stage: its state dict is saved.
        optimizer: made by `build_optimizer`, whose parameters have names.
        extra: JSON values that `load_checkpoint` gives back.
        keep: how many checkpoints stay.

    Returns:
        the checkpoint's folder.
    """
    target = folder / f"step-{step:08d}"
    rng = _rng_of_all_processes()
    weights, moments = _on_main(stage.state_dict()), _on_main(_optimizer_tensors(optimizer))
    if is_main() and not _is_whole(target):  # a whole one of this step is this very state
        draft = folder / f".draft-{step:08d}"
        for leftover in (target, *folder.glob(".draft-*")):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir(parents=True)
        _save(draft / "stage.safetensors", weights)
        _save(draft / "optimizer.safetensors", moments)
        _save(draft / "rng.safetensors", rng)
        sizes = {file.name: file.stat().st_size for file in sorted(draft.iterdir())}
        state = {"format_version": FORMAT_VERSION, "step": step, "processes": world_size(), "files": sizes, **extra}
        (draft / STATE).write_text(json.dumps(state, indent=2) + "\n")
        for file in (*draft.iterdir(), draft):
            _sync(file)
        draft.replace(target)
        _sync(folder)
        for old in _steps(folder)[:-keep]:
            shutil.rmtree(old)
    barrier()
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a stage, None if there is none; half-written ones are passed over."""
    return next((path for path in reversed(_steps(folder)) if _is_whole(path)), None)


def load_checkpoint(path: Path, stage: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put stage, optimiser and torch's generators back to where they were.

    On another number of processes than wrote it, generators start anew, from what the first process's was.

    Returns:
        ``state.json``: step, processes and the values that were saved as `extra`.

    Raises:
        ProclipError: another format, a damaged file, or weights or moments that do not fit; the message names what.
    """
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    if state["format_version"] != FORMAT_VERSION:
        raise ProclipError(f"{path}: format_version {state['format_version']}, this code reads {FORMAT_VERSION}")
    own = stage.state_dict()
    weights = {
        name: sharded_as(tensor, own[name]) if name in own and own[name].shape == tensor.shape else tensor
        for name, tensor in _load(path / "stage.safetensors").items()
    }
    load_weights(stage, weights, str(path / "stage.safetensors"))
    _restore_optimizer(optimizer, _load(path / "optimizer.safetensors"), path / "optimizer.safetensors")
    _restore_rng(_load(path / "rng.safetensors"), alike=state["processes"] == world_size())
    return state


def part_generators() -> None:
    """Give every process but the first a generator of its own, for dropout: all of them began with the same seed."""
    if rank() > 0:
        _reseed(torch.get_rng_state())


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _is_whole(path: Path) -> bool:
    """Whether `state.json` is there and every file it names has its size."""
    try:
        sizes = json.loads((path / STATE).read_text())["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file(dict(tensors), path)


def _on_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU for the main process, nothing for the others; every process calls it.

    Copies, for safetensors refuses tensors that share memory, as tied weights do.
    """
    copies = {}
    for name, tensor in tensors.items():
        everything = whole(tensor.detach())
        if is_main():
            copies[name] = everything.to("cpu", copy=True).contiguous()
    return copies


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
        optimizer.state[parameter][what] = (
            tensor.to(parameter.device) if what == "step" else sharded_as(tensor, parameter)
        )


def _rng_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _rng_of_all_processes() -> dict[str, Tensor]:
    """``<rank>/<device>`` -> generator state."""
    everyone: list[Any] = [_rng_states()]
    if world_size() > 1:
        everyone = [None] * world_size()
        torch.distributed.all_gather_object(everyone, _rng_states())
    return {f"{number}/{device}": state for number, states in enumerate(everyone) for device, state in states.items()}


def _restore_rng(states: Mapping[str, Tensor], alike: bool) -> None:
    if not alike:
        _reseed(states["0/cpu"])
        return
    torch.set_rng_state(states[f"{rank()}/cpu"])
    cuda = states.get(f"{rank()}/cuda")
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)


def _reseed(state: Tensor) -> None:
    """Start this process's generators with a seed that depends on a generator's state and on the process alone."""
    digest = hashlib.sha256(state.numpy().tobytes()).hexdigest()
    torch.manual_seed(derive_seed(digest, rank(), world_size()))
