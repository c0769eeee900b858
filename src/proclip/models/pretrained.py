"""Whole transformers models from checkpoint folders: safetensors alone, and no tensor left at its random start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ProclipError, one_line
from .preprocess import ImagePreprocess, NaflexPreprocess

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def load_pretrained(model_class: Any, config: PreTrainedConfig, folder: Path) -> Any:
    """A transformers model in float32 and evaluation mode, from one safetensors file or from shards.

    Args:
        model_class: such as ``CLIPModel``.
        config: of the checkpoint.
        folder: of the checkpoint.

    Raises:
        ProclipError: weights that cannot be read, have other shapes, or lack a tensor (transformers would leave it
            random with a warning).
    """
    from safetensors import SafetensorError

    try:
        model, report = model_class.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ProclipError(f"{folder}: the weights cannot be loaded: {one_line(error)}") from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise ProclipError(
            f"{folder}: the weights lack {len(missing)} tensors of a whole {model_class.__name__}: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )
    model.train(False)
    return model


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Turn gradient checkpointing of a transformers model's layers on."""
    renamed = getattr(model, "activation_checkpointing_enable", None)  # since transformers 5.24
    (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})


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
        raise ProclipError(f"{folder}: {what} is {ours} in the preprocessing, {theirs} in config.json's vision_config")
