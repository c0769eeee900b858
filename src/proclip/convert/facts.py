"""What the shapes of a checkpoint say: the adapter's size, and helpers for the towers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..config import AdapterConfig
from ..errors import ProclipError
from .rules import Rule, adapter_rules

InputNorm = Literal["l2", "none"]
ADAPTER_KEY = re.compile(r"^(text\.(?:text_proj\.)?text_adaptor\.|text_adapter\.adaptor\.)(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What shapes cannot say; None where the usual value is meant."""

    heads: int | None = None
    """Attention heads of a ViT; width / 64 is usual."""
    resolution: int | None = None
    """Side of the image, pixels; grid x patch is usual."""
    activation: Literal["quick_gelu", "gelu"] | None = None
    """Of a ViT with OpenAI's names; ``quick_gelu`` is usual."""
    input_norm: InputNorm | None = None
    """Of the adapter; ``l2`` is usual, ``none`` where the checkpoint was trained with its LLM inside."""
    timm_model: str | None = None
    """timm's name of the tower, where shapes fit none or several."""
    ignore: tuple[str, ...] = ()
    """Keys that begin so are left out."""


@dataclass(frozen=True)
class Shapes:
    """Shapes of a checkpoint's tensors; asking for one that is missing is an error."""

    tensors: Mapping[str, Tensor]
    source: str
    """For messages."""

    def of(self, key: str, dims: int) -> tuple[int, ...]:
        """Shape of a tensor that must be there with that many dimensions.

        Raises:
            ProclipError: it is missing or has another number of dimensions.
        """
        if key not in self.tensors:
            raise ProclipError(f"{self.source}: {key} is missing")
        shape = tuple(self.tensors[key].shape)
        if len(shape) != dims:
            raise ProclipError(f"{self.source}: {key} has shape {shape}, wanted {dims} dimensions")
        return shape

    def count(self, pattern: str) -> int:
        """One more than the highest number that `pattern` catches in a key; 0 if it catches none."""
        found = [int(match.group(1)) for name in self.tensors if (match := re.match(pattern, name))]
        return max(found, default=-1) + 1

    def patch(self, key: str) -> int:
        """Side of a square patch, from the weight of the patch convolution, [w, 3, p, p]."""
        _, channels, height, width = self.of(key, 4)
        if channels != 3 or height != width:
            raise ProclipError(f"{self.source}: {key} has {channels} channels and patches {height} x {width}")
        return height


@dataclass(frozen=True)
class AdapterFacts:
    """The adapter as its shapes say it is."""

    rules: list[Rule]
    config: AdapterConfig
    llm_dim: int
    embed_dim: int


def read_adapter(shapes: Shapes, hints: Hints) -> AdapterFacts:
    """N, expansion and widths of the adapter.

    Raises:
        ProclipError: there is no adapter, there are two, or a shape makes no sense.
    """
    prefixes = sorted({match.group(1) for name in shapes.tensors if (match := ADAPTER_KEY.match(name))})
    if not prefixes:
        raise ProclipError(
            f"{shapes.source} has no adapter (text.text_adaptor.*, text_adapter.adaptor.*): "
            "a CLIP without one is no LLM2CLIP or ProCLIP model"
        )
    if len(prefixes) > 1:
        raise ProclipError(f"{shapes.source} has several adapters: {', '.join(prefixes)}; leave one out with --ignore")
    prefix = prefixes[0]
    num_blocks = shapes.count(re.escape(prefix) + r"(\d+)\.") - 2
    if num_blocks < 0:
        raise ProclipError(f"{shapes.source}: {prefix}* has no LayerNorm and output Linear after its blocks")
    embed_dim, llm_dim = shapes.of(f"{prefix}{num_blocks + 1}.weight", 2)
    expansion = 1
    if num_blocks:
        hidden, inputs = shapes.of(f"{prefix}0.fn.0.weight", 2)
        if inputs != llm_dim or hidden % llm_dim:
            raise ProclipError(
                f"{shapes.source}: {prefix}0.fn.0.weight is {hidden} x {inputs}; "
                f"wanted a multiple of the LLM's width {llm_dim} by that width"
            )
        expansion = hidden // llm_dim
    # The code that embeds captions while it trains holds the adapter as text_proj and does not normalise its input.
    norm = hints.input_norm or ("none" if ".text_proj." in prefix else "l2")
    config = AdapterConfig(num_blocks=num_blocks, expansion=expansion, input_norm=norm)
    return AdapterFacts(adapter_rules(prefix, num_blocks), config, llm_dim, embed_dim)


def resolution_of(shapes: Shapes, positions: int, patch: int, hints: Hints, key: str) -> int:
    """Side of the image from the number of patch positions.

    Raises:
        ProclipError: the grid is not square, or `Hints.resolution` does not give that grid.
    """
    grid = math.isqrt(max(positions, 0))
    if grid < 1 or grid * grid != positions:
        raise ProclipError(f"{shapes.source}: {key} has {positions} patch positions, which are no square grid")
    size = grid * patch if hints.resolution is None else hints.resolution
    if size // patch != grid:
        raise ProclipError(
            f"image size {size}: {key} is a grid of {grid} x {grid} patches of {patch}, "
            f"so {grid * patch} to {grid * patch + patch - 1} pixels"
        )
    return size


def heads_of(shapes: Shapes, width: int, hints: Hints, known: int | None = None) -> int:
    """Number of attention heads: stated, known from a config, or 64 of the width each.

    Raises:
        ProclipError: the width cannot be divided so.
    """
    heads = hints.heads if hints.heads is not None else known or width // 64
    if heads < 1 or width % heads or (hints.heads is None and known is None and width % 64):
        raise ProclipError(f"{shapes.source}: a tower of width {width} in heads of 64 does not divide; give --heads")
    return heads


def explain_unknown(names: Collection[str]) -> str:
    """What keys that do not belong usually are; empty if there is nothing to say."""
    if any("lora_" in name for name in names):
        return "LoRA weights: merge them into the model first"
    if any(name.startswith("text.text.") for name in names):
        return "the LLM itself: leave it out with --ignore text.text., proclip refers to it by name"
    if "logit_bias" in names:
        return "SigLIP's bias, which cancels in the loss of LLM2CLIP and ProCLIP: leave it out with --ignore logit_bias"
    towers = ("text.transformer.", "text.token_embedding", "transformer.", "token_embedding", "text_model.")
    if any(name.startswith(towers) for name in names):
        return "CLIP's own text tower, which an LLM2CLIP model does not have; --ignore PREFIX leaves keys out"
    return "--ignore PREFIX leaves keys out"
