"""The part of the schema that says how parameters are optimised."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from ..errors import ProclipError
from .ranges import require


@dataclass(frozen=True, kw_only=True)
class ParameterRule:
    """What holds for the parameters whose name a regular expression finds."""

    match: str
    """Regular expression, looked for anywhere in a parameter's name in the stage: ``adapter.blocks.0.up.weight``,
    ``image_tower....``, ``text_tower....``, ``logit_scale``, ``logit_bias``; ``^`` ties it to the beginning."""
    lr: float | None = None
    """Peak learning rate; None is ``optim.lr``."""
    weight_decay: float | None = None
    """Decay of the matrices among them; None is ``optim.weight_decay``."""
    freeze: bool = False
    """They are not trained."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as error:
            raise ProclipError(f"optim.rules: match {self.match!r} is no regular expression: {error}") from None
        where = f"optim.rules, of {self.match!r}:"
        for name, value in (("lr", self.lr), ("weight_decay", self.weight_decay)):
            require(value is None or value >= 0, f"{where} {name}", "0 or more", value)
            require(value is None or not self.freeze, f"{where} {name}", "left alone beside freeze = true", value)
        says = self.freeze or self.lr is not None or self.weight_decay is not None
        require(says, where, "given lr, weight_decay or freeze = true", "nothing")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to zero (paper, Table 8)."""

    lr: float = 1e-5
    """Peak learning rate of every parameter for which no rule gives another."""
    rules: tuple[ParameterRule, ...] = ()
    """Exceptions, in order: the first whose ``match`` is found in a parameter's name decides, `lr` and `weight_decay`
    decide for the others. A rule that decides for no parameter is an error."""
    layer_decay: float | None = None
    """Each block of the image tower learns so many times as fast as the one above it: a learning rate is multiplied by
    ``layer_decay`` to the number of layers above; what follows the blocks has none, the patch embedding the most."""
    weight_decay: float = 0.05
    """Decay of matrices; vectors (biases, norms) and logit_scale have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    grad_clip: float | None = None
    """Largest global gradient norm."""
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    """Arithmetic of the towers under autocast; losses are always float32."""
    parallel: Literal["ddp", "fsdp"] = field(default="ddp", metadata={"hashed": False})
    """How several processes share what is trained: each has all of it (``ddp``), or a part of every block (``fsdp``,
    for towers that do not fit). It changes no result, and a checkpoint of one is one of the other."""

    def __post_init__(self) -> None:
        halves = self.parallel == "fsdp" and self.autocast == "float16"
        require(not halves, "optim.autocast", "'none' or 'bfloat16' with optim.parallel = 'fsdp'", self.autocast)
        require(self.lr >= 0, "optim.lr", "0 or more", self.lr)
        require(self.eps > 0, "optim.eps", "above 0", self.eps)
        require(all(0 <= b < 1 for b in self.betas), "optim.betas", "two numbers in [0, 1)", self.betas)
        require(self.weight_decay >= 0, "optim.weight_decay", "0 or more", self.weight_decay)
        good = self.layer_decay is None or 0 < self.layer_decay <= 1
        require(good, "optim.layer_decay", "in (0, 1]", self.layer_decay)
        require(self.warmup_steps >= 0, "optim.warmup_steps", "0 or more", self.warmup_steps)
        require(self.grad_clip is None or self.grad_clip > 0, "optim.grad_clip", "above 0", self.grad_clip)
