"""transformers' ``SiglipModel`` and ``Siglip2Model``, taken apart into towers, tokenizer and preprocessing.

What a checkpoint is, its ``config.json`` says: SigLIP, and SigLIP2 of fixed resolution such as
google/siglip2-so400m-patch14-224, are of model_type ``siglip``; NaFlex checkpoints such as
google/siglip2-base-patch16-naflex are of ``siglip2``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ProclipError
from ..files import read_json
from .checkpoint_files import naming_faults
from .clip import Clip, digest_of, find_clip
from .preprocess import ImagePreprocess, split_packed
from .pretrained import VisionModelTower, check_preprocess, load_pretrained
from .token_rows import check_texts
from .towers import TextTower, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Siglip2Model, Siglip2VisionModel, SiglipModel, SiglipVisionModel


class SiglipImageTower(VisionModelTower):
    """SigLIP's image encoder, with attention pooling and no projection: [b, 3, s, s] -> image features [b, d]."""

    family = "siglip"

    def __init__(self, vision_model: SiglipVisionModel | Siglip2VisionModel) -> None:
        super().__init__()
        if not getattr(vision_model.config, "vision_use_head", True):
            raise ProclipError("vision_config.vision_use_head is false: without its attention pooling it is no tower")
        self.vision_model = vision_model
        self.embed_dim = vision_model.config.hidden_size

    @classmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> SiglipImageTower:
        """An untrained tower of that architecture."""
        from transformers import SiglipVisionConfig, SiglipVisionModel

        return cls._of(SiglipVisionModel(SiglipVisionConfig(**config)), embed_dim)

    @classmethod
    def _of(cls, vision_model: SiglipVisionModel | Siglip2VisionModel, embed_dim: int) -> SiglipImageTower:
        tower = cls(vision_model)
        if tower.embed_dim != embed_dim:
            raise ProclipError(f"image tower of family {cls.family!r}: width {tower.embed_dim}, wanted {embed_dim}")
        return tower

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[b, 3, s, s] to image features [b, d], not normalised."""
        features: Tensor = self.vision_model(pixel_values=pixel_values).pooler_output
        return features


class Siglip2ImageTower(SiglipImageTower):
    """SigLIP2's NaFlex image encoder: images as `NaflexPreprocess` packs them -> image features [b, d]."""

    family = "siglip2"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> Siglip2ImageTower:
        """An untrained tower of that architecture."""
        from transformers import Siglip2VisionConfig, Siglip2VisionModel

        tower = cls._of(Siglip2VisionModel(Siglip2VisionConfig(**config)), embed_dim)
        assert isinstance(tower, Siglip2ImageTower)
        return tower

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[b, 1 + n, 3 p^2], as `NaflexPreprocess` packs images, to image features [b, d], not normalised."""
        patches, mask, grid = split_packed(pixel_values)
        features: Tensor = self.vision_model(
            pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=grid
        ).pooler_output
        return features


class SiglipTextTower(TextTower):
    """SigLIP's text encoder with its head: tokens [b, t] -> text features [b, d].

    It sees padding as it sees tokens, as it was trained: no mask, and the pooled state is that of the last position.
    """

    def __init__(self, text_model: nn.Module) -> None:
        super().__init__()
        self.text_model = text_model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[b, t] token ids, padded to the whole context, to text features [b, d]; the mask is not used."""
        features: Tensor = self.text_model(input_ids=input_ids).pooler_output
        return features


class SiglipTextTokenizer:
    """The checkpoint's vocabulary with SigLIP's rules of training, which not every tokenizer class of the hub keeps.

    Texts are lower-cased; for SigLIP (a Unigram vocabulary) ASCII punctuation goes and white space is made single.
    The end token closes every text, also one that is cut, and padding on the right fills the whole context.

    Args:
        tokenizer: of the checkpoint.
        context_length: most tokens, and always the length of the result.
        lower: whether texts are lower-cased.
        strip_punctuation: whether ASCII punctuation goes.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context_length: int, lower: bool, strip_punctuation: bool
    ) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length
        self.lower, self.strip_punctuation = lower, strip_punctuation
        self._punctuation = str.maketrans("", "", string.punctuation)

    @property
    def rules(self) -> str:
        """What is done to a text, for the identity of the embeddings."""
        return ", ".join(["lower"] * self.lower + ["no punctuation"] * self.strip_punctuation) or "as it is"

    def canonical(self, text: str) -> str:
        """The text that the vocabulary sees."""
        if self.lower:
            text = text.lower()
        return " ".join(text.translate(self._punctuation).split()) if self.strip_punctuation else text

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize, [b, context_length].

        Raises:
            ProclipError: a text is empty.
        """
        check_texts(texts)
        seen = [self.canonical(text) for text in texts]
        ids = self.tokenizer(seen, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        length, end, pad = self.context_length, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        closed = [row if row and row[-1] == end else [*row, end] for row in ids]
        cut = [row if len(row) <= length else [*row[: length - 1], end] for row in closed]
        input_ids = torch.tensor([row + [pad] * (length - len(row)) for row in cut])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in cut])
        return Tokens(input_ids, mask, torch.tensor([len(row) > length for row in closed]))


def load_siglip_model(name: str, revision: str | None = None) -> tuple[SiglipModel | Siglip2Model, Clip]:
    """Load a transformers ``SiglipModel`` or ``Siglip2Model`` checkpoint in float32.

    Args:
        name: folder or hub id.
        revision: of the hub's repository.

    Returns:
        the transformers model, and its parts, which share its weights.

    Raises:
        ProclipError: the checkpoint cannot be found, is of another kind, lacks weights or a tokenizer, or its
            preprocessing does not fit its tower.
    """
    import transformers

    folder, kind = find_clip(name, revision)
    if kind not in ("siglip", "siglip2"):
        raise ProclipError(f"{folder}/config.json: model_type is {kind!r}, not 'siglip' or 'siglip2'")
    prefix = {"siglip": "Siglip", "siglip2": "Siglip2"}[kind]
    with naming_faults(f"{folder}/config.json describes no {prefix}", folder):
        config = getattr(transformers, f"{prefix}Config").from_pretrained(folder)
        width, text_width = config.vision_config.hidden_size, config.text_config.projection_size
    if width != text_width:
        raise ProclipError(f"{folder}/config.json: images give {width} dimensions, texts {text_width}")
    preprocess = ImagePreprocess.from_folder(folder)
    check_preprocess(folder, preprocess, config.vision_config)
    tokenizer = load_siglip_tokenizer(folder, config.text_config.max_position_embeddings)
    model = load_pretrained(getattr(transformers, f"{prefix}Model"), config, folder)
    tower = Siglip2ImageTower if kind == "siglip2" else SiglipImageTower
    clip = Clip(
        image_tower=tower(model.vision_model),
        text_tower=SiglipTextTower(model.text_model),
        tokenizer=tokenizer,
        preprocess=preprocess,
        logit_scale=float(model.logit_scale.detach()),
        identity={
            "kind": f"{kind}-text-tower",
            "model": Path(name).name,
            "sha256": digest_of(folder),
            "text": tokenizer.rules,
        },
        logit_bias=float(model.logit_bias.detach()),
    )
    return model, clip


def load_siglip_tokenizer(folder: Path, context_length: int) -> SiglipTextTokenizer:
    """The tokenizer of a SigLIP checkpoint: from ``tokenizer.json``, or from ``spiece.model`` through sentencepiece.

    Raises:
        ProclipError: neither is there, sentencepiece or protobuf is not installed where only ``spiece.model`` is, or
            the tokenizer has no end or padding token.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():
        with naming_faults(f"{folder}: no tokenizer can be made of tokenizer.json, tokenizer_config.json", folder):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            tokenizer("a")
        unigram = type(tokenizer.backend_tokenizer.model).__name__ == "Unigram"
    elif (folder / "spiece.model").is_file():
        try:
            tokenizer, unigram = AutoTokenizer.from_pretrained(folder), True
        except Exception as error:  # the libraries raise whatever is missing or damaged leads them to
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ProclipError(
                f"{folder} has spiece.model and no tokenizer.json: pip install sentencepiece protobuf  ({reason})"
            ) from None
    else:
        raise ProclipError(f"{folder} has no tokenizer: tokenizer.json or spiece.model is wanted")
    for token in ("eos_token", "pad_token"):
        if getattr(tokenizer, f"{token}_id") is None:
            raise ProclipError(f"{folder}/tokenizer_config.json: {token} is missing")
    path = folder / "tokenizer_config.json"
    lower = read_json(path).get("do_lower_case", True) if path.is_file() else True
    return SiglipTextTokenizer(tokenizer, context_length, bool(lower), unigram)
