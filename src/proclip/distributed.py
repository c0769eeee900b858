"""Several processes as one: the identity on a single process, so that the maths reads as for one device.

What makes N processes equal to one. Let every process r compute a loss L_r from gathered embeddings, and let the
gradients of parameters be averaged over processes afterwards (DDP, or `all_reduce_mean`). `gather`'s backward pass is
the exact adjoint of its forward pass: process r receives ``sum_q dL_q/dx_r``, the sum over all processes. So the
averaged gradient is that of ``(1/N) sum_r L_r`` with respect to the shared parameters. In this package all L_r are the
same L over the global batch; the average is then the gradient of L, as on one process, for parameters before the gather
(towers, adapter) and after it (logit_scale) alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .errors import ProclipError

T = TypeVar("T")


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


@contextmanager
def launched() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did, and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or _on():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def gather(tensor: Tensor) -> Tensor:
    """All processes' rows, in the order of ranks, with gradient: [b, ...] -> [n, ...], n = b * world_size.

    Every process must call it, and with a floating tensor that needs a gradient every process must run the backward
    pass, which is a collective operation too.

    Raises:
        ProclipError: the processes' tensors are not of one size.
    """
    if world_size() == 1:
        return tensor
    _check_even(tensor)
    gathered: Tensor = _Gather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean over processes of a floating tensor of one shape, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    mean = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(mean)
    return mean / world_size()


def _check_even(tensor: Tensor) -> None:
    """Collective operations on uneven tensors hang or mix rows up, so the sizes are compared first."""
    sizes = [torch.empty(2, dtype=torch.int64, device=tensor.device) for _ in range(world_size())]
    rows = len(tensor) if tensor.ndim else 0
    dist.all_gather(sizes, torch.tensor([rows, tensor.numel()], device=tensor.device))
    (first, *others) = [tuple(size.tolist()) for size in sizes]
    if rows == 0 or any(other != first for other in others):
        found = ", ".join(f"{rows} rows of {numel} numbers in all" for rows, numel in (first, *others))
        raise ProclipError(f"gather needs the same number of rows on every process, at least one; by rank: {found}")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]
