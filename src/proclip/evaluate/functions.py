"""Any pair of encode functions as a model under evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from PIL.Image import Image
from torch import Tensor

from ..models.embedder import Encoded
from ..models.vectors import check_vectors
from .dual_encoder import DualEncoder

EncodeImages = Callable[[list[Image]], Any]
"""RGB pictures, b of them, to an array or tensor [b, d]."""
EncodeTexts = Callable[[list[str]], Any]
"""Texts, n of them, to an array or tensor [n, d]."""


def from_functions(
    encode_image: EncodeImages, encode_text: EncodeTexts, name: str, identity: str | None = None
) -> DualEncoder:
    """A model under evaluation from two functions.

    Args:
        encode_image: pictures to vectors in the space that both share; they need not be normalised.
        encode_text: texts to vectors.
        name: what tables call it.
        identity: names this version of the model; vectors are kept in the cache under it, so whatever changes them must
            change it. Without one nothing is cached.
    """
    return DualEncoder(
        name=name,
        images=FunctionImages(encode_image, identity),
        texts=FunctionTexts(encode_text, identity),
        project_text=lambda vectors: vectors,
        about={"path": None, "functions": identity},
    )


def _tensor(vectors: Any) -> Tensor:
    return torch.as_tensor(vectors).detach().to(device="cpu", dtype=torch.float32)


def _identity(kind: str, name: str | None) -> dict[str, Any]:
    return {"kind": kind, "name": name} if name is not None else {}


@final
class FunctionImages:
    """The image side; its function sees batches of decoded pictures."""

    def __init__(self, function: EncodeImages, name: str | None) -> None:
        self.function = function
        self.identity: Mapping[str, Any] = _identity("image-function", name)

    def prepare(self, image: Image) -> Image:
        """The picture itself."""
        return image

    def encode(self, prepared: Sequence[Image]) -> Tensor:
        """Pictures to image features, [b, f]."""
        return _tensor(self.function(list(prepared)))


@final
class FunctionTexts:
    """The text side; what it cuts is not known."""

    def __init__(self, function: EncodeTexts, name: str | None) -> None:
        self.function = function
        self.identity = _identity("text-function", name)
        self._dim: int | None = None

    @property
    def dim(self) -> int:
        """Width of the vectors; encodes a text to see it."""
        if self._dim is None:
            self.encode(["a photo"])
        assert self._dim is not None
        return self._dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts to vectors.

        Raises:
            ProclipError: they are not [n, d], or a value is not finite.
        """
        vectors = _tensor(self.function(list(texts)))
        check_vectors(vectors, texts)
        self._dim = vectors.shape[1]
        return Encoded(vectors, None)

    def for_classes(self) -> FunctionTexts:
        """Itself."""
        return self
