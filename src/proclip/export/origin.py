"""What an export says of the model that it was made from."""

from __future__ import annotations

from typing import Any

import torch

from .. import __version__
from ..config import to_dict
from ..errors import ProclipError
from ..models.clip import Clip
from ..models.proclip import ProCLIP
from ..models.tower_identity import weights_digest


def with_adapter(model: ProCLIP | Clip) -> ProCLIP:
    """A model of ours itself.

    Raises:
        ProclipError: it is a CLIP, or something else.
    """
    if not isinstance(model, ProCLIP):
        what = f"{model.identity['model']} is a CLIP, which" if isinstance(model, Clip) else f"a {type(model).__name__}"
        raise ProclipError(f"{what} has no adapter to export: a proclip model is wanted")
    return model


def origin_of(model: ProCLIP) -> dict[str, Any]:
    """JSON values: a hash of the weights, the CLIP, the LLM with its identity, how the model was made, versions."""
    values: dict[str, Any] = {
        "weights": weights_digest(model),
        "clip": model.clip_name,
        "clip_revision": model.clip_revision,
        "loaded_from": model.loaded_from,
        "embedder": to_dict(model.embedder_config) if model.embedder_config is not None else None,
        "embedder_identity": model.embedder_identity,
        "provenance": model.provenance,
        "versions": {"proclip": __version__, "torch": str(torch.__version__)},
    }
    return {key: value for key, value in values.items() if value is not None}
