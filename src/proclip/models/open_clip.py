"""OpenCLIP models (extra ``open-clip``): image and text towers, tokenizer and preprocessing as open_clip has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pickle import UnpicklingError
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import ProclipError, one_line
from .clip import Clip
from .open_clip_source import OpenClipSource, find_open_clip, import_open_clip
from .preprocess import ImagePreprocess
from .token_rows import check_texts
from .towers import ImageTower, TextTower, Tokens

RESIZE_MODES = {"shortest": "crop", "squash": "squash"}
STAGES = ("blocks", "stages", "layers")
"""What timm calls a trunk's blocks: ViT and EVA; ConvNeXt and FastViT; Swin."""
HF_TOKENIZER_SETTINGS = ("clean", "strip_sep_token", "language")
SIMPLE_TOKENIZER_SETTINGS = ("clean", "additional_special_tokens")
_SMALLEST_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class OpenClipImageTower(ImageTower):
    """open_clip's ``visual`` module, projection included: [b, 3, s, s] -> image features [b, d].

    Its state dict has open_clip's names under ``visual.``.

    Args:
        visual: open_clip's VisionTransformer, ModifiedResNet or TimmModel.
        config: ``vision_cfg`` and ``quick_gelu`` of open_clip's model config.
        embed_dim: d.
    """

    family = "open_clip"

    def __init__(self, visual: nn.Module, config: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        self.visual, self.embed_dim = visual, embed_dim
        self._config = tower_config(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks, first to last; the stages of a convolutional tower, its stem left out.

        Raises:
            ProclipError: the tower is of a kind whose blocks are not known here.
        """
        visual: Any = self.visual
        if hasattr(visual, "transformer"):
            return nn.ModuleList(visual.transformer.resblocks)
        if hasattr(visual, "trunk"):
            for name in STAGES:
                if isinstance(stages := getattr(visual.trunk, name, None), (nn.ModuleList, nn.Sequential)):
                    return nn.ModuleList(stages)
            kind = type(visual.trunk).__name__
            raise ProclipError(f"the blocks of timm's {kind} are not known: it has none of {', '.join(STAGES)}")
        return nn.ModuleList([visual.layer1, visual.layer2, visual.layer3, visual.layer4])

    def checkpoint_blocks(self) -> None:
        """open_clip's own switch, or timm's; the ResNets of CLIP have none.

        Raises:
            ProclipError: the tower has none.
        """
        visual: Any = self.visual
        inner = getattr(visual, "trunk", visual)  # a TimmModel would only log that its trunk has none
        try:
            if hasattr(visual, "layer1"):
                raise AssertionError("open_clip's ModifiedResNet does nothing then")
            inner.set_grad_checkpointing(True)
        except (AssertionError, AttributeError, TypeError) as error:
            kind = type(inner).__name__
            raise ProclipError(f"tune.image.gradient_checkpointing: {kind} has no such switch: {error}") from None

    @property
    def config(self) -> dict[str, Any]:
        """``vision_cfg`` and ``quick_gelu`` of open_clip's model config, set to download nothing."""
        return deepcopy(self._config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> OpenClipImageTower:
        """An untrained tower of that architecture; nothing is downloaded.

        Raises:
            ProclipError: open_clip or timm is missing or does not know the architecture.
        """
        config = tower_config(config)
        model = build_model({**config, "embed_dim": embed_dim, "text_cfg": _SMALLEST_TEXT}, "image tower")
        return cls(model.visual, config, embed_dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[b, 3, s, s] to image features [b, d], not normalised."""
        output = self.visual(pixel_values.to(next(self.visual.parameters()).dtype))
        features: Tensor = output[0] if isinstance(output, tuple) else output  # CoCa's gives its tokens too
        return features


class OpenClipTextTower(TextTower):
    """The text side of an OpenCLIP model: tokens [b, t] -> text features [b, d].

    What open_clip's ``encode_text`` computes, for CLIP, CustomTextCLIP (its own and Hugging Face text encoders) and
    CoCa.

    Args:
        model: open_clip's model; what its text side does not need is taken out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for name in ("visual", "text_decoder", "logit_scale", "logit_bias"):
            if hasattr(model, name):
                delattr(model, name)
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[b, t] token ids, t the context length, to text features [b, d], not normalised.

        The mask is not read: open_clip's encoders find padding by its id, or attend to it as they were trained to.
        """
        model: Any = self.model
        features: Tensor = model.encode_text(input_ids, normalize=False)
        return features


class OpenClipTokenizer:
    """open_clip's tokenizer of the model, padded to the context length; texts that are cut are counted.

    Args:
        tokenizer: open_clip's SimpleTokenizer or HFTokenizer.
        context_length: most tokens, special ones included.
    """

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize.

        Raises:
            ProclipError: a text is empty.
        """
        check_texts(texts)
        input_ids: Tensor = self.tokenizer(list(texts))
        lengths = torch.tensor(self._lengths(texts))
        mask = (torch.arange(self.context_length) < lengths[:, None]).long()
        if getattr(getattr(self.tokenizer, "tokenizer", None), "padding_side", "right") == "left":
            mask = mask.flip(1)
        return Tokens(input_ids, mask, lengths > self.context_length)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, special ones included, with no limit."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is None:
            return [len(self.tokenizer.encode(text)) + 2 for text in texts]
        cleaned = [self.tokenizer.clean_fn(text) for text in texts]
        return [len(ids) for ids in inner(cleaned, truncation=False, verbose=False)["input_ids"]]


def tower_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``vision_cfg`` and ``quick_gelu`` of a model config, as JSON values, set to download nothing."""
    vision = deepcopy(dict(config["vision_cfg"]))
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    return {"vision_cfg": vision, "quick_gelu": bool(config.get("quick_gelu", False))}


def build_model(model_cfg: Mapping[str, Any], source: str) -> Any:
    """An untrained open_clip model (CLIP, CustomTextCLIP or CoCa) in float32.

    Args:
        model_cfg: open_clip's model config.
        source: what the messages name.

    Raises:
        ProclipError: open_clip or timm does not know the architecture, or it would run code of a checkpoint.
    """
    open_clip = import_open_clip()
    config = {**deepcopy(dict(model_cfg)), **tower_config(model_cfg)}
    text = config["text_cfg"]
    timm_name = config["vision_cfg"].get("timm_model_name")
    if timm_name and not _timm().is_model(timm_name):
        raise ProclipError(f"{source}: timm {_timm().__version__} has no model {timm_name!r} (timm_model_name)")
    custom_text = config.pop("custom_text", False)
    kind = open_clip.CLIP
    if text.get("hf_model_name"):
        text["hf_model_pretrained"], custom_text = False, True
        _check_hf_model(text["hf_model_name"], source)
    if custom_text:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    try:
        return kind(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, OSError) as error:
        raise ProclipError(
            f"{source}: open_clip {open_clip.__version__} cannot build the model: {one_line(error)}"
        ) from None


def _timm() -> Any:
    from importlib import import_module

    return import_module("timm")


def _check_hf_model(name: str, source: str) -> None:
    """Refuse a Hugging Face text encoder that cannot be had, or whose architecture is code on the hub."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ProclipError(
            f"{source}: the text encoder's config {name!r} cannot be loaded: {one_line(error)}"
        ) from None


def load_open_clip(name: str, revision: str | None = None) -> Clip:
    """Load an OpenCLIP model in float32 and take it apart.

    Args:
        name: as `find_open_clip` takes it.
        revision: of the hub's repository.

    Raises:
        ProclipError: open_clip is not installed, the model cannot be found or built, its weights do not fit or are
            more than tensors, or it asks for a preprocessing or tokenizer that is not supported.
    """
    from safetensors import SafetensorError

    source = find_open_clip(name, revision)
    config, weights = source.model_cfg, source.weights
    model = build_model(config, source.label)
    try:
        import_open_clip().load_checkpoint(model, str(weights), strict=True, weights_only=True)
    except (SafetensorError, UnpicklingError, OSError, RuntimeError, KeyError, StopIteration, EOFError) as error:
        raise ProclipError(f"{weights}: the weights cannot be loaded: {one_line(error)}") from None
    model.eval()
    visual, scale, bias = model.visual, model.logit_scale, model.logit_bias
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Clip(
        image_tower=OpenClipImageTower(visual, config, int(config["embed_dim"])),
        text_tower=OpenClipTextTower(model),
        tokenizer=open_clip_tokenizer(source),
        preprocess=open_clip_preprocess(source, visual),
        logit_scale=float(scale.detach().reshape(())),
        identity={"kind": "clip-text-tower", "model": source.label, "sha256": digest},
        logit_bias=None if bias is None else float(bias.detach().reshape(())),
    )


def open_clip_preprocess(source: OpenClipSource, visual: Any) -> ImagePreprocess:
    """What open_clip's transform for inference does, in our terms.

    Raises:
        ProclipError: the image is not square, or is padded (``resize_mode`` ``longest``).
    """
    given = {key: value for key, value in source.preprocess_cfg.items() if value is not None}
    size = getattr(visual, "image_size", given.get("size", 224))
    height, width = (size, size) if isinstance(size, int) else size
    mode = given.get("resize_mode", "shortest")
    if height != width:
        raise ProclipError(f"{source.label}: images of {height} x {width} pixels are not supported, only square ones")
    if mode not in RESIZE_MODES:
        raise ProclipError(f"{source.label}: resize_mode {mode!r} is not supported, only {', '.join(RESIZE_MODES)}")
    open_clip = import_open_clip()
    bilinear = given.get("interpolation") == "bilinear"  # all else is bicubic at inference
    return ImagePreprocess(
        size=int(height),
        mean=_channels(given.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=_channels(given.get("std", open_clip.OPENAI_DATASET_STD)),
        resample=int(Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC),
        resize="squash" if mode == "squash" else "crop",
        crop_offset="round",
    )


def _channels(values: Any) -> tuple[float, float, float]:
    one, two, three = values if isinstance(values, (list, tuple)) else (values,) * 3
    return float(one), float(two), float(three)


def open_clip_tokenizer(source: OpenClipSource) -> OpenClipTokenizer:
    """The model's tokenizer, by the rules of open_clip's ``get_tokenizer``.

    Settings that would run code of a checkpoint or drop tokens at random are refused.

    Raises:
        ProclipError: such a setting, or a Hugging Face tokenizer that cannot be had.
    """
    text = source.model_cfg["text_cfg"]
    context = int(text.get("context_length", 77))
    settings = dict(text.get("tokenizer_kwargs") or {})
    module = import_open_clip().tokenizer
    name = text.get("hf_tokenizer_name")
    allowed = HF_TOKENIZER_SETTINGS if name else SIMPLE_TOKENIZER_SETTINGS
    if unknown := [key for key in settings if key not in allowed]:
        raise ProclipError(f"{source.label}: tokenizer_kwargs {', '.join(unknown)} not supported: {', '.join(allowed)}")
    if mode := text.get("tokenizer_mode"):
        raise ProclipError(f"{source.label}: tokenizer_mode {mode!r} is not supported")
    if not name:
        return OpenClipTokenizer(module.SimpleTokenizer(context_length=context, **settings), context)
    place = source.folder if source.folder and (source.folder / "tokenizer_config.json").is_file() else name
    try:
        tokenizer = module.HFTokenizer(str(place), context_length=context, trust_remote_code=False, **settings)
    except (OSError, ValueError, ImportError) as error:
        raise ProclipError(
            f"{source.label}: the tokenizer {str(place)!r} cannot be loaded: {one_line(error)}"
        ) from None
    return OpenClipTokenizer(tokenizer, context)
