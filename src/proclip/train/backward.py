"""The gradients of one batch: in one piece, or part by part in the memory of one part (cached gradients)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..data.batches import MicroBatches, PairIds
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
    embeds, targets, ids, states = _encode_all(stage, batch)
    terms = _differentiate(stage.objective(embeds, targets, ids), scaler)
    gradients = {name: leaf.grad for name, leaf in embeds.items() if leaf.grad is not None}
    if not any(p.requires_grad for tower in stage.children() for p in tower.parameters()):
        return terms  # nothing but the objective's own parameters is trained
    after, start = _random_state(stage), 0
    for place, (part, state) in enumerate(zip(batch.parts, states, strict=True), 1):
        _set_random_state(stage, state)
        with spread.no_sync() if place < len(states) else nullcontext():
            again = spread.encode(part)
            end = start + len(next(iter(again.values())))
            given = {name: gradients[name][start:end] for name, tensor in again.items() if tensor.requires_grad}
            torch.autograd.backward([again[name] for name in given], list(given.values()))
        start = end
    _set_random_state(stage, after)
    return terms


def _differentiate(terms: dict[str, Tensor], scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    scaler.scale(terms["loss"]).backward()  # type: ignore[no-untyped-call]
    return {name: term.detach() for name, term in terms.items()}


def _encode_all(stage: Stage, batch: MicroBatches[Any]) -> tuple[Embeds, Embeds, PairIds | None, list[list[Tensor]]]:
    """Embeds of the whole batch, as leaves that take a gradient; targets; ids of pairs; random states before parts."""
    states, embeds, targets, ids = [], [], [], []
    for part in batch.parts:
        states.append(_random_state(stage))
        with torch.no_grad():
            embeds.append(stage.encode(part))
        targets.append(stage.targets(part))
        ids.append({name: getattr(part, name) for name in ("image_ids", "text_ids") if hasattr(part, name)})
    leaves = {name: tensor.requires_grad_() for name, tensor in _joined(embeds).items()}
    return leaves, _joined(targets), PairIds(**_joined(ids)) if ids[0] else None, states


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
