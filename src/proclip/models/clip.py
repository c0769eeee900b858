"""CLIP through transformers: image tower, text tower (the teacher of stage 1), tokenizer and preprocessing."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import PretrainConfig
from ..errors import ProclipError
from ..files import read_json, write_json
from .embedder import Encoded
from .preprocess import ImagePreprocess

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerBase

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CHECKPOINT_FILES = ["*.json", "*.safetensors", "merges.txt"]


class ClipImageTower(nn.Module):
    """CLIP's image encoder with its own visual projection: [b, 3, s, s] -> image features [b, d]."""

    def __init__(self, vision_model: CLIPVisionModel, projection: nn.Linear) -> None:
        super().__init__()
        self.vision_model, self.projection = vision_model, projection
        self.vision_config: CLIPVisionConfig = vision_model.config
        """Architecture, as transformers describes it."""
        self.embed_dim = projection.out_features
        """d, width of the shared space."""

    @classmethod
    def from_vision_config(cls, values: Mapping[str, Any], embed_dim: int) -> ClipImageTower:
        """An untrained tower of that architecture."""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        config = CLIPVisionConfig(**values)
        return cls(CLIPVisionModel(config), nn.Linear(config.hidden_size, embed_dim, bias=False))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[b, 3, s, s] to image features [b, d], not normalised."""
        features: Tensor = self.projection(self.vision_model(pixel_values=pixel_values).pooler_output)
        return features


class ClipTextTower(nn.Module):
    """CLIP's text encoder with its projection: tokens [b, t] -> text features [b, d]."""

    def __init__(self, text_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.text_model, self.projection = text_model, projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[b, t] token ids and their mask to text features [b, d], not normalised."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        features: Tensor = self.projection(pooled)
        return features


@dataclass(frozen=True)
class Tokens:
    """A tokenized batch, padded on the right to its longest text."""

    input_ids: Tensor
    """[b, t] int64."""
    attention_mask: Tensor
    """[b, t] int64, 1 at tokens."""
    truncated: int
    """How many texts were longer than the context and lost their end (the end token is kept)."""


class ClipTextTokenizer:
    """The checkpoint's tokenizer with CLIP's context length; texts that are cut are counted, never silently."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context_length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize.

        Raises:
            ProclipError: a text is empty.
        """
        for number, text in enumerate(texts):
            if not text.strip():
                raise ProclipError(f"text {number} of {len(texts)} is empty")
        ids = self.tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        cut = [row if len(row) <= self.context_length else [*row[: self.context_length - 1], row[-1]] for row in ids]
        longest = max(len(row) for row in cut)
        pad = self.tokenizer.pad_token_id
        input_ids = torch.tensor([row + [pad] * (longest - len(row)) for row in cut])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in cut])
        return Tokens(input_ids, mask, sum(len(row) > self.context_length for row in ids))


@dataclass
class Clip:
    """A CLIP checkpoint, taken apart."""

    image_tower: ClipImageTower
    text_tower: ClipTextTower
    tokenizer: ClipTextTokenizer
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


def checkpoint_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: itself, the one that ships as ``mini-clip``, or the hub's, downloaded.

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
        return Path(snapshot_download(name, revision=revision, allow_patterns=CHECKPOINT_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProclipError(f"{name!r} is neither a folder nor a checkpoint that the hub gives: {reason}") from None


def load_clip(name: str, revision: str | None = None) -> Clip:
    """Load a transformers ``CLIPModel`` checkpoint in float32 and take it apart; see `load_clip_model`."""
    return load_clip_model(name, revision)[1]


def load_clip_model(name: str, revision: str | None = None) -> tuple[CLIPModel, Clip]:
    """Load a transformers ``CLIPModel`` checkpoint in float32.

    Args:
        name: folder, hub id, or ``mini-clip``.
        revision: of the hub's repository.

    Returns:
        the transformers model, for saving, and its parts, which share its weights.

    Raises:
        ProclipError: the checkpoint cannot be found, is of another kind, or has no safetensors weights.
    """
    from safetensors import SafetensorError
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = checkpoint_folder(name, revision)
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise ProclipError(f"{folder} has no config.json or no *.safetensors: not a CLIP checkpoint that can be loaded")
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clip":
        raise ProclipError(f"{folder}/config.json: model_type is {kind!r}, 'clip' is supported")
    config = CLIPConfig.from_pretrained(folder)
    try:
        model = CLIPModel.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ProclipError(f"{folder}: the weights cannot be loaded: {str(error).splitlines()[0]}") from None
    model.train(False)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    return model, _take_apart(model, tokenizer, ImagePreprocess.from_folder(folder), name, _digest(weights))


def _take_apart(
    model: CLIPModel, tokenizer: PreTrainedTokenizerBase, preprocess: ImagePreprocess, name: str, digest: str
) -> Clip:
    return Clip(
        image_tower=ClipImageTower(model.vision_model, model.visual_projection),
        text_tower=ClipTextTower(model.text_model, model.text_projection),
        tokenizer=ClipTextTokenizer(tokenizer, model.text_model.config.max_position_embeddings),
        preprocess=preprocess,
        logit_scale=float(model.logit_scale.detach()),
        identity={"kind": "clip-text-tower", "model": Path(name).name, "sha256": digest},
    )


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Learn a byte-level BPE vocabulary in CLIP's layout: bytes, bytes that end a word, merges, start, end.

    Every byte is there, so any text of any language can be read, if in many tokens.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    template = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    num_merges = vocab_size - 2 * len(alphabet) - 2
    if num_merges < 0:
        raise ProclipError(f"pretrain.vocab_size must be at least {2 * len(alphabet) + 2}, not {vocab_size}")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in _merges_of(learner)][:num_merges]
    entries = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in merges), BOS, EOS]
    vocab = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    return CLIPTokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]  # pairs, as tokenizers has them


def _merges_of(tokenizer: Any) -> list[Sequence[str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def new_clip(config: PretrainConfig, texts: Iterable[str]) -> tuple[CLIPModel, Clip]:
    """An untrained small CLIP of the recipe's size, with a tokenizer learnt from `texts`.

    Returns:
        the transformers model, for saving, and its parts, which share its weights.
    """
    from transformers import CLIPConfig, CLIPModel

    tokenizer = train_tokenizer(texts, config.vocab_size)
    shared = {"attention_dropout": config.dropout, "projection_dim": config.embed_dim, "hidden_act": "gelu"}
    model = CLIPModel(
        CLIPConfig(
            projection_dim=config.embed_dim,
            vision_config={
                **shared,
                "hidden_size": config.image_width,
                "intermediate_size": 4 * config.image_width,
                "num_hidden_layers": config.image_layers,
                "num_attention_heads": config.image_width // 64,
                "image_size": config.image_size,
                "patch_size": config.patch_size,
            },
            text_config={
                **shared,
                "vocab_size": len(tokenizer),
                "hidden_size": config.text_width,
                "intermediate_size": 4 * config.text_width,
                "num_hidden_layers": config.text_layers,
                "num_attention_heads": config.text_width // 64,
                "max_position_embeddings": config.context_length,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
        )
    )
    preprocess = ImagePreprocess(size=config.image_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return model, _take_apart(model, tokenizer, preprocess, "new", "untrained")


def save_clip(model: CLIPModel, clip: Clip, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a checkpoint folder that `load_clip` and transformers read: config, weights, tokenizer, preprocessing."""
    folder = Path(folder)
    stored = copy.deepcopy(model)
    nn.Module.to(stored, dtype)
    stored.save_pretrained(folder)
    clip.tokenizer.tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", clip.preprocess.to_config())
