"""An embedder whose vectors are hashes: which texts it was asked for, and that vectors belong to them, can be seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from proclip.models.embedder import Encoded


class FakeEmbedder:
    """A vector from each text's hash; texts of more than 10 characters count as truncated."""

    dim = 4

    def __init__(self, layer: int = 1) -> None:
        self.identity: dict[str, Any] = {"kind": "fake", "layer": layer}
        self.seen: list[str] = []
        self.calls: list[Sequence[str]] = []

    def encode(self, texts: Sequence[str]) -> Encoded:
        self.seen += texts
        self.calls.append(texts)
        cut = torch.tensor([len(text) > 10 for text in texts])
        return Encoded(torch.stack([vector(text) for text in texts]), cut)

    def for_classes(self) -> FakeEmbedder:
        return self


def vector(text: str) -> torch.Tensor:
    return torch.tensor(list(hashlib.sha256(text.encode()).digest()[:4]), dtype=torch.float32)
