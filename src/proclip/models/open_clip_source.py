"""Where an OpenCLIP model comes from: its name to a config, a weights file and the place of its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..errors import ProclipError, one_line
from ..files import read_json

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
)
"""In this order; a ``.bin`` is read with ``weights_only=True``."""
PREFIX, HUB_PREFIX = "open_clip:", "hf-hub:"
FORMS = (
    "open_clip:MODEL/TAG, open_clip:MODEL/FILE.safetensors, open_clip:FOLDER (with open_clip_config.json) or "
    "hf-hub:ORG/NAME"
)


@dataclass(frozen=True)
class OpenClipSource:
    """All that is needed to build an OpenCLIP model without asking the hub again."""

    label: str
    """The model's name for people and for stores; no folders of this machine in it."""
    model_cfg: dict[str, Any]
    """open_clip's own model config: embed_dim, vision_cfg, text_cfg, ..."""
    preprocess_cfg: dict[str, Any]
    """What it says of resizing and normalisation; what is left out has open_clip's default."""
    weights: Path
    folder: Path | None = None
    """Where its tokenizer may lie; None: the tokenizer comes from the hub, or is CLIP's own."""


def import_open_clip() -> ModuleType:
    """The package open_clip.

    Raises:
        ProclipError: it, or what it needs, is missing; or torchvision is there but is not built for this torch. The
            message says what to install.
    """
    try:
        import_module("torchvision")
    except ModuleNotFoundError as error:
        raise ProclipError(
            f"OpenCLIP models need {error.name}, which is missing: {_torchvision_install()}; then "
            "pip install 'proclip-align[open-clip]'"
        ) from None
    except (RuntimeError, ImportError, OSError) as error:
        raise ProclipError(
            f"torchvision cannot be imported ({one_line(error)}): it is not built for the installed torch "
            f"{torch.__version__}; OpenCLIP models need one that is: "
            f"{_torchvision_install('--force-reinstall --no-deps ')}"
        ) from None
    try:
        import_module("timm")
        return import_module("open_clip")
    except ImportError as error:
        raise ProclipError(
            f"open_clip is missing or incomplete ({one_line(error)}): pip install 'proclip-align[open-clip]'"
        ) from None


def _torchvision_install(options: str = "") -> str:
    """The pip command for the torchvision that belongs to the installed torch: 0.(n + 15).p for torch 2.n.p."""
    release, _, build = torch.__version__.partition("+")
    major, minor, patch = [*release.split("."), "0", "0"][:3]
    version = f"==0.{int(minor) + 15}.{patch}" if major == "2" and patch.isdigit() else ""
    index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install {options}torchvision{version}{index}"


def is_open_clip(name: str) -> bool:
    """Whether a name is one of OpenCLIP's (by prefix), or a folder in its format that transformers cannot load."""
    return name.startswith((PREFIX, HUB_PREFIX)) or holds_open_clip(Path(name))


def holds_open_clip(folder: Path) -> bool:
    """Whether a folder has OpenCLIP's config and no transformers config (timm's has no ``model_type``)."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    config = folder / "config.json"
    return not config.is_file() or "model_type" not in read_json(config)


def find_open_clip(name: str, revision: str | None = None) -> OpenClipSource:
    """Find a model's config and weights; weights on the hub are downloaded, safetensors where there are any.

    Args:
        name: one of `FORMS`, or a folder with ``open_clip_config.json``.
        revision: of the hub's repository, for ``hf-hub:`` only.

    Raises:
        ProclipError: the name has none of these forms, or the model, tag, file, folder or repository is not there.
    """
    if name.startswith(HUB_PREFIX):
        return _from_hub(name.removeprefix(HUB_PREFIX), revision)
    if revision is not None:
        raise ProclipError(f"{name}: a revision is for models of the hub (hf-hub:ORG/NAME) only")
    rest = name.removeprefix(PREFIX)
    model, _, tag = rest.partition("/")
    if name.startswith(PREFIX) and model in import_open_clip().list_models():
        return _from_library(model, tag)
    if Path(rest).is_dir():
        return _from_folder(Path(rest))
    raise ProclipError(
        f"{name!r}: {model!r} is no model of open_clip {import_open_clip().__version__} and {rest!r} is no folder; "
        f"a name has the form {FORMS}"
    )


def _from_library(model: str, tag: str) -> OpenClipSource:
    """A model that open_clip knows by name, with the weights of a tag or a file.

    Where a tag's weights were trained with QuickGELU and the model's name does not say so (``ViT-B-32/openai``), they
    get it: open_clip itself only warns, and computes with GELU.
    """
    open_clip = import_open_clip()
    config = open_clip.get_model_config(model)
    path = Path(tag)
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        if not path.is_file():
            raise ProclipError(f"open_clip:{model}/{tag}: there is no file {tag}")
        return OpenClipSource(f"{model}/{path.name}", config, {}, path)
    pretrained = open_clip.get_pretrained_cfg(model, tag) if tag else None
    if not pretrained:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ProclipError(f"open_clip:{model}/{tag}: no such tag; {model} has {tags}, or give a .safetensors file")
    config["quick_gelu"] = bool(config.get("quick_gelu") or pretrained.get("quick_gelu"))
    try:
        weights = open_clip.download_pretrained(pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        raise ProclipError(f"open_clip:{model}/{tag}: the weights cannot be had: {one_line(error)}") from None
    return OpenClipSource(f"{model}/{tag}", config, dict(pretrained), Path(weights))


def _from_hub(repo: str, revision: str | None) -> OpenClipSource:
    download = import_open_clip().pretrained.download_pretrained_from_hf
    try:
        config = Path(download(repo, filename=CONFIG_FILE, revision=revision))
        weights = Path(download(repo, revision=revision))
    except (OSError, RuntimeError, ValueError) as error:
        raise ProclipError(f"hf-hub:{repo} is no OpenCLIP model that the hub gives: {one_line(error)}") from None
    return _read_config(config, repo.rsplit("/", 1)[-1], weights, None)


def _from_folder(folder: Path) -> OpenClipSource:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ProclipError(f"{path} is missing: not an OpenCLIP model")
    weights = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise ProclipError(f"{folder} has no weights: one of {', '.join(WEIGHTS_FILES)}")
    return _read_config(path, folder.resolve().name, weights, folder)


def _read_config(path: Path, label: str, weights: Path, folder: Path | None) -> OpenClipSource:
    config = read_json(path)
    model_cfg = config.get("model_cfg")
    if not isinstance(model_cfg, Mapping) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(model_cfg):
        raise ProclipError(f"{path}: model_cfg with embed_dim, vision_cfg and text_cfg is missing")
    return OpenClipSource(label, deepcopy(dict(model_cfg)), dict(config.get("preprocess_cfg") or {}), weights, folder)
