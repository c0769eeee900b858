"""The frame that embedders with weights share: texts in batches of like length, a self-check at the first call."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..config import EmbedderConfig
from .embedder import Encoded
from .embedder_source import settings_of
from .self_check import Settings, self_check
from .token_rows import batches, check_texts

Row = TypeVar("Row")


@dataclass(frozen=True)
class Prepared(Generic[Row]):
    """Texts as `BatchedEmbedder.forward` takes them."""

    rows: list[Row]
    """One for each text."""
    lengths: list[int]
    """Tokens of each."""
    cut: list[bool]
    """Which texts lost their end."""


class BatchedEmbedder(ABC, Generic[Row]):
    """An embedder whose weights are in memory: what the libraries behind it do not differ in.

    Args:
        config: of the embedder.
        identity: what a store records.
        dim: width of the vectors.
        device: where inputs go.
        width: of the model's own states, where vectors are made narrower or wider than these.
    """

    def __init__(
        self, config: EmbedderConfig, identity: dict[str, Any], dim: int, device: torch.device, width: int | None = None
    ) -> None:
        self.config, self.identity, self.dim, self.device = config, identity, dim, device
        self.width = dim if width is None else width
        self._checked = False

    @abstractmethod
    def prepare(self, texts: Sequence[str]) -> Prepared[Row]:
        """Texts, none empty, with their prompt and cut to the longest length allowed."""

    @abstractmethod
    def forward(self, rows: Sequence[Row]) -> Tensor:
        """One batch, padded, to vectors, [b, h]."""

    @abstractmethod
    def other_padding(self) -> BatchedEmbedder[Row] | None:
        """The same embedder with its batches padded on the other side; None where only one side can be right."""

    def in_batches(self, prepared: Prepared[Row], batch_tokens: int) -> Iterator[tuple[list[int], Tensor]]:
        """Places of texts and their vectors, batch by batch."""
        for places in batches(prepared.lengths, batch_tokens):
            yield places, self.forward([prepared.rows[place] for place in places])

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """Where to look when the self-check finds something wrong."""

    @abstractmethod
    def read_prompt(self) -> None:
        """Take the prompt from the config.

        Raises:
            ProclipError: the model has no such prompt, or it leaves no room for a text.
        """

    def encode(self, texts: Sequence[str], batch_tokens: int | None = None) -> Encoded:
        """Texts to vectors, in batches of texts of like length, or short ones side by side.

        Args:
            texts: n texts.
            batch_tokens: most tokens in a batch, padding included; if not given 1,024 on a CPU, and elsewhere the more
                the narrower the model's states, 16,384 at 4,096 numbers and 65,536 at most.

        Raises:
            ProclipError: a text is empty, or the self-check at the first call fails.
        """
        check_texts(texts)
        if not texts:
            return Encoded(torch.empty(0, self.dim), torch.empty(0, dtype=torch.bool))
        with _attention(self.device):
            if not self._checked:
                other = self.other_padding()
                self_check(self.config, self.settings, self._vectors, other._vectors if other else None)
                self._checked = True
            prepared = self.prepare(texts)
            embeds = torch.empty(len(texts), self.dim)
            for places, vectors in self.in_batches(prepared, batch_tokens or _budget(self.device, self.width)):
                embeds[places] = vectors.float().cpu()
        return Encoded(embeds, torch.tensor(prepared.cut), torch.tensor(prepared.lengths))

    def for_classes(self) -> BatchedEmbedder[Row]:
        """The same weights with the prompt for class names; itself if that is the captions'."""
        config = self.config.for_classes()
        if config == self.config:
            return self
        view = copy.copy(self)
        view.config, view.identity = config, {"files": self.identity["files"], **settings_of(config)}
        view.read_prompt()
        return view

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        return self.forward(self.prepare(texts).rows).float().cpu()


def _budget(device: torch.device, width: int) -> int:
    """Tokens a batch: on a CPU what its caches hold (a quarter faster than 4,096 there), else what keeps a GPU busy.

    Its operations take the longer the wider they are, and starting one takes the same: narrow models need more tokens.
    """
    return 1024 if device.type == "cpu" else min(1 << 16, (1 << 26) // width)


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU no attention of cuDNN's, which plans anew for each shape, and every batch has another."""
    if device.type != "cuda":
        return nullcontext()
    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(kernels)
