"""What of an image tower stage 2 trains: all of it, its last blocks, low-rank changes (LoRA) or nothing."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from ..config import ImageTuningConfig
from ..errors import ProclipError
from .compiling import compiled
from .ema import update_ema
from .towers import ImageTower

NAME = "default"
"""Of the one set of LoRA weights, inside peft."""
IN_PROJ = "in_proj_weight"
"""Of ``nn.MultiheadAttention``: queries', keys' and values' weights, one above the other."""


class ImageTuner:
    """Readies an image tower for stage 2, in place, and keeps its teacher.

    The teacher is a copy of the original tower. It shares the memory of every weight that never changes in either: all
    but the last blocks, all but the weights under LoRA.

    Args:
        tower: pixel values -> image features; its parameters' ``requires_grad`` is set, and LoRA layers take the
            place of linear ones until `merge`.
        config: what is trained.
        teacher: ``ema`` follows the tower by `update_teacher`, ``frozen`` stays; None: there is none.

    Raises:
        ProclipError: more blocks than the tower has, LoRA targets that name no layer, peft is missing, or the tower
            does not say what its blocks are (it is no `ImageTower`).
    """

    def __init__(
        self, tower: nn.Module, config: ImageTuningConfig, teacher: Literal["ema", "frozen"] | None = None
    ) -> None:
        self.tower, self.config = tower, config
        layers = lora_layers(tower, config) if config.mode == "lora" else {}
        moving = _moving(tower, config, layers)  # tensors of the original that training leaves behind
        tower.requires_grad_(False)
        if config.mode != "lora":
            for parameter in moving:
                parameter.requires_grad_(True)
        self.teacher: nn.Module | None = None
        if teacher is not None:
            own = {id(p) for p in moving} if teacher == "ema" or config.mode != "lora" else set()
            shared: dict[int, Any] = {id(p): p for p in tower.parameters() if id(p) not in own}
            self.teacher = copy.deepcopy(tower, shared).requires_grad_(False).eval()
        self._lora = _inject(tower, config, layers) if layers else None
        self._checked = False
        if config.gradient_checkpointing:
            _image_tower(tower).checkpoint_blocks()
        self.run_tower = compiled(tower) if config.compile else tower
        """What encodes pictures as the tower does."""
        self.run_teacher = compiled(self.teacher) if config.compile and self.teacher is not None else self.teacher
        """The same of the teacher."""

    def update_teacher(self, decay: float) -> None:
        """``teacher <- decay * teacher + (1 - decay) * student``, over the weights that the tower computes with.

        Under LoRA these are ``W + alpha / rank B A``: the products are averaged, not A and B, which is another thing.
        """
        assert self.teacher is not None
        if self._lora is None:
            update_ema(self.tower, self.teacher, decay)
            return
        with torch.no_grad():
            for name, attribute, layer in _changed_weights(self.tower):
                weight = getattr(layer.get_base_layer(), attribute)
                target = getattr(self.teacher.get_submodule(name), attribute)
                target.lerp_(weight + layer.get_delta_weight(NAME), 1.0 - decay)

    def check_gradients(self) -> None:
        """Once, after the first backward pass: every LoRA weight has a gradient.

        Raises:
            ProclipError: a layer's code reads its weight and never calls it, so that LoRA has no effect there.
        """
        if self._lora is None or self._checked:
            return
        self._checked = True
        idle = {n.split(".lora_")[0] for n, p in self.tower.named_parameters() if p.requires_grad and p.grad is None}
        if idle:
            names = ", ".join(sorted({name.split(".")[-1] for name in idle}))
            raise ProclipError(
                f"tune.image.targets: LoRA has no effect on {names} ({len(idle)} layers, such as {min(idle)}): this "
                "tower reads their weights without calling them; name the other layers in tune.image.targets"
            )

    def merge(self) -> None:
        """Put the changes of LoRA into plain weights and the plain layers back, in place; the teacher goes."""
        self.teacher = self.run_teacher = None
        self.run_tower = self.tower
        if self._lora is not None:
            self._lora.merge_and_unload(safe_merge=True)
            self._lora = None


def lora_layers(tower: nn.Module, config: ImageTuningConfig) -> dict[str, nn.Module]:
    """The layers that LoRA changes, by name: those that ``targets`` names, else every linear one of the blocks.

    An ``nn.MultiheadAttention`` (open_clip's towers) counts as one layer: it reads its weights without calling layers.
    Changed is its ``in_proj_weight``, queries, keys and values together; its output projection stays as it is, for
    peft 0.21 doubles a change there.

    Raises:
        ProclipError: a target names no such layer.
    """
    inside = {id(module) for block in _image_tower(tower).blocks for module in block.modules()}
    attention = [n for n, m in tower.named_modules() if isinstance(m, nn.MultiheadAttention)]
    layers: dict[str, nn.Module] = {
        name: module
        for name, module in tower.named_modules()
        if isinstance(module, (nn.Linear, nn.MultiheadAttention))
        and not any(name.startswith(f"{other}.") for other in attention)
    }
    chosen = {n: m for n, m in layers.items() if (_is_named(n, config.targets) if config.targets else id(m) in inside)}
    for target in config.targets or ("",):
        if not any(not target or _is_named(name, (target,)) for name in chosen):
            known = ", ".join(sorted({n.split(".")[-1] for n, m in layers.items() if id(m) in inside}))
            what = f"{target!r} names no linear layer" if target else "its blocks have no linear layer"
            raise ProclipError(f"tune.image.targets: {what} of this image tower; those of its blocks are: {known}")
    if config.dropout > 0 and (wrong := [n for n, m in chosen.items() if isinstance(m, nn.MultiheadAttention)]):
        raise ProclipError(
            f"tune.image.dropout must be 0 here: {wrong[0]} is an nn.MultiheadAttention, without dropout"
        )
    return chosen


def _is_named(name: str, targets: tuple[str, ...]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _image_tower(tower: nn.Module) -> ImageTower:
    if not isinstance(tower, ImageTower):
        raise ProclipError(f"tune.image: a {type(tower).__name__} does not say what its blocks are: use mode 'full'")
    return tower


def _moving(tower: nn.Module, config: ImageTuningConfig, layers: dict[str, nn.Module]) -> list[nn.Parameter]:
    """The parameters of the original whose values a trained tower no longer computes with."""
    if config.mode == "locked":
        return []
    if config.mode == "full":
        return [p for p in tower.parameters() if p.requires_grad]
    if config.mode == "lora":
        return [p for layer in layers.values() for n, p in layer.named_parameters() if n in ("weight", IN_PROJ)]
    known = _image_tower(tower)
    if config.blocks > len(known.blocks):
        raise ProclipError(f"tune.image.blocks must be at most {len(known.blocks)}, this tower's, not {config.blocks}")
    last = list(known.blocks)[-config.blocks :]
    return [p for block in last for p in block.parameters()] + known.head


def _inject(tower: nn.Module, config: ImageTuningConfig, layers: dict[str, nn.Module]) -> Any:
    """Put peft's LoRA layers around `layers`."""
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        message = f"tune.image.mode = 'lora' needs peft ({error}): pip install 'proclip-align[peft]'"
        raise ProclipError(message) from None
    plain = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    alpha: Any = config.alpha if config.alpha is not None else 2 * config.rank  # peft only divides it by the rank
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules="|".join(map(re.escape, plain)) if plain else [],
        target_parameters=[f"{name}.{IN_PROJ}" for name in layers if name not in plain] or None,
    )
    return LoraModel(tower, {NAME: lora}, NAME)


def _changed_weights(tower: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Every weight under LoRA: the name of its layer in the plain tower, of its attribute, and the LoRA layer."""
    from peft.tuners.lora import LoraLayer

    for name, layer in tower.named_modules():
        if isinstance(layer, LoraLayer):
            yield name, "weight" if isinstance(layer.get_base_layer(), nn.Linear) else IN_PROJ, layer
