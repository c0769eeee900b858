"""transformers' ``CLIPModel`` (OpenAI, LAION, MetaCLIP, ...), taken apart into towers, tokenizer and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ProclipError
from .checkpoint_files import naming_faults
from .clip import Clip, digest_of, find_clip
from .preprocess import ImagePreprocess
from .pretrained import VisionModelTower, check_preprocess, load_pretrained
from .token_rows import check_texts
from .towers import TextTower, Tokens

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPVisionModel, PreTrainedTokenizerBase


class ClipImageTower(VisionModelTower):
    """CLIP's image encoder with its own visual projection: [b, 3, s, s] -> image features [b, d]."""

    family = "clip"

    def __init__(self, vision_model: CLIPVisionModel, projection: nn.Linear) -> None:
        super().__init__()
        self.vision_model, self.projection = vision_model, projection
        self.embed_dim = projection.out_features

    @classmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> ClipImageTower:
        """An untrained tower of that architecture."""
        from transformers import CLIPVisionConfig, CLIPVisionModel

        vision = CLIPVisionConfig(**config)
        return cls(CLIPVisionModel(vision), nn.Linear(vision.hidden_size, embed_dim, bias=False))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[b, 3, s, s] to image features [b, d], not normalised."""
        features: Tensor = self.projection(self.vision_model(pixel_values=pixel_values).pooler_output)
        return features


class ClipTextTower(TextTower):
    """CLIP's text encoder with its projection: tokens [b, t] -> text features [b, d]."""

    def __init__(self, text_model: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.text_model, self.projection = text_model, projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[b, t] token ids and their mask to text features [b, d], not normalised."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        features: Tensor = self.projection(pooled)
        return features


class ClipTextTokenizer:
    """The checkpoint's tokenizer with CLIP's context length; texts that are cut are counted, never silently."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context_length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize.

        Raises:
            ProclipError: a text is empty.
        """
        check_texts(texts)
        ids = self.tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        cut = [row if len(row) <= self.context_length else [*row[: self.context_length - 1], row[-1]] for row in ids]
        longest = max(len(row) for row in cut)
        pad = self.tokenizer.pad_token_id  # any token will do: the pooled state is that of the end, which sees no later
        pad = self.tokenizer.eos_token_id if pad is None else pad
        input_ids = torch.tensor([row + [pad] * (longest - len(row)) for row in cut])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in cut])
        return Tokens(input_ids, mask, torch.tensor([len(row) > self.context_length for row in ids]))


def load_clip_model(name: str, revision: str | None = None) -> tuple[CLIPModel, Clip]:
    """Load a transformers ``CLIPModel`` checkpoint in float32.

    Args:
        name: folder, hub id, or ``mini-clip``.
        revision: of the hub's repository.

    Returns:
        the transformers model, for saving, and its parts, which share its weights.

    Raises:
        ProclipError: the checkpoint cannot be found, is of another kind, has no safetensors weights, or a file of it
            cannot be read.
    """
    from transformers import CLIPConfig, CLIPModel

    folder, kind = find_clip(name, revision)
    if kind != "clip":
        raise ProclipError(f"{folder}/config.json: model_type is {kind!r}, not 'clip'")
    with naming_faults(f"{folder}/config.json describes no CLIP", folder):
        config = CLIPConfig.from_pretrained(folder)
    tokenizer = _load_tokenizer(folder, getattr(config.text_config, "eos_token_id", None))
    preprocess = ImagePreprocess.from_folder(folder)
    check_preprocess(folder, preprocess, config.vision_config)
    model = load_pretrained(CLIPModel, config, folder)
    return model, take_apart(model, tokenizer, preprocess, name, digest_of(folder))


def _load_tokenizer(folder: Path, pooled: int | None) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, whose end token must be the one that the text tower pools.

    A config of old has 2 as ``eos_token_id``: transformers then pools the token with the highest id.

    Raises:
        ProclipError: no vocabulary in the folder (transformers would go on with an empty one), files that cannot be
            read, or another end token.
    """
    from transformers import CLIPTokenizer

    has = {file: (folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "merges.txt")}
    if not (has["tokenizer.json"] or (has["vocab.json"] and has["merges.txt"])):
        raise ProclipError(f"{folder} has no tokenizer: tokenizer.json, or vocab.json and merges.txt, is wanted")
    files = ", ".join(file for file, there in has.items() if there)
    with naming_faults(f"{folder}: no tokenizer can be made of {files}, tokenizer_config.json", folder):
        tokenizer: PreTrainedTokenizerBase = CLIPTokenizer.from_pretrained(folder)
        tokenizer("a")
    end = len(tokenizer) - 1 if pooled == 2 else pooled
    if tokenizer.eos_token_id != end:
        raise ProclipError(
            f"{folder}: the tokenizer ends texts with token {tokenizer.eos_token_id}, the text tower pools {end} "
            f"(eos_token_id {pooled} in config.json's text_config)"
        )
    return tokenizer


def take_apart(
    model: CLIPModel, tokenizer: PreTrainedTokenizerBase, preprocess: ImagePreprocess, name: str, digest: str
) -> Clip:
    """The parts of a ``CLIPModel``, which share its weights."""
    return Clip(
        image_tower=ClipImageTower(model.vision_model, model.visual_projection),
        text_tower=ClipTextTower(model.text_model, model.text_projection),
        tokenizer=ClipTextTokenizer(tokenizer, model.text_model.config.max_position_embeddings),
        preprocess=preprocess,
        logit_scale=float(model.logit_scale.detach()),
        identity={"kind": "clip-text-tower", "model": Path(name).name, "sha256": digest},
    )
