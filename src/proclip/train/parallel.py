"""A stage on several processes: whole on each of them (DDP) or in shards (FSDP2); on one process as it is.

`fit` asks for three things: the towers run through `encode`, so that the gradients of the processes are averaged while
the backward pass still computes others; `average` does the same for the few numbers that no tower holds; `gathered`
gives the stage that the caller knows its weights.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..distributed import all_reduce_mean, is_sharded, whole, world_size
from .stages import Embeds, Stage

RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
BUFFERS = "forward_sync_buffers" if RENAMED else "broadcast_buffers"
"""DDP's setting for sending buffers before every pass; before torch 2.13 it has the second name."""


class Parallel:
    """A stage on one process.

    Args:
        stage: to train.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        """What is trained; its state dict and groups are those of the stage that was given."""

    def encode(self, batch: Any) -> Embeds:
        """`Stage.encode`, whose backward pass leaves the mean over processes as gradients."""
        return self.stage.encode(batch)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Around `encode` and its backward pass: gradients stay this process's own and add up.

        The next pass outside averages what has added up. So of the passes of one step all but the last belong inside.
        """
        yield

    def average(self) -> None:
        """After the last backward pass of a step: average the gradients that `encode` has no part in."""

    def gather(self) -> None:
        """Give the stage that the caller knows the weights that were trained, and its place on the device."""

    def release(self) -> None:
        """Take that place back, for training to go on."""

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the block the given stage is what was trained so far."""
        self.gather()
        yield
        self.release()


class Replicated(Parallel):
    """A stage that every process has whole; gradients are averaged in buckets during the backward pass (DDP).

    Parameters of the stage itself, the temperature, get gradients from the objective and not from the towers: DDP,
    which waits for every parameter that it knows, is not told of them. A tower may have parameters without use; DDP
    then keeps its first buckets, so that sums are rounded alike before and after a run is resumed.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._own = list(stage.parameters(recurse=False))
        self._towers: DistributedDataParallel | None = None

    def _replicas(self) -> DistributedDataParallel:
        """Made when it is first needed: by then it is known which parameters get no gradient."""
        if self._towers is None:
            self._towers = self._build()
        return self._towers

    def _build(self) -> DistributedDataParallel:
        device = next(self.stage.parameters()).device
        buffers: Any = {BUFFERS: False}  # nothing here changes them
        return DistributedDataParallel(
            _Towers(self.stage), device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True,
            find_unused_parameters=True, **buffers,
        )  # fmt: skip

    def encode(self, batch: Any) -> Embeds:
        """Through DDP."""
        embeds: Embeds = self._replicas()(batch)
        return embeds

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """DDP's own."""
        with self._replicas().no_sync():
            yield

    def average(self) -> None:
        """Of the stage's own parameters."""
        _average(self._own)


class _Towers(nn.Module):
    """The modules of a stage, called as its `encode`."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.parts = nn.ModuleList(stage.children())
        self.idle = nn.Parameter(torch.zeros(1, device=next(stage.parameters()).device))
        """Without use: DDP, asked to look for such parameters, warns where it finds none."""
        self._encode = stage.encode

    def forward(self, batch: Any) -> Embeds:
        """`Stage.encode`."""
        return self._encode(batch)


class Sharded(Parallel):
    """A stage of which every process keeps an N-th of each block: weights, gradients, moments and EMA teacher (FSDP2).

    A block is gathered for the time it computes. The given stage waits on the CPU until `gathered`.
    """

    def __init__(self, stage: Stage) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        device = next(stage.parameters()).device
        self._given, self._device = stage.cpu(), device
        super().__init__(copy.deepcopy(stage))
        mesh = init_device_mesh(device.type, (world_size(),))
        for module in self.stage.children():
            for block in getattr(module, "blocks", ()):
                fully_shard(block, mesh=mesh)
            fully_shard(module, mesh=mesh, reshard_after_forward=True)  # what is used next is its shard
        self.stage.to(device)
        self._modules = [module for module in self.stage.children() if isinstance(module, FSDPModule)]
        self._own = list(self.stage.parameters(recurse=False))

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients of whole blocks add up: they take the memory that they would without shards."""
        for module in self._modules:
            module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            for module in self._modules:
                module.set_requires_gradient_sync(True)

    def average(self) -> None:
        """Of the stage's own parameters."""
        _average(self._own)

    @torch.no_grad()
    def gather(self) -> None:
        """One tensor after the other."""
        given = self._given.state_dict()
        for name, tensor in self.stage.state_dict().items():
            given[name].copy_(whole(tensor))
        self._given.to(self._device)

    def release(self) -> None:
        """To the CPU."""
        self._given.cpu()


def parallel(stage: Stage, how: Literal["ddp", "fsdp"]) -> Parallel:
    """A stage as the processes train it; `how` says nothing on one process."""
    if world_size() == 1:
        return Parallel(stage)
    return Sharded(stage) if how == "fsdp" else Replicated(stage)


def _average(parameters: list[nn.Parameter]) -> None:
    """Make the gradients of a few numbers the means over processes, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    if gradients:
        means = all_reduce_mean(torch.stack(gradients))
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean)
