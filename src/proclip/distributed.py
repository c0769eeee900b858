"""Several processes as one: the identity on a single process, so that the maths reads as for one device.

What makes N processes equal to one. Let every process r compute a loss L_r from gathered embeddings, and let the
gradients of parameters be averaged over processes. `gather`'s backward pass is the exact adjoint of its forward pass:
process r receives ``sum_q dL_q/dx_r``, the sum over all processes. So the averaged gradient is that of
``(1/N) sum_r L_r`` with respect to the shared parameters. In this package L_r is the share of process r's rows in the
loss L over the global batch, scaled so that the mean of all shares is L (`proclip.losses`, ``rows``); the averaged
gradient is then that of L, as on one process, for parameters before the gather (towers, adapter) and after it
(logit_scale) alike.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.rendezvous import rendezvous

from .errors import ProclipError, one_line

T = TypeVar("T")
_COMPARING = ContextVar("comparing", default=False)
logger = logging.getLogger(__name__)
PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: one may have work to do for all. One that dies ends the job at once."""
SPEAKING = timedelta(seconds=10)
"""How long processes that fail wait for the first one that did to say why."""


def _on() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _on() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _on() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def from_main(value: T) -> T:
    """What the main process has, on every process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def from_all(value: T) -> list[T]:
    """What each process has, in the order of ranks, on every process."""
    values = [value]
    if world_size() > 1:
        values = values * world_size()
        dist.all_gather_object(values, value)
    return values


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block, then all others do: they find what it made."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


class AnotherFailed(ProclipError):
    """This process ends since another one has failed, which says why."""


@contextmanager
def launched() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did, and leave them at the end.

    Of several processes that fail, the first raises its error; the others, whose errors follow from that one or say
    the same, exit with status 1 and no word. One that was stopped or killed says nothing here: the first that misses it
    does.

    Raises:
        ProclipError: there are more processes than GPUs on this machine, or another process has ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or _on():
        yield
        return
    store, number, world = next(rendezvous("env://", timeout=PATIENCE))
    failures = dist.PrefixStore("proclip/failures", store)  # type: ignore[attr-defined]
    try:
        device = _own_gpu()
        backend = "cpu:gloo,cuda:nccl" if device else "gloo"
        meeting = dist.PrefixStore("proclip/group", store)  # type: ignore[attr-defined]
        dist.init_process_group(
            backend, store=meeting, rank=number, world_size=world, timeout=PATIENCE, device_id=device
        )
        yield
    except Exception as error:
        if isinstance(error, AnotherFailed) or failures.add("count", 1) > 1:
            logger.info("process %d failed after another one", number, exc_info=True)
            with suppress(RuntimeError):  # torchrun stops all processes when one has ended: let the first speak before
                failures.wait(["said"], SPEAKING)
            raise SystemExit(1) from None
        atexit.register(failures.set, "said", "yes")
        if _misses_another(error):
            raise ProclipError(
                "another process of this job was stopped or killed (out of memory, preempted?): the same command goes "
                f"on from what is written; {one_line(error, 120)}"
            ) from error
        raise
    finally:
        if _on():
            dist.destroy_process_group()


def _misses_another(error: Exception) -> bool:
    """Whether it is what gloo, NCCL or their store say when a connection has ended."""
    ours = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    return ours and any(word in str(error).lower() for word in ("connection", "recv", "remote process"))


def _own_gpu() -> torch.device | None:
    """The GPU of this process, made the current one; None on a machine without."""
    if not torch.cuda.is_available():
        return None
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ProclipError(f"this is process {local} of a machine with {count} GPU(s): give --nproc-per-node {count}")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def gather(tensor: Tensor) -> Tensor:
    """All processes' rows, in the order of ranks, with gradient: [b, ...] -> [n, ...], n = b * world_size.

    Every process must call it, and with a floating tensor that needs a gradient every process must run the backward
    pass, which is a collective operation too. Their tensors must be of one size; see `comparing_sizes`.

    Raises:
        ProclipError: within `comparing_sizes`, they are not.
    """
    if world_size() == 1:
        return tensor
    if _COMPARING.get():
        _check_even(tensor)
    gathered: Tensor = _Gather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered


@contextmanager
def comparing_sizes() -> Iterator[None]:
    """Within it every `gather` compares the processes' sizes first, which waits for the device.

    For the first step of training: the order of the data gives all later batches the same sizes. Every process must
    enter it for the same calls.
    """
    token = _COMPARING.set(True)
    try:
        yield
    finally:
        _COMPARING.reset(token)


def share(count: int) -> slice:
    """Which of `count` things, one after the other, this process does; the shares are as equal as can be."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def own_rows(count: int) -> slice | None:
    """Where this process's `count` rows are among the gathered; None, which is all, on one process."""
    return slice(rank() * count, (rank() + 1) * count) if world_size() > 1 else None


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean over processes of a floating tensor of one shape, without gradient."""
    return all_reduce_sum(tensor) / world_size()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over processes of a tensor of one shape, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def check_alike(values: Mapping[str, Any], why: str) -> None:
    """Compare what processes must agree on.

    Args:
        values: JSON values by name.
        why: what it means if they do not.

    Raises:
        ProclipError: on every process, if a value differs anywhere; the message names it.
    """
    everyone = from_all(dict(values))
    for name in values:
        if len({repr(one.get(name)) for one in everyone}) > 1:
            found = ", ".join(str(one.get(name)) for one in everyone)
            raise ProclipError(f"the processes differ in {name} (by rank: {found}): {why}")


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of it alone (FSDP's parameters, their gradients and moments)."""
    if world_size() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered if it is sharded: then every process must call it."""
    everything: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return everything


def sharded_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that every process has, on the device of `like`, and sharded if `like` is."""
    if not is_sharded(like):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)


def _check_even(tensor: Tensor) -> None:
    """Collective operations on uneven tensors hang or mix rows up, so the sizes are compared first."""
    rows = len(tensor) if tensor.ndim else 0
    sizes = _all_gather(torch.tensor([[rows, tensor.numel()]], device=tensor.device))
    (first, *others) = [tuple(size) for size in sizes.tolist()]
    if rows == 0 or any(other != first for other in others):
        found = ", ".join(f"{rows} rows of {numel} numbers in all" for rows, numel in (first, *others))
        raise ProclipError(f"gather needs the same number of rows on every process, at least one; by rank: {found}")


def _all_gather(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all_gather(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        parts = list(grad.contiguous().chunk(world_size()))
        total = torch.empty_like(parts[0])
        dist.reduce_scatter(total, parts)
        return total
