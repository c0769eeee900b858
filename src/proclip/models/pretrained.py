"""Whole transformers models from checkpoint folders: safetensors alone, and no tensor left at its random start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import ProclipError
from .checkpoint_files import naming_faults
from .preprocess import ImagePreprocess, NaflexPreprocess
from .towers import ImageTower

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def load_pretrained(model_class: Any, config: PreTrainedConfig, folder: Path) -> Any:
    """A transformers model in float32 and evaluation mode, from one safetensors file or from shards.

    Args:
        model_class: such as ``CLIPModel``.
        config: of the checkpoint.
        folder: of the checkpoint.

    Raises:
        ProclipError: a config of which no model can be built, weights that cannot be read, have other shapes, or lack
            a tensor (transformers would leave it random with a warning).
    """
    with naming_faults(f"{folder}: the weights cannot be loaded into what config.json describes", folder):
        model, report = model_class.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ProclipError(
            f"{folder}: the weights lack {len(missing)} tensors of a whole {model_class.__name__}: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )
    model.train(False)
    return model


class VisionModelTower(ImageTower):
    """An image tower around one of transformers' vision models; what follows it is the family's own."""

    vision_model: Any
    """A PreTrainedModel with ``encoder.layers``."""

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks, first to last."""
        blocks: nn.ModuleList = self.vision_model.encoder.layers
        return blocks

    def checkpoint_blocks(self) -> None:
        """Transformers' own switch."""
        renamed = getattr(self.vision_model, "activation_checkpointing_enable", None)  # since transformers 5.24
        (renamed or self.vision_model.gradient_checkpointing_enable)({"use_reentrant": False})

    @property
    def config(self) -> dict[str, Any]:
        """What differs from transformers' defaults for such a model."""
        values: dict[str, Any] = self.vision_model.config.to_diff_dict()
        return values


def check_preprocess(folder: Path, preprocess: ImagePreprocess, vision: Any) -> None:
    """Raise `ProclipError` where the preprocessing gives something else than the tower of config `vision` takes."""
    naflex = vision.model_type == "siglip2_vision_model"
    if isinstance(preprocess, NaflexPreprocess) != naflex:
        wanted = "Siglip2ImageProcessor" if naflex else "CLIPImageProcessor or SiglipImageProcessor"
        raise ProclipError(f"{folder}: an image tower of type {vision.model_type!r} wants a {wanted}'s preprocessing")
    if isinstance(preprocess, NaflexPreprocess):
        ours, theirs, what = preprocess.patch_size, vision.patch_size, "patch_size"
    else:
        ours, theirs, what = preprocess.size, vision.image_size, "image size"
    if ours != theirs:
        raise ProclipError(f"{folder}: {what} is {ours} in the preprocessing, {theirs} in config.json")
