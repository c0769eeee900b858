"""A pretrained CLIP: image tower, text tower (the teacher of stage 1), tokenizer and preprocessing, by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ProclipError
from ..files import read_json
from .embedder import Encoded
from .hub import HubAccess, hub_folder
from .image_text import ImageTextModel
from .preprocess import ImagePreprocess
from .towers import ImageTower, TextTokenizer, TextTower

CHECKPOINT_FILES = ["*.json", "*.safetensors", "merges.txt", "spiece.model", "tokenizer.model"]
KINDS = {
    "clip": (".clip_transformers", "load_clip_model"),
    "siglip": (".siglip", "load_siglip_model"),
    "siglip2": (".siglip", "load_siglip_model"),
}
"""transformers checkpoints by the model_type of their config: module beside this one, and what loads it."""


@dataclass
class Clip(ImageTextModel):
    """A CLIP of any family, taken apart."""

    image_tower: ImageTower
    text_tower: TextTower
    tokenizer: TextTokenizer
    preprocess: ImagePreprocess
    logit_scale: float
    """Log of the inverse temperature."""
    identity: dict[str, Any]
    """Kind, name and hash of the weights: what an embedding store records of its teacher."""
    logit_bias: float | None = None
    """SigLIP's learned bias of every logit; None where there is none."""

    @property
    def dim(self) -> int:
        """d, width of the shared space."""
        return self.image_tower.embed_dim

    @property
    def towers(self) -> list[nn.Module]:
        """Both towers."""
        return [self.image_tower, self.text_tower]

    def embed_texts(self, texts: Sequence[str], classes: bool = False) -> Tensor:
        """One batch of texts through the text tower, class names like others; what it cannot read is cut (`cuts`)."""
        return self.encode(texts).embeds

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Encoded:
        """Texts to text embeds, [n, d] float32, L2-normalised, on the CPU, in batches of like length."""
        self.text_tower.eval()
        device = next(self.text_tower.parameters()).device
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        embeds, cut = torch.empty(len(texts), self.dim), torch.zeros(len(texts), dtype=torch.bool)
        counts = torch.zeros(len(texts), dtype=torch.int64)
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            tokens = self.tokenizer([texts[i] for i in rows])
            features = self.text_tower(tokens.input_ids.to(device), tokens.attention_mask.to(device))
            embeds[rows] = F.normalize(features.float(), dim=-1).cpu()
            cut[rows], counts[rows] = tokens.cut, tokens.attention_mask.sum(dim=1)
        return Encoded(embeds, cut, counts)

    def cuts(self, texts: Sequence[str], batch_size: int = 1024) -> list[bool]:
        """Whether each text is longer than the text tower reads, so that `encode` would cut its end."""
        starts = range(0, len(texts), batch_size)
        return [cut for start in starts for cut in self.tokenizer(texts[start : start + batch_size]).cut]

    def for_classes(self) -> Clip:
        """Itself: a CLIP has no prompts of its own."""
        return self


def checkpoint_folder(
    name: str,
    revision: str | None = None,
    allow_patterns: Sequence[str] = CHECKPOINT_FILES,
    **access: Unpack[HubAccess],
) -> Path:
    """The folder of a checkpoint: itself, the one that ships as ``mini-clip``, or the hub's, downloaded.

    Args:
        name: folder, hub id, or ``mini-clip``.
        revision: of the hub's repository.
        allow_patterns: files that are downloaded.
        access: how the hub is asked.

    Raises:
        ProclipError: it is neither a folder nor reachable on the hub.
    """
    if name == "mini-clip":
        return Path(str(files("proclip") / "assets" / "mini-clip"))
    return hub_folder(name, revision, allow_patterns, **access)


def find_clip(name: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a CLIP checkpoint, and the ``model_type`` in its ``config.json``.

    Where a repository of the hub has only ``pytorch_model.bin``, the safetensors are taken that the hub's own bot
    proposed for it, if it did: transformers does the same.

    Raises:
        ProclipError: there is no such checkpoint, or it has no config or no safetensors weights.
    """
    folder = checkpoint_folder(name, revision)
    if not any(folder.glob("*.safetensors")) and folder != Path(name) and revision is None:
        proposed = _converted_revision(name)
        folder = checkpoint_folder(name, proposed) if proposed else folder
    if not (folder / "config.json").is_file():
        raise ProclipError(f"{folder} has no config.json: not a CLIP checkpoint that can be loaded")
    if not any(folder.glob("*.safetensors")):
        raise ProclipError(
            f"{folder} has no *.safetensors, and pickled weights (pytorch_model.bin) are never read; where you trust "
            f'them, convert them once: python -c "from transformers import AutoModel as A; '
            f"A.from_pretrained('{name}').save_pretrained('FOLDER')\", and put the tokenizer's files and "
            f"preprocessor_config.json into FOLDER too"
        )
    return folder, str(read_json(folder / "config.json").get("model_type"))


def _converted_revision(name: str) -> str | None:
    """The revision with which the hub's conversion bot proposed safetensors for a repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    bot = "SFconvertbot"
    try:
        for proposal in HfApi().get_repo_discussions(name, author=bot, discussion_type="pull_request"):
            if proposal.author == bot and "safetensors" in proposal.title.lower():
                return str(proposal.git_reference)
    except (HfHubHTTPError, OSError):
        pass  # not reachable: what is missing is said by the caller
    return None


def load_clip(name: str, revision: str | None = None) -> Clip:
    """Load a checkpoint in float32 and take it apart.

    Args:
        name: folder, hub id, ``mini-clip``, or an OpenCLIP model (``open_clip:MODEL/TAG``, ``hf-hub:ORG/NAME``, ...).
        revision: of the hub's repository.

    Raises:
        ProclipError: the checkpoint cannot be found, is of a kind that is not known, or has no safetensors weights.
    """
    from .open_clip_source import HUB_PREFIX, holds_open_clip, is_open_clip

    if is_open_clip(name) or holds_open_clip(checkpoint_folder(name, revision)):
        from .open_clip import load_open_clip

        return load_open_clip(name if is_open_clip(name) else HUB_PREFIX + name, revision)
    folder, kind = find_clip(name, revision)
    if kind not in KINDS:
        known = ", ".join(f"'{known}'" for known in KINDS)
        why = "; it holds one tower alone, and a CLIP has two" if kind.endswith(("vision_model", "text_model")) else ""
        if not why and "vocab_size" in read_json(folder / "config.json"):
            why = ", a language model's: it can be an embedder (--embedder), and is no CLIP"
        raise ProclipError(f"{folder}/config.json: model_type is {kind!r}{why}; CLIPs that are known are {known}")
    module, function = KINDS[kind]
    clip: Clip = getattr(import_module(module, __package__), function)(name, revision)[1]
    return clip


def digest_of(folder: Path) -> str:
    """Hash of the content of a checkpoint's safetensors files: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:16]
