"""What every image tower, text tower and tokenizer gives, whatever library it comes from, and how one is rebuilt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ..errors import ProclipError, one_line

FAMILIES = {
    "clip": (".clip_transformers", "ClipImageTower"),
    "siglip": (".siglip", "SiglipImageTower"),
    "siglip2": (".siglip", "Siglip2ImageTower"),
    "open_clip": (".open_clip", "OpenClipImageTower"),
}
"""Families of image towers: module beside this one, and class; imported when one is built."""


class ImageTower(nn.Module, ABC):
    """An image encoder with its own projection into the shared space: pixel values -> image features [b, d]."""

    family: ClassVar[str]
    """Its key in `FAMILIES`."""
    embed_dim: int
    """d, width of the shared space."""

    @abstractmethod
    def forward(self, pixel_values: Tensor) -> Tensor:
        """What its preprocessing gives, stacked ([b, 3, s, s] for most), to image features [b, d], not normalised."""

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks, first to last."""

    @property
    def head(self) -> list[nn.Parameter]:
        """What follows the blocks (final norm, pooling, projection), trained with the last of them.

        Here: the parameters that are registered after the blocks' own, and one called ``proj``, which open_clip and
        OpenAI's code register first. A tower of another order overrides this.
        """
        of_blocks = {id(p) for p in self.blocks.parameters()}
        named = list(self.named_parameters())
        last = max((place for place, (_, p) in enumerate(named) if id(p) in of_blocks), default=-1)
        after = [p for _, p in named[last + 1 :]]
        return after + [p for name, p in named[: last + 1] if name.split(".")[-1] == "proj" and id(p) not in of_blocks]

    def layers_above(self) -> dict[str, int]:
        """How many layers lie above each parameter, by name, for layer decay as BEiT has it.

        0 for the `head`, 1 for the last block, one more than there are blocks for what comes before them.
        """
        above = {id(p): len(self.blocks) - place for place, block in enumerate(self.blocks) for p in block.parameters()}
        above |= {id(parameter): 0 for parameter in self.head}
        return {name: above.get(id(p), len(self.blocks) + 1) for name, p in self.named_parameters()}

    def checkpoint_blocks(self) -> None:
        """Keep from now on, in training mode, only the inputs of blocks, and compute the rest again when it is needed.

        Raises:
            ProclipError: the tower's code has no such switch.
        """
        raise ProclipError(f"tune.image.gradient_checkpointing: a {type(self).__name__} has no such switch")

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Its architecture as JSON values, from which `from_config` builds the same again."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> ImageTower:
        """An untrained tower of that architecture; nothing is downloaded."""


class TextTower(nn.Module, ABC):
    """A CLIP's text encoder with its projection, the teacher of stage 1: tokens [b, t] -> text features [b, d]."""

    @abstractmethod
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[b, t] token ids and their mask to text features [b, d], not normalised."""


@dataclass(frozen=True)
class Tokens:
    """A tokenized batch, padded on the right: to its longest text (CLIP) or to the whole context (SigLIP)."""

    input_ids: Tensor
    """[b, t] int64."""
    attention_mask: Tensor
    """[b, t] int64, 1 at tokens."""
    cut: Tensor
    """[b] bool: which texts were longer than the context and lost their end (the end token is kept)."""

    @property
    def truncated(self) -> int:
        """How many texts lost their end."""
        return int(self.cut.sum())


class TextTokenizer(Protocol):
    """Texts to a text tower's tokens, by the rules of the checkpoint; texts that are cut are counted."""

    context_length: int
    """Most tokens that the tower reads, special ones included."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize.

        Raises:
            ProclipError: a text is empty.
        """


def build_image_tower(family: str, config: Mapping[str, Any], embed_dim: int) -> ImageTower:
    """An untrained image tower from what a saved model says of it.

    Raises:
        ProclipError: a family that this version does not know, one whose package is missing, or a config of which no
            tower can be built.
    """
    if family not in FAMILIES:
        raise ProclipError(f"image tower of family {family!r}: this version knows {', '.join(FAMILIES)}")
    module, name = FAMILIES[family]
    tower_class: type[ImageTower] = getattr(import_module(module, __package__), name)
    try:
        return tower_class.from_config(config, embed_dim)
    except ProclipError:
        raise
    except Exception as error:  # the libraries raise whatever a config leads them to
        raise ProclipError(f"image_tower.config: no tower can be built: {one_line(error)}") from None
