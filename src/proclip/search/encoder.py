"""The model that an index was made with, as far as search needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ..errors import ProclipError
from ..models.hub import lasting_name
from ..models.image_text import ImageTextModel
from ..models.loading import load, model_folder
from ..models.tower_identity import tower_identity


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Pictures and texts to vectors of one space."""

    name: str | None
    """Folder or hub id under which it is loaded again; None of a model that was given as an object."""
    identity: Mapping[str, Any]
    """Of its image side: weights, architecture, preprocessing. Equal identities give equal vectors of pictures."""
    dim: int
    """d, width of the space."""
    prepare: Callable[[Image], Tensor]
    """One RGB picture to what `encode_images` takes of it; may be called on several threads."""
    encode_images: Callable[[Sequence[Tensor]], Tensor]
    """Prepared pictures, b of them, to image embeds [b, d], float32 on the CPU, L2-normalised."""
    encode_texts: Callable[[Sequence[str]], Tensor]
    """Texts, n of them, to text embeds [n, d], likewise; loads the LLM when first called."""


Model = str | Path | ImageTextModel | Encoder
"""What a model is given as: its name, or loaded."""


def encoder_of(model: Model, device: str = "cpu") -> Encoder:
    """A model as search needs it; one that is named is opened (`open_encoder`)."""
    if isinstance(model, Encoder):
        return model
    return of_model(model) if isinstance(model, ImageTextModel) else open_encoder(str(model), device)


def open_encoder(name: str, device: str = "cpu") -> Encoder:
    """Open a model by its name, as of `proclip.load`.

    Raises:
        ProclipError: what `load` raises.
    """
    path = model_folder(name)
    return of_model(load(path, device), lasting_name(path))


def of_model(model: ImageTextModel, name: str | None = None) -> Encoder:
    """A model that is in memory."""
    return Encoder(
        name=name,
        identity=tower_identity(model.image_tower, model.preprocess),
        dim=model.image_tower.embed_dim,
        prepare=model.preprocess,
        encode_images=lambda prepared: model.embed_pixels(torch.stack(list(prepared))),
        encode_texts=model.encode_text,
    )


def check_identity(encoder: Encoder, wanted: Mapping[str, Any], wanted_name: str | None, index: Path) -> None:
    """Refuse a model other than the one that an index was made with.

    Raises:
        ProclipError: weights or preprocessing of its image side differ; the message names both models.
    """
    if dict(encoder.identity) != dict(wanted):
        raise ProclipError(
            f"the index {index} was made with the model {wanted_name or '(given as an object)'} (image weights "
            f"{wanted.get('weights')}); {encoder.name or 'the model given'} has others "
            f"({encoder.identity.get('weights')}), and vectors of two models cannot be compared: give that model, "
            "or make another index"
        )
