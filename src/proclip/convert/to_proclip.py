"""An official checkpoint to a `ProCLIP` folder: names, shapes and values are all checked before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import EmbedderConfig
from ..errors import ProclipError
from ..models.adapter import Adapter
from ..models.proclip import MAX_LOGIT_SCALE, ProCLIP
from .facts import Hints, Shapes, explain_unknown, read_adapter
from .reading import Checkpoint, some
from .rope import REFERENCE_GRID, rope_tables
from .rules import Rule
from .towers import FoundTower, find_tower

__all__ = ["Hints", "Plan", "plan", "write_proclip"]


@dataclass(frozen=True)
class Plan:
    """A checkpoint that was understood: which tensor goes where, names and shapes checked."""

    checkpoint: Checkpoint
    rules: list[Rule]
    tower: FoundTower
    adapter: Adapter
    """On the meta device."""
    ignored: list[str]
    """Keys left out because the user said so."""

    def facts(self) -> list[tuple[str, str]]:
        """The layout, one row a fact."""
        tower, adapter = self.tower, self.adapter
        weights = [tensor for tensor in self.checkpoint.tensors.values() if tensor.is_floating_point()]
        rows = [
            ("stored as", self.checkpoint.form),
            ("precision", ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights}))),
            ("image tower", tower.name),
            ("width x depth", f"{tower.width} x {tower.depth}, {tower.heads} heads ({tower.heads_source})"),
            ("MLP", f"{tower.hidden} ({tower.hidden / tower.width:.4g} x width), {tower.activation}"),
            ("patch, image size", f"{tower.patch}, {tower.preprocess.size} pixels"),
            ("shared space", f"{adapter.embed_dim} dimensions"),
            ("adapter", f"N = {adapter.config.num_blocks}, r = {adapter.config.expansion}"),
            ("LLM", f"{adapter.llm_dim} dimensions, input norm {adapter.config.input_norm}"),
            ("parameters", f"{_size(tower.tower):,} image tower, {_size(adapter):,} adapter"),
        ]
        if tower.dropped:
            rows.append(("computed anew", f"{len(tower.dropped)} buffers"))
        if self.ignored:
            rows.append(("left out", some(self.ignored)))
        return rows


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def plan(checkpoint: Checkpoint, hints: Hints | None = None) -> Plan:
    """Deduce the layout of a checkpoint and check every name and shape against it. Values are not read.

    Args:
        checkpoint: as `read_checkpoint` gives it.
        hints: what shapes cannot say.

    Raises:
        ProclipError: a key is missing, unknown or of another shape; the message names the first few and counts them.
    """
    hints = hints or Hints()
    ignored = [name for name in checkpoint.tensors if hints.ignore and name.startswith(hints.ignore)]
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in set(ignored)}
    shapes = Shapes(kept, str(checkpoint.path))
    facts = read_adapter(shapes, hints)
    tower = find_tower(checkpoint, shapes, hints)
    if tower.tower.embed_dim != facts.embed_dim:
        raise ProclipError(
            f"{checkpoint.path}: the adapter gives vectors of width {facts.embed_dim}, "
            f"the image tower of {tower.tower.embed_dim}"
        )
    with torch.device("meta"):
        adapter = Adapter(facts.llm_dim, facts.embed_dim, facts.config)
    rules = [*tower.rules, *facts.rules, Rule("logit_scale", ("logit_scale",))]
    _check_names(shapes, rules, tower.dropped)
    ours = {f"image_tower.{name}": tuple(t.shape) for name, t in tower.tower.state_dict().items()}
    ours |= {f"adapter.{name}": tuple(t.shape) for name, t in adapter.state_dict().items()} | {"logit_scale": ()}
    _check_shapes(shapes, rules, ours)
    return Plan(Checkpoint(checkpoint.path, kept, checkpoint.config, checkpoint.form), rules, tower, adapter, ignored)


def _check_names(shapes: Shapes, rules: list[Rule], dropped: frozenset[str]) -> None:
    wanted = {rule.theirs for rule in rules}
    missing = sorted(wanted - set(shapes.tensors))
    unknown = sorted(set(shapes.tensors) - wanted - dropped)
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing: {some(missing)}")
    if unknown:
        problems.append(f"{len(unknown)} not known: {some(unknown)} ({explain_unknown(unknown)})")
    if problems:
        raise ProclipError(f"{shapes.source}: its keys are not those of an LLM2CLIP model; {'; '.join(problems)}")


def _check_shapes(shapes: Shapes, rules: list[Rule], ours: dict[str, tuple[int, ...]]) -> None:
    wrong = []
    for rule in rules:
        have, want = tuple(shapes.tensors[rule.theirs].shape), rule.shape(ours)
        if have != want:
            wrong.append(f"{rule.theirs} has shape {have}, wanted {want}")
    if wrong:
        raise ProclipError(f"{shapes.source}: shapes do not fit together; {some(wrong)}")


def _check_values(made: Plan) -> None:
    """Refuse weights that are no numbers, and rotary tables that are not those that our tower computes."""
    tensors, bad = made.checkpoint.tensors, []
    for name in sorted(made.tower.dropped & set(tensors)):
        _check_table(made, name)
    for rule in made.rules:
        tensor = tensors[rule.theirs]
        if not tensor.is_floating_point():
            raise ProclipError(
                f"{made.checkpoint.path}: {rule.theirs} holds {tensor.dtype}, not floating-point weights"
            )
        if not bool(torch.isfinite(tensor).all()):
            bad.append(rule.theirs)
    if bad:
        raise ProclipError(f"{made.checkpoint.path}: NaN or infinity in {len(bad)} tensors: {some(sorted(bad))}")


def _check_table(made: Plan, name: str) -> None:
    """A rotary table of theirs must be the one that timm's model computes."""
    if "rope.freqs_" not in name:
        return
    width = made.tower.width // made.tower.heads
    cos, sin = rope_tables(made.tower.preprocess.size // made.tower.patch, width)
    have, want = made.checkpoint.tensors[name].float(), cos if name.endswith("cos") else sin
    if have.shape != want.shape or not torch.allclose(have, want, atol=0.01):  # as far as bfloat16 goes
        raise ProclipError(
            f"{made.checkpoint.path}: {name} is not the rotary table of heads of {width} and positions scaled to "
            f"{REFERENCE_GRID}, which timm's model has"
        )


def write_proclip(
    made: Plan,
    out: Path,
    embedder: EmbedderConfig,
    card: str = "",
    clip: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> None:
    """Write a `ProCLIP` folder. Weights keep the checkpoint's precision; memory is about the checkpoint's size.

    Args:
        made: by `plan`.
        out: folder that is not there yet.
        embedder: the LLM with which the adapter was trained.
        card: text for the model card.
        clip: the CLIP that the image tower was tuned from, if that is known.
        provenance: how the model was made, JSON values.
        identity: of the embedder, if it is known: another one is then refused.

    Raises:
        ProclipError: `out` is there, or a weight is NaN or infinite.
    """
    if out.exists():
        raise ProclipError(f"{out} is there already: give another folder or delete it")
    _check_values(made)
    tensors: dict[str, Tensor] = {}
    for rule in made.rules:
        tensors |= rule.to_ours(made.checkpoint.tensors[rule.theirs])
    scale = float(tensors["logit_scale"])
    if not 0 <= scale <= MAX_LOGIT_SCALE + 0.01:  # float16 rounds ln 100 up
        raise ProclipError(f"{made.checkpoint.path}: logit_scale is {scale:.4g}, wanted 0 to ln 100")
    scale = min(scale, MAX_LOGIT_SCALE)
    tensors |= {"logit_scale": torch.tensor(scale)}
    tensors |= {"adapter.input_mean": torch.zeros(made.adapter.llm_dim)}
    tensors |= {"adapter.input_std": torch.ones(made.adapter.llm_dim)}
    model = ProCLIP(
        made.tower.tower, made.adapter, scale, made.tower.preprocess, embedder, identity, clip, provenance=provenance
    )
    model.load_state_dict(tensors, strict=True, assign=True)
    model.save_pretrained(out, card)
