"""transformers' ``CLIPModel`` (OpenAI, LAION, MetaCLIP, ...), taken apart into towers, tokenizer and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ProclipError
from .clip import Clip, digest_of, find_clip
from .preprocess import ImagePreprocess
from .towers import ImageTower, TextTower, Tokens

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPVisionModel, PreTrainedTokenizerBase


class ClipImageTower(ImageTower):
    """CLIP's image encoder with its own visual projection: [b, 3, s, s] -> image features [b, d]."""

    family = "clip"

    def __init__(self, vision_model: CLIPVisionModel, projection: nn.Linear) -> None:
        super().__init__()
        self.vision_model, self.projection = vision_model, projection
        self.embed_dim = projection.out_features

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks, first to last."""
        blocks: nn.ModuleList = self.vision_model.encoder.layers
        return blocks

    @property
    def config(self) -> dict[str, Any]:
        """What differs from transformers' default ``CLIPVisionConfig``."""
        return self.vision_model.config.to_diff_dict()

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

    folder, kind = find_clip(name, revision)
    if kind != "clip":
        raise ProclipError(f"{folder}/config.json: model_type is {kind!r}, not 'clip'")
    config = CLIPConfig.from_pretrained(folder)
    try:
        model = CLIPModel.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ProclipError(f"{folder}: the weights cannot be loaded: {str(error).splitlines()[0]}") from None
    model.train(False)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    return model, take_apart(model, tokenizer, ImagePreprocess.from_folder(folder), name, digest_of(folder))


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
