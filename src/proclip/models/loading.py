"""One door for models of pictures and texts: what a name is, where the model lies, where and how it computes."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import ProclipError
from ..files import read_json
from .arithmetic import known_dtype
from .clip import KINDS, Clip, load_clip
from .devices import known_device
from .hub import OURS, hub_folder
from .open_clip_source import holds_open_clip, is_open_clip
from .proclip import ProCLIP

SENTENCE_TRANSFORMERS_PREFIX = "st:"
CONFIG_FILES = ["config.json", "modules.json", "open_clip_config.json"]
"""What tells a model's kind."""
ONNX_MANIFEST = "proclip_onnx.json"
"""What an exported folder holds; `proclip.onnx` reads it."""


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    revision: str | None = None,
    embedder: str | Path | None = None,
) -> ProCLIP | Clip:
    """Load a model of pictures and texts: one of ours, or a CLIP of any family.

    Args:
        name: run folder; folder or hub id of a proclip model, of a CLIP or SigLIP of transformers or OpenCLIP;
            ``open_clip:MODEL/TAG``; ``mini-clip``.
        device: where it computes, such as ``cuda:1``; ``cuda`` where there is one, else ``cpu``, if None.
        dtype: what the image tower and the adapter (or the text tower) compute in: ``float32``, ``float16`` or
            ``bfloat16``; as saved, which is float32, if None. The LLM keeps that with which the adapter was trained.
        revision: of the hub's repository; a folder has none.
        embedder: of a model of ours: folder or hub id of the LLM where it lies now, if not where the model says.

    Returns:
        both kinds have `encode_image`, `encode_text`, `similarity`, `zero_shot` and `zero_shot_classifier`.

    Raises:
        ProclipError: there is no such model, it is of another kind, or the device or the dtype is not known here.
    """
    if revision is not None and (str(name) in OURS or Path(name).exists()):
        raise ProclipError(f"{name} is not of the hub, which alone has revisions: leave revision out")
    path, where, precision = model_folder(str(name)), known_device(device), known_dtype(dtype)
    kind = model_kind(path, revision)
    model: ProCLIP | Clip
    if kind == "proclip":
        model = ProCLIP.from_pretrained(path, revision, where, embedder)
    elif kind == "clip" and embedder is None:
        model = load_clip(path, revision)
    elif kind == "clip":
        raise ProclipError(f"{path} is a CLIP, which has no LLM: embedder goes with a proclip model")
    else:
        raise ProclipError(
            f"{path} is a model of sentence-transformers: SentenceTransformer loads it (proclip eval measures it)"
        )
    for tower in model.towers:
        tower.to(device=where, dtype=precision)
    return model


def model_folder(name: str) -> str:
    """The model of a run folder; any other name as it is.

    Raises:
        ProclipError: the run has not finished, or the folder is an exported model or one that holds runs.
    """
    if not name:
        raise ProclipError("the model's name is empty")
    run = Path(name)
    if (run / "config.json").is_file():
        return name
    if (run / "model" / "config.json").is_file():
        return str(run / "model")
    if (run / "recipe.toml").is_file():
        raise ProclipError(f"{name} is a run that has not finished: it has no model yet ({run / 'model'})")
    if (run / ONNX_MANIFEST).is_file():
        raise ProclipError(f"{name} is an exported model: proclip.onnx.load opens it")
    if runs := [str(config.parent.parent) for config in sorted(run.glob("*/model/config.json"))]:
        raise ProclipError(f"{name} is no model but holds runs: name one of them, {', '.join(runs)}")
    return name


def model_kind(name: str, revision: str | None = None) -> str:
    """``proclip``, ``sentence-transformers`` or ``clip``: what reads a model, by its name or its config files."""
    if name.startswith(SENTENCE_TRANSFORMERS_PREFIX):
        return "sentence-transformers"
    if name == "mini-clip" or is_open_clip(name):
        return "clip"
    folder = hub_folder(name, revision, CONFIG_FILES)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    model_type = config.get("model_type")
    if model_type == "proclip":
        return "proclip"
    ours = model_type in KINDS or holds_open_clip(folder)
    return "sentence-transformers" if (folder / "modules.json").is_file() and not ours else "clip"
