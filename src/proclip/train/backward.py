"""The gradients of one batch: in one piece, or part by part in the memory of one part (cached gradients)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..data.batches import MicroBatches
from .parallel import Parallel
from .stages import Embeds, Stage


def backward(spread: Parallel, batch: Any, scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """Leave the gradients of the global batch's loss, times the loss scale, in the stage's parameters.

    Every process must call it with a batch of as many parts; while the last of them is differentiated, the gradients
    are averaged over the processes.

    A batch in parts gives the loss and the gradients that the whole would give (GradCache, arXiv 2101.06983). The
    loss is a function of the embeds alone, so its gradient passes through them: (1) every part is encoded without
    gradient; (2) the objective of all embeds gives their gradients, and those of the parameters that it holds itself;
    (3) every part is encoded again, with the random numbers of the first time, and passes its embeds' gradients on.
    At no time are there activations of more than one part.

    Args:
        spread: what is trained, in training mode.
        batch: what `Stage.loss` takes, or `MicroBatches` of it.
        scaler: of the loss.

    Returns:
        the terms of `Stage.objective`, detached, not scaled.
    """
    terms = (
        _in_parts(spread, batch, scaler)
        if isinstance(batch, MicroBatches)
        else _differentiate(spread.stage.loss(batch, spread.encode), scaler)
    )
    spread.average()
    return terms


def _in_parts(spread: Parallel, batch: MicroBatches[Any], scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    stage = spread.stage
    embeds, targets, states = _encode_all(stage, batch)
    terms = _differentiate(stage.objective(embeds, targets, batch), scaler)
    gradients = {name: leaf.grad for name, leaf in embeds.items() if leaf.grad is not None}
    after, start = _random_state(stage), 0
    for place, (part, state) in enumerate(zip(batch.parts, states, strict=True), 1):
        _set_random_state(stage, state)
        with spread.no_sync() if place < len(states) else nullcontext():
            again = {name: tensor for name, tensor in spread.encode(part).items() if tensor.requires_grad}
            end = start + len(next(iter(again.values())))
            torch.autograd.backward(list(again.values()), [gradients[name][start:end] for name in again])
        start = end
    _set_random_state(stage, after)
    return terms


def _differentiate(terms: dict[str, Tensor], scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    scaler.scale(terms["loss"]).backward()  # type: ignore[no-untyped-call]
    return {name: term.detach() for name, term in terms.items()}


def _encode_all(stage: Stage, batch: MicroBatches[Any]) -> tuple[Embeds, Embeds, list[list[Tensor]]]:
    """Embeds of the whole batch, as leaves that take a gradient, its targets, and the random state before each part."""
    states, embeds, targets = [], [], []
    for part in batch.parts:
        states.append(_random_state(stage))
        with torch.no_grad():
            embeds.append(stage.encode(part))
        targets.append(stage.targets(part))
    leaves = {name: tensor.requires_grad_() for name, tensor in _joined(embeds).items()}
    return leaves, _joined(targets), states


def _joined(parts: list[Embeds]) -> Embeds:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _random_state(stage: Stage) -> list[Tensor]:
    """Of torch's generators that dropout draws from: the CPU's, and that of the stage's GPU."""
    device = next(stage.parameters()).device
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(stage: Stage, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    for cuda in state[1:]:
        torch.cuda.set_rng_state(cuda, next(stage.parameters()).device)
