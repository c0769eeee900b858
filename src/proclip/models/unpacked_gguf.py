"""GGUF models unpacked once: transformers takes half a minute to read one, and less than a second for the unpacked."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from ..errors import ProclipError
from ..files import write_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)
AT_MOST = 1 << 30
"""Bytes of a GGUF file that is unpacked; what larger ones become would fill a disk."""
NOT_KEPT = "%s is read whole at every start, for it cannot be kept unpacked: %s"
Loaded: TypeAlias = "tuple[PreTrainedModel, PreTrainedTokenizerBase]"
Load = Callable[[Path, str | None], Loaded]
"""Loads from a folder, and the name of the GGUF file in it; None where it holds safetensors."""


def load_unpacked(file: Path, dtype: torch.dtype, load: Load) -> Loaded:
    """Load a GGUF file's model from what an earlier call unpacked, or from the file, and unpack it.

    It lies in the assets cache of Hugging Face (``HF_ASSETS_CACHE``, else ``assets`` in ``HF_HOME``), under
    ``proclip/gguf``, in the precision in which it was loaded, and may be deleted at any time. Where nothing can be
    written, the file itself is read each time.

    Args:
        file: with the weights, one above `AT_MOST` is not unpacked.
        dtype: of the weights in memory.
        load: is called on what there is.

    Raises:
        ProclipError: `load` does, on the file.
    """
    from filelock import FileLock

    if file.stat().st_size > AT_MOST:
        return load(file.parent, file.name)
    try:
        folder = _folder(file, dtype)
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        lock.acquire()  # of several processes one unpacks
    except OSError as error:
        _log.warning(NOT_KEPT, file, error)
        return load(file.parent, file.name)
    try:
        return _kept(folder, load) or _unpacked(folder, file, load)
    finally:
        lock.release()


def _kept(folder: Path, load: Load) -> Loaded | None:
    """What an earlier call wrote; None where it wrote nothing, or that is damaged."""
    if not folder.is_dir():
        return None
    try:
        return load(folder, None)
    except ProclipError as error:
        _log.warning("%s is unpacked anew: %s", folder, error)
        shutil.rmtree(folder)
        return None


def _unpacked(folder: Path, file: Path, load: Load) -> Loaded:
    loaded = load(file.parent, file.name)
    try:
        write_folder(folder, lambda draft: _save(loaded, draft))
    except OSError as error:
        _log.warning(NOT_KEPT, file, error)
    return loaded


def _folder(file: Path, dtype: torch.dtype) -> Path:
    """Of the model that this version of transformers makes of the file."""
    import transformers
    from huggingface_hub import constants

    with file.open("rb") as content:
        made_of = (hashlib.file_digest(content, "sha256").hexdigest(), str(dtype), transformers.__version__)
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    return Path(constants.HF_ASSETS_CACHE) / "proclip" / "gguf" / f"{file.stem}-{key}"


def _save(loaded: Loaded, folder: Path) -> None:
    for part in loaded:
        part.save_pretrained(folder)
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
