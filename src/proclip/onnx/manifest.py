"""``proclip_onnx.json``: what an exported folder holds, and all that is done before and after its graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..config import EmbedderConfig, from_dict
from ..config.ranges import require
from ..errors import ProclipError
from ..files import read_json
from ..models.preprocess import ImagePreprocess

FILE = "proclip_onnx.json"
FORMAT_VERSION = 1
Precision = Literal["float32", "float16", "int8"]
TOKEN_INPUTS = ("input_ids", "attention_mask", "pooling_mask")
"""What an LLM's graph may take, in the order in which `pad_rows` gives it."""
MOST_LOGIT_SCALE = 80.0
"""Its exponential is a number in float32."""


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """The image tower: ``pixel_values`` as `preprocess` gives them to ``image_embeds`` [batch, embed_dim]."""

    preprocess: Mapping[str, Any]
    """transformers' ``preprocessor_config.json``: size, crop, filter, mean, deviation. What is transparent is white."""
    file: str = "image.onnx"
    """The graph, beside the manifest."""

    def __post_init__(self) -> None:
        _check_name(self.file)

    def preprocessing(self) -> ImagePreprocess:
        """What makes pixel values of a picture.

        Raises:
            ProclipError: a field is missing or not known.
        """
        return ImagePreprocess.from_config(self.preprocess, source="image.preprocess")


@dataclass(frozen=True, kw_only=True)
class AdapterPart:
    """The adapter: ``llm_embeds`` [batch, llm_dim] to ``text_embeds`` [batch, embed_dim]."""

    file: str = "adapter.onnx"
    """The graph, beside the manifest."""

    def __post_init__(self) -> None:
        _check_name(self.file)


@dataclass(frozen=True, kw_only=True)
class EmbedderPart:
    """The LLM with its pooling: tokens [batch, tokens] to ``llm_embeds`` [batch, llm_dim].

    Inputs are int64: ``input_ids``; ``attention_mask``, 1 at tokens and 0 at padding; and, where `inputs` has it,
    ``pooling_mask``, 1 at tokens that go into the vector.
    """

    model: str
    """The LLM's name."""
    inputs: tuple[str, ...]
    """Names of the graph's inputs."""
    pooling: str
    """How tokens become one vector: ``mean``, ``last_token``, or as the model declares."""
    max_length: int
    """Tokens, special ones included; longer texts are cut at their end."""
    padding_side: Literal["left", "right"]
    """Where batches are padded."""
    pad_token_id: int
    """The token at padding."""
    instruction: str = ""
    """Text put before every caption."""
    class_instruction: str = ""
    """Text put before class names in their templates."""
    skip_tokens: int = 0
    """Leading tokens that are not pooled."""
    chat: str | None = None
    """LLM2Vec's frame around a text, with ``{}`` for it; pooled are then the text's own tokens and the frame's end."""
    tokenizer: str = "tokenizer.json"
    """File of the library tokenizers, beside the manifest; its own post-processor puts the special tokens."""
    file: str = "embedder.onnx"
    """The graph, beside the manifest."""

    def __post_init__(self) -> None:
        for name in (self.file, self.tokenizer):
            _check_name(name)
        known = "input_ids" in self.inputs and set(self.inputs) <= set(TOKEN_INPUTS)
        require(known, "embedder.inputs", f"input_ids and others of {', '.join(TOKEN_INPUTS)}", self.inputs)
        require(self.pad_token_id >= 0, "embedder.pad_token_id", "a token's number, 0 or more", self.pad_token_id)
        self.rows_config(self.instruction)

    def rows_config(self, instruction: str) -> EmbedderConfig:
        """What the rules that make rows of tokens of texts read, with one of the two instructions."""
        return EmbedderConfig(
            model=self.model,
            backend="causal-lm" if self.chat is None else "llm2vec",
            instruction=instruction,
            max_length=self.max_length,
            skip_tokens=self.skip_tokens,
            chat=self.chat,
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An exported model. ``image_embeds`` and ``text_embeds`` are L2-normalised in the graphs."""

    format: Literal["proclip-onnx"] = "proclip-onnx"
    """What this file is."""
    format_version: int = FORMAT_VERSION
    """Of this file's fields."""
    embed_dim: int
    """Width of the shared space."""
    llm_dim: int
    """Width of the LLM's vectors."""
    precision: Precision
    """Of weights and arithmetic; inputs and outputs are float32 in every precision."""
    logit_scale: float
    """Log of the inverse temperature: the logit is ``exp(logit_scale) * cosine + logit_bias``."""
    logit_bias: float | None = None
    """Of a model trained with the sigmoid loss: probabilities are the logits' sigmoid; else softmax over classes."""
    image: ImagePart | None = None
    """Where the image tower was exported."""
    adapter: AdapterPart | None = None
    """Where the adapter was exported."""
    embedder: EmbedderPart | None = None
    """Where the LLM was exported."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Parts that could not be exported, and why."""
    parity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By part, against torch in float32 on a few inputs: ``largest_difference`` of an entry, ``least_cosine``."""
    made_from: Mapping[str, Any] = field(default_factory=dict)
    """The model: a hash of its weights, CLIP, embedder with its identity, provenance, versions."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "llm_dim"):
            require(getattr(self, name) >= 1, name, "a width, 1 or more", getattr(self, name))
        scale = f"a number from -{MOST_LOGIT_SCALE:g} to {MOST_LOGIT_SCALE:g}"
        require(abs(self.logit_scale) <= MOST_LOGIT_SCALE, "logit_scale", scale, self.logit_scale)


def read_manifest(folder: Path) -> Manifest:
    """Read what ``proclip export onnx`` wrote beside the graphs.

    Raises:
        ProclipError: it is missing, of another version, names a file that is not there, or has a wrong field.
    """
    path = folder / FILE
    if not path.is_file():
        raise ProclipError(f"{folder} is no exported model: {FILE} is missing (proclip export onnx MODEL -o FOLDER)")
    values = read_json(path)
    if (found := values.get("format_version")) != FORMAT_VERSION:
        raise ProclipError(f"{path}: format_version {found}, this code reads {FORMAT_VERSION}")
    try:
        manifest = from_dict(Manifest, values)
        if manifest.image is not None:
            manifest.image.preprocessing()
    except ProclipError as error:
        raise ProclipError(f"{path}: {error}") from None
    files = [part.file for part in (manifest.image, manifest.adapter, manifest.embedder) if part is not None]
    files += [manifest.embedder.tokenizer] if manifest.embedder is not None else []
    for name in files:
        if not (folder / name).is_file():
            raise ProclipError(f"{folder / name} is missing: {path} names it; copy the whole folder")
    return manifest


def _check_name(name: str) -> None:
    """Files lie beside the manifest: a path would reach out of the folder."""
    if not name or name == ".." or Path(name).name != name or "\\" in name:
        raise ProclipError(f"{name!r} is not the name of a file beside it")
