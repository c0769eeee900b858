"""The model that an index was made with, as far as search needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from ..errors import ProclipError
from ..models.clip import Clip, checkpoint_folder, load_clip
from ..models.hub import lasting_name
from ..models.preprocess import ImagePreprocess
from ..models.proclip import ProCLIP
from ..models.tower_identity import tower_identity
from ..models.towers import ImageTower


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


Model = str | Path | ProCLIP | Encoder
"""What a model is given as: its name, or loaded."""


def encoder_of(model: Model, device: str = "cpu") -> Encoder:
    """A model as search needs it; one that is named is opened (`open_encoder`)."""
    if isinstance(model, Encoder):
        return model
    return of_proclip(model) if isinstance(model, ProCLIP) else open_encoder(str(model), device)


def open_encoder(name: str, device: str = "cpu") -> Encoder:
    """Open a model by its name.

    Args:
        name: run folder; folder or hub id of a proclip model, a CLIP or a SigLIP; ``open_clip:MODEL/TAG``; or
            ``mini-clip``.
        device: where it computes.

    Raises:
        ProclipError: there is no such model, or it is of none of these kinds.
    """
    inner = Path(name) / "model"
    path = str(inner) if (inner / "config.json").is_file() else name
    if _is_proclip(path):
        return of_proclip(ProCLIP.from_pretrained(path, device=device), lasting_name(path))
    return _of_clip(load_clip(path), lasting_name(path), device)


def of_proclip(model: ProCLIP, name: str | None = None) -> Encoder:
    """A model that is in memory."""

    def encode_texts(texts: Sequence[str]) -> Tensor:
        return model.encode_text(list(texts))

    return _encoder(model.image_tower, model.preprocess, encode_texts, name)


def _of_clip(clip: Clip, name: str, device: str) -> Encoder:
    clip.image_tower.to(device)
    clip.text_tower.to(device)
    return _encoder(clip.image_tower, clip.preprocess, lambda texts: clip.encode(texts).embeds, name)


def _encoder(
    tower: ImageTower, preprocess: ImagePreprocess, encode_texts: Callable[[Sequence[str]], Tensor], name: str | None
) -> Encoder:
    tower.eval()
    device = next(tower.parameters()).device

    @torch.inference_mode()
    def encode_images(prepared: Sequence[Tensor]) -> Tensor:
        return F.normalize(tower(torch.stack(list(prepared)).to(device)).float(), dim=-1).cpu()

    return Encoder(
        name=name,
        identity=tower_identity(tower, preprocess),
        dim=tower.embed_dim,
        prepare=preprocess,
        encode_images=encode_images,
        encode_texts=encode_texts,
    )


def _is_proclip(name: str) -> bool:
    from ..files import read_json
    from ..models.open_clip_source import is_open_clip

    if name == "mini-clip" or is_open_clip(name):
        return False
    config = checkpoint_folder(name, None, ["config.json"]) / "config.json"
    return config.is_file() and read_json(config).get("model_type") == "proclip"


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
