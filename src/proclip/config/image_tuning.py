"""The part of the schema that says what of the image tower stage 2 trains."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from .ranges import require

OF_MODE = {"blocks": "last_blocks", "rank": "lora", "alpha": "lora", "dropout": "lora", "targets": "lora"}
"""Fields that one mode alone reads."""


@dataclass(frozen=True, kw_only=True)
class ImageTuningConfig:
    """What of the image tower is trained; the adapter and the temperature always are."""

    mode: Literal["full", "last_blocks", "lora", "locked"] = "full"
    """``full``: all of it (the paper). ``last_blocks``: the last `blocks` transformer blocks and what follows them
    (final norm, pooling, projection). ``lora``: low-rank changes of linear layers (arXiv 2106.09685; extra ``peft``),
    merged into plain weights when the stage ends. ``locked``: nothing (LiT)."""
    blocks: int = 1
    """``last_blocks``: how many."""
    rank: int = 8
    """``lora``: r, rank of the change B A of each weight."""
    alpha: float | None = None
    """``lora``: the change is ``alpha / rank B A``; None is twice the rank."""
    dropout: float = 0.0
    """``lora``: dropout before A, in the student only."""
    targets: tuple[str, ...] = ()
    """``lora``: last parts of the names of the layers to change, such as ``["q_proj", "v_proj"]``; empty: every linear
    layer of the blocks."""
    gradient_checkpointing: bool = False
    """Keep of each block only its input, and compute the rest again in the backward pass: the same gradients in much
    less memory and about a quarter more time."""
    compile: bool = False
    """Run the tower, and a teacher in memory, through ``torch.compile``. The first steps take a minute; it needs a C++
    compiler on a CPU, Triton on a GPU."""

    def __post_init__(self) -> None:
        for f in fields(self):
            mode = OF_MODE.get(f.name, self.mode)
            alone = self.mode == mode or getattr(self, f.name) == f.default
            require(alone, f"tune.image.{f.name}", f"left alone unless tune.image.mode is {mode!r}", self.mode)
        require(self.blocks >= 1, "tune.image.blocks", "1 or more", self.blocks)
        require(self.rank >= 1, "tune.image.rank", "1 or more", self.rank)
        require(self.alpha is None or self.alpha > 0, "tune.image.alpha", "above 0", self.alpha)
        require(0 <= self.dropout < 1, "tune.image.dropout", "in [0, 1)", self.dropout)
        of_use = not self.gradient_checkpointing or self.mode != "locked"
        require(of_use, "tune.image.gradient_checkpointing", "left alone where nothing of the tower is trained", True)
