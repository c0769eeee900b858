"""Which LLM belongs to an adapter: presets of the official models, a file, settings; and its width, to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import EmbedderConfig, from_dict
from ..config.reading import load_toml, merge_settings
from ..errors import ProclipError
from ..files import read_json
from ..models.embedder import embedder_identity
from ..models.hub import may_be_named

PRESETS: dict[str, dict[str, Any]] = {
    "llama3-8b-cc": {
        "model": "microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned",
        "backend": "llm2vec",
    },
}
"""Embedders of the official models, as keys of a recipe's ``[embedder]``."""
PRESET_DIMS = {"microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned": 4096}


def choose_embedder(stated: str | None, settings: Sequence[str], config: Mapping[str, Any] | None) -> EmbedderConfig:
    """The embedder that the user states, or the one that LLM2CLIP's models on the hub were trained with.

    Args:
        stated: a preset's name, or a TOML file with an ``[embedder]`` table or its keys.
        settings: ``embedder.key=value``, applied last.
        config: the checkpoint's ``config.json``, None if it has none.

    Raises:
        ProclipError: nothing says which, or what says it is not valid.
    """
    values: dict[str, Any] = {}
    official = config is not None and "LLM2CLIP" in str(config.get("auto_map")) + str(config.get("architectures"))
    if stated is None and not settings:
        if not official:
            raise ProclipError(
                "which LLM was the adapter trained with? State it: --embedder "
                f"{'|'.join(PRESETS)}|FILE.toml, or --set embedder.model=... --set embedder.backend=..."
            )
        stated = "llama3-8b-cc"
    if stated in PRESETS:
        values = dict(PRESETS[stated])
    elif stated is not None:
        if not Path(stated).is_file():
            raise ProclipError(f"--embedder {stated!r} is neither a preset ({', '.join(PRESETS)}) nor a TOML file")
        values = load_toml(stated)
        values = dict(values.get("embedder", values))
    changed = merge_settings({"embedder": values}, settings)
    other = [key for key in changed if key != "embedder"]
    if other:
        raise ProclipError(f"--set {other[0]}...: convert takes settings of the embedder only, as embedder.key=value")
    return from_dict(EmbedderConfig, changed["embedder"], where="embedder")


def embedder_dim(config: EmbedderConfig) -> int | None:
    """Width of the embedder's vectors without its weights; None where that is not known here.

    Read from a local folder's ``config.json`` (of a sentence-transformers folder with a projection at its end: from
    that). The hub is not asked: that would fetch an LLM to convert a CLIP.

    Raises:
        ProclipError: the folder's files are no JSON.
    """
    folder = Path(config.model)
    if not folder.is_dir():
        return PRESET_DIMS.get(config.model)
    dense = sorted(folder.glob("*_Dense/config.json"))
    if dense and config.backend == "sentence-transformers":
        width = read_json(dense[-1]).get("out_features")
    elif (folder / "config.json").is_file():
        values = read_json(folder / "config.json")
        text = values.get("text_config")
        width = values.get("hidden_size") or (text.get("hidden_size") if isinstance(text, dict) else None)
    else:
        return None
    return width if isinstance(width, int) else None


def identity_here(config: EmbedderConfig) -> dict[str, Any] | None:
    """The identity of an embedder whose files are on this machine as folders; None for one of the hub.

    Raises:
        ProclipError: a folder cannot be an embedder's.
    """
    here = all(Path(name).is_dir() for name in (config.model, *config.lora))
    return embedder_identity(config) if here else None


def check_embedder(config: EmbedderConfig, llm_dim: int) -> bool:
    """Compare the embedder's width with the adapter's.

    Returns:
        whether the embedder's width is known here.

    Raises:
        ProclipError: they differ, or the model is a path at which nothing is.
    """
    if not may_be_named(config.model):
        raise ProclipError(
            f"embedder.model {config.model!r}: there is no such folder, and nothing on the hub can be called that; "
            "give the folder as it lies on this machine (the model's user may have it elsewhere), or a hub id"
        )
    dim = embedder_dim(config)
    if dim is not None and dim != llm_dim:
        raise ProclipError(f"embedder.model {config.model!r} gives vectors of width {dim}, the adapter takes {llm_dim}")
    return dim is not None
