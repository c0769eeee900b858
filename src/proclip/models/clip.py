"""A pretrained CLIP: image tower, text tower (the teacher of stage 1), tokenizer and preprocessing, by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import ProclipError
from ..files import read_json
from .embedder import Encoded
from .preprocess import ImagePreprocess
from .towers import ImageTower, TextTokenizer, TextTower

CHECKPOINT_FILES = ["*.json", "*.safetensors", "merges.txt"]


@dataclass
class Clip:
    """A CLIP of any family, taken apart."""

    image_tower: ImageTower
    text_tower: TextTower
    tokenizer: TextTokenizer
    preprocess: ImagePreprocess
    logit_scale: float
    """Log of the inverse temperature."""
    identity: dict[str, Any]
    """Name and hash of the weights: what an embedding store records of its teacher."""

    @property
    def dim(self) -> int:
        """d, width of the shared space."""
        return self.image_tower.embed_dim

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Encoded:
        """Texts to text embeds, [n, d] float32, L2-normalised, on the CPU, with the count of truncated texts."""
        self.text_tower.eval()
        device = next(self.text_tower.parameters()).device
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        embeds, truncated = torch.empty(len(texts), self.dim), 0
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            tokens = self.tokenizer([texts[i] for i in rows])
            features = self.text_tower(tokens.input_ids.to(device), tokens.attention_mask.to(device))
            embeds[rows] = F.normalize(features.float(), dim=-1).cpu()
            truncated += tokens.truncated
        return Encoded(embeds, truncated)


def checkpoint_folder(name: str, revision: str | None = None, allow_patterns: Sequence[str] = CHECKPOINT_FILES) -> Path:
    """The folder of a checkpoint: itself, the one that ships as ``mini-clip``, or the hub's, downloaded.

    Args:
        name: folder, hub id, or ``mini-clip``.
        revision: of the hub's repository.
        allow_patterns: files that are downloaded.

    Raises:
        ProclipError: it is neither a folder nor reachable on the hub.
    """
    if name == "mini-clip":
        return Path(str(files("proclip") / "assets" / "mini-clip"))
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(allow_patterns)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProclipError(f"{name!r} is neither a folder nor a checkpoint that the hub gives: {reason}") from None


def find_clip(name: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a CLIP checkpoint, and the ``model_type`` in its ``config.json``.

    Raises:
        ProclipError: there is no such checkpoint, or it has no config or no safetensors weights.
    """
    folder = checkpoint_folder(name, revision)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ProclipError(f"{folder} has no config.json or no *.safetensors: not a CLIP checkpoint that can be loaded")
    return folder, str(read_json(folder / "config.json").get("model_type"))


def load_clip(name: str, revision: str | None = None) -> Clip:
    """Load a checkpoint in float32 and take it apart.

    Args:
        name: folder, hub id, or ``mini-clip``.
        revision: of the hub's repository.

    Raises:
        ProclipError: the checkpoint cannot be found, is of a kind that is not known, or has no safetensors weights.
    """
    from .clip_transformers import load_clip_model

    folder, kind = find_clip(name, revision)
    if kind == "clip":
        return load_clip_model(name, revision)[1]
    raise ProclipError(f"{folder}/config.json: model_type is {kind!r}, 'clip' is supported")


def digest_of(folder: Path) -> str:
    """Hash of the content of a checkpoint's safetensors files: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:16]
