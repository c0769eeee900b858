"""``config.json`` of a proclip model: what it must say, read and checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..config import AdapterConfig, EmbedderConfig, from_dict
from ..config.ranges import require
from ..errors import ProclipError
from ..files import read_json

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The image tower's architecture."""

    family: str
    """A key of `proclip.models.towers.FAMILIES`."""
    config: Mapping[str, Any]
    """What the family's class builds a tower from."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is built from, beside its weights and its preprocessing."""

    embed_dim: int
    """d, width of the shared space."""
    llm_dim: int
    """h, width of the LLM's embeddings."""
    adapter: AdapterConfig
    embedder: EmbedderConfig
    """A model ``embedder/NAME`` lies in the model's own folder."""
    embedder_identity: Mapping[str, Any] | None
    """What the embedder with which the adapter was trained said of itself; None where that is not known."""
    image_tower: TowerConfig
    clip: str | None
    """The checkpoint that the image tower comes from."""
    clip_revision: str | None = None
    """Of that checkpoint on the hub."""
    provenance: Mapping[str, Any] | None = None
    """How the model was made."""

    def __post_init__(self) -> None:
        require(self.embed_dim > 0, "embed_dim", "above 0", self.embed_dim)
        require(self.llm_dim > 0, "llm_dim", "above 0", self.llm_dim)


def is_proclip(folder: Path) -> bool:
    """Whether a folder's ``config.json`` is one of ours."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("model_type") == "proclip"


def read_model_config(folder: Path) -> ModelConfig:
    """Read ``config.json``. Keys that other libraries put beside ours are passed over.

    Raises:
        ProclipError: it is not one of ours, of another version, or a field is missing or wrong.
    """
    if not is_proclip(folder):
        raise ProclipError(f"{folder} is not a proclip model: config.json with model_type 'proclip' is missing")
    path = folder / "config.json"
    values = read_json(path)
    if (found := values.get("format_version")) != FORMAT_VERSION:
        raise ProclipError(f"{path}: format_version {found}, this code reads {FORMAT_VERSION}")
    known = {field.name for field in fields(ModelConfig)}
    try:
        return from_dict(ModelConfig, {name: value for name, value in values.items() if name in known})
    except ProclipError as error:
        raise ProclipError(f"{path}: {error}") from None
