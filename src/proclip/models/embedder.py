"""What gives texts vectors: the protocol, the identity of an embedder, and how the frozen LLM is loaded and let go."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

import torch
from torch import Tensor

from ..config import EmbedderConfig
from ..errors import ProclipError
from .compiling import check_compiler, compile_blocks
from .devices import known_device
from .embedder_source import identity_of, locate, settings_of

if TYPE_CHECKING:
    from .causal_lm import CausalLMEmbedder
    from .sentence_transformers_embedder import SentenceTransformersEmbedder


@dataclass(frozen=True)
class Encoded:
    """Vectors of some texts, in the order of the texts."""

    embeds: Tensor
    """[n, h] float32 on the CPU."""
    cut: Tensor | None
    """[n] bool: which texts were longer than the encoder reads and lost their end; None where it does not say."""
    tokens: Tensor | None = None
    """[n] int64: tokens that were read of each text, prompt and special ones included; None where it does not say."""

    @property
    def truncated(self) -> int:
        """How many texts are known to have lost their end."""
        return int(self.cut.sum()) if self.cut is not None else 0


class TextEmbedder(Protocol):
    """What gives texts vectors: a frozen LLM, or CLIP's text tower as the teacher."""

    @property
    def dim(self) -> int:
        """Width of the vectors."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that shapes the vectors, as JSON values; equal identities give equal vectors."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts (captions, unless this is what `for_classes` gave) to vectors, in the order of the texts."""

    def for_classes(self) -> TextEmbedder:
        """The same weights with the prompt for class names, and its identity; itself if that prompt is the same."""


def identity_difference(want: Mapping[str, Any], have: Mapping[str, Any]) -> str:
    """The fields in which two identities differ, as a text for an error; empty if they are equal."""
    plain_want, plain_have = json.loads(json.dumps(dict(want))), json.loads(json.dumps(dict(have)))
    fields = [key for key in {**plain_want, **plain_have} if plain_want.get(key) != plain_have.get(key)]
    return "; ".join(f"{key}: want {plain_want.get(key)!r}, have {plain_have.get(key)!r}" for key in fields)


def embedder_identity(config: EmbedderConfig) -> dict[str, Any]:
    """The identity of the embedder that `load_embedder` would load, without loading it.

    The model's files stand in it by a hash, so that a folder may be moved and a changed file is noticed.

    Raises:
        ProclipError: the model cannot be found.
    """
    return identity_of(config, locate(config))


def load_embedder(config: EmbedderConfig, device: str = "cpu") -> TextEmbedder:
    """Load the frozen embedder.

    Args:
        config: model, backend, pooling, layer, prompts, length, precision.
        device: where it computes, unless ``config.device_map`` says; vectors come back to the CPU.

    Raises:
        ProclipError: the model, the device or a package it needs is missing, a file of it cannot be read, a setting
            does not fit the model, or torch.compile does not work here.
    """
    device = known_device(device)
    source = locate(config)
    identity = identity_of(config, source)
    if config.compile:
        check_compiler(device, "embedder.compile")
    embedder: CausalLMEmbedder | SentenceTransformersEmbedder
    if config.backend == "sentence-transformers":
        from .sentence_transformers_embedder import SentenceTransformersEmbedder, load_sentence_transformer

        embedder = SentenceTransformersEmbedder(load_sentence_transformer(config, source, device), config, identity)
    else:
        from .causal_lm import CausalLMEmbedder, load_causal_lm

        embedder = CausalLMEmbedder(*load_causal_lm(config, source, device), config, identity)
    if config.compile:
        compile_blocks(embedder.model)
    embedder.for_classes()  # a prompt for classes that cannot be used is refused now, not after training
    return embedder


@final
class LazyEmbedder:
    """An embedder whose identity is known at once and whose weights are loaded when they are first needed.

    Args:
        config: of the embedder.
        device: where it computes.
        expect: identity that it must have, None if any will do.

    Raises:
        ProclipError: the model cannot be found, or has another identity; the message names what differs.
    """

    def __init__(self, config: EmbedderConfig, device: str = "cpu", expect: Mapping[str, Any] | None = None) -> None:
        self.config, self.device, self.identity = config, device, embedder_identity(config)
        if expect is not None and (differ := identity_difference(expect, self.identity)):
            raise ProclipError(f"the embedder is not the one the adapter was trained with: {differ}")
        self._embedder: TextEmbedder | None = None
        self._weights_of: LazyEmbedder | None = None  # of whom this is the view for class names

    def _loaded(self) -> TextEmbedder:
        if self._weights_of is not None:
            return self._weights_of._loaded().for_classes()
        if self._embedder is None:
            self._embedder = load_embedder(self.config, self.device)
        return self._embedder

    @property
    def dim(self) -> int:
        """Width of the vectors; loads the weights."""
        return self._loaded().dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts to vectors, in the order of the texts; loads the weights."""
        return self._loaded().encode(texts)

    def for_classes(self) -> LazyEmbedder:
        """The same weights, loaded once for both, with the prompt for class names."""
        config = self.config.for_classes()
        if config == self.config:
            return self
        view = copy.copy(self)
        view.config, view.identity = config, {"files": self.identity["files"], **settings_of(config)}
        view._embedder, view._weights_of = None, self
        return view

    def close(self) -> None:
        """Free the weights; the next text loads them again."""
        if self._weights_of is not None:
            self._weights_of.close()
        self._embedder = None
        gc.collect()  # libraries leave cycles around a model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
