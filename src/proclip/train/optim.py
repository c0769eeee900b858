"""AdamW with parameter groups, the learning rate's course, gradient clipping and loss scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..config import OptimConfig
from ..distributed import all_reduce_sum, is_sharded, local
from ..errors import ProclipError
from .parameters import parameter_groups


def build_optimizer(
    groups: Mapping[str, Sequence[tuple[str, nn.Parameter]]],
    config: OptimConfig,
    layers_above: Mapping[str, int] | None = None,
) -> torch.optim.AdamW:
    """AdamW over named parameters, each with its peak learning rate, without those that a rule freezes.

    Args:
        groups: trainable parameters by group name, as `Stage.groups` gives them.
        config: of the optimiser.
        layers_above: for layer decay, as `Stage.layers_above` gives them.

    Raises:
        ProclipError: what `parameter_groups` refuses.
    """
    param_groups = []
    for entry in parameter_groups(groups, config, layers_above):
        if not entry.frozen:
            rates = {"lr": entry.lr, "peak_lr": entry.lr, "weight_decay": entry.weight_decay}
            param_groups.append({"params": entry.named, "name": entry.group, **rates})
    # fused: one pass over each tensor on a CPU, one kernel for many on a GPU (benchmarks/optimizer.py)
    return torch.optim.AdamW(param_groups, betas=config.betas, eps=config.eps, fused=True)


def named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """The optimiser's parameters by name."""
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def lr_at(step: int, total: int, warmup: int) -> float:
    """The learning rate of a step as a share of its peak: linear warm-up, then cosine decay to zero (Table 8).

    Args:
        step: steps done before this one, from 0.
        total: steps of the stage.
        warmup: steps of warm-up; step `warmup` is the first at the peak.

    Returns:
        in [0, 1]; 0 is reached at ``step == total``, that is after the last step.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def set_lr(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Set every group to `share` of its peak.

    Returns:
        the largest of the groups' learning rates, for the log.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
    return float(max(group["lr"] for group in optimizer.param_groups))


def build_scaler(config: OptimConfig, device: torch.device) -> torch.amp.GradScaler:
    """The loss scaler that float16 needs; it changes nothing under float32 and bfloat16.

    Raises:
        ProclipError: float16 on a device without it.
    """
    half = config.autocast == "float16"
    if half and device.type != "cuda":
        raise ProclipError(f"optim.autocast = 'float16' needs a CUDA device, this is {device.type}; use 'bfloat16'")
    return torch.amp.GradScaler(device.type, enabled=half)


@torch.no_grad()
def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float | None) -> Tensor:
    """Scale the gradients so that their global norm is at most `max_norm`; None leaves them as they are.

    Of gradients that are sharded every process scales its part, by the norm of the whole.

    Returns:
        the global norm before, a scalar.
    """
    gradients = [p.grad for p in named_parameters(optimizer).values() if p.grad is not None]
    shards = [local(g) for g in gradients if is_sharded(g)]
    norm = torch.nn.utils.get_total_norm([g for g in gradients if not is_sharded(g)])
    if shards:
        squares = all_reduce_sum(torch.nn.utils.get_total_norm(shards).square())
        norm = (norm.square() + squares).sqrt()
    if max_norm is not None:
        torch._foreach_mul_([local(g) for g in gradients], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
