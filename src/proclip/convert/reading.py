"""An official checkpoint from disk or the hub as named tensors; nothing in it is executed."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ProclipError, one_line
from ..files import read_json
from ..models.clip import checkpoint_folder

WRAPPERS = ("model", "module", "state_dict")
"""Keys under which the official code looks for the state dict, in its order."""
DEEPSPEED_FILE = "mp_rank_00_model_states.pt"
TORCH_SUFFIXES = (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors, memory-mapped where the format allows it."""

    path: Path
    """File, or folder of safetensors."""
    tensors: dict[str, Tensor]
    """Without wrapper and without ``module.``."""
    config: dict[str, Any] | None
    """``config.json`` of a model in the hub's format, None for a file of torch."""
    form: str
    """How it was stored, for people."""


def read_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Read a checkpoint of LLM2CLIP's or ProCLIP's code.

    Args:
        name: a ``.pt`` file; a folder of DeepSpeed, with one ``.pt`` file or in the hub's format; or a hub id.
        revision: of the hub's repository.

    Raises:
        ProclipError: there is no such checkpoint, it is of another kind or damaged, or it holds more than tensors.
    """
    path = _find(name, revision)
    return _read_hub_format(path) if path.is_dir() else _read_torch(path)


def _find(name: str, revision: str | None) -> Path:
    """The file of torch, or the folder in the hub's format."""
    if Path(name).is_file():
        return Path(name)
    local = Path(name).is_dir()
    if not local and (Path(name).suffix in TORCH_SUFFIXES or name.startswith((".", "/", "~"))):
        raise ProclipError(f"there is no checkpoint {name}")
    folder = checkpoint_folder(name, revision)
    if any(folder.glob("*.safetensors")):
        return folder
    if not local:  # the EVA models of the hub are .pt files
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name, revision=revision, allow_patterns=["*.pt"]))
    if (folder / "latest").is_file():
        tag = (folder / "latest").read_text(encoding="utf-8").strip()
        if "/" in tag or not (folder / tag).is_dir():
            raise ProclipError(f"{folder}/latest names the DeepSpeed folder {tag!r}, which is not there")
        folder = folder / tag
    if (folder / "mp_rank_01_model_states.pt").is_file() or any(folder.glob("zero_pp_rank_*_model_states.pt")):
        raise ProclipError(
            f"{folder}: DeepSpeed has split the weights over processes; join them first with its zero_to_fp32.py"
        )
    if (folder / DEEPSPEED_FILE).is_file():
        return folder / DEEPSPEED_FILE
    files = sorted(path for path in folder.iterdir() if path.suffix in TORCH_SUFFIXES)
    if len(files) != 1:
        there = ", ".join(path.name for path in files) or "none"
        raise ProclipError(f"{folder} has no *.safetensors, no {DEEPSPEED_FILE} and not one .pt file (there: {there})")
    return files[0]


def _read_hub_format(folder: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind == "proclip":
        raise ProclipError(f"{folder} is a proclip model already; --to llm2clip is the other direction")
    if kind != "clip":
        raise ProclipError(f"{folder}/config.json: model_type is {kind!r}; LLM2CLIP's models say 'clip'")
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise ProclipError(f"{path} cannot be read: {one_line(error)}") from None
    return Checkpoint(folder, tensors, config, "model of the Hugging Face hub, safetensors")


def _read_torch(path: Path) -> Checkpoint:
    content = load_tensors_only(path)
    steps = []
    while isinstance(content, dict):
        key = next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)
        if key is None:
            break
        content = content[key]
        steps.append(f"under {key!r}")
    if not isinstance(content, dict) or not content:
        raise ProclipError(
            f"{path} holds {type(content).__name__}, not a state dict or one under {', '.join(WRAPPERS)}"
        )
    other = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if other:
        raise ProclipError(f"{path}: no tensors but other objects are under {some(other)}")
    for prefix in ("module.", "_orig_mod."):
        while all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
            steps.append(f"prefix {prefix!r} taken off")
    return Checkpoint(path, dict(content), None, ", ".join(["file of torch", *steps]))


def load_tensors_only(path: Path) -> Any:
    """``torch.load``, memory-mapped, of tensors and plain containers only.

    Raises:
        ProclipError: it holds objects that only running code could rebuild, or it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a TorchScript archive, which then is an error
            return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except pickle.UnpicklingError as error:
        found = _code_in(path)
        if not found:
            raise ProclipError(f"{path} cannot be read: {one_line(error)}") from None
        raise ProclipError(
            f"{path} holds Python objects that only running code from it could rebuild: {some(found)}; "
            "where you trust it, save its state dict alone with torch.save and convert that file"
        ) from None
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise ProclipError(f"{path} cannot be read as a checkpoint of torch: {one_line(error)}") from None


def _code_in(path: Path) -> list[str]:
    """Names of the globals in the file that are not tensors and containers."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # whatever a damaged file makes the reader raise; the caller has its own error
        return []


def digests_of(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of the files that a checkpoint was read from, in hexadecimal, by file name."""
    path = checkpoint.path
    digests = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with file.open("rb") as content:
            digests[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return digests


def some(names: list[str], limit: int = 5) -> str:
    """The first few names and how many there are in all, for a message."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
