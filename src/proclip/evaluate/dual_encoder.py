"""A model under evaluation: an image side and a text side in one space, and what each is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image
from torch import Tensor

from ..models.embedder import TextEmbedder


class ImageEncoder(Protocol):
    """The image side: what a decoding thread does to one picture, and what the model does to a batch of them."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that shapes the features, JSON values; equal identities give equal features.

        An empty one says that this is not known: nothing is kept in a cache. The same holds for the text side.
        """

    def prepare(self, image: Image) -> Any:
        """One RGB picture to what `encode` takes of it; called in threads, while the model computes."""

    def encode(self, prepared: Sequence[Any]) -> Tensor:
        """Prepared pictures, b of them, to image features, [b, f] float32 on the CPU, not normalised."""


@dataclass(frozen=True, kw_only=True)
class DualEncoder:
    """A model under evaluation.

    Similarity is the inner product of L2-normalised image features and projected, L2-normalised text vectors.
    """

    name: str
    """What tables call it."""
    images: ImageEncoder
    """The image side."""
    texts: TextEmbedder
    """The text side, up to where its vectors are kept in a cache: an LLM, or CLIP's text tower."""
    project_text: Callable[[Tensor], Tensor]
    """Vectors of texts [n, h] to text features [n, f]: the adapter, or nothing."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """``path``, ``config_hash``, ``seed``, ``clip``, and what else a result file should say of it."""
    languages: tuple[str, ...] | None = None
    """Codes of the languages that the text side was trained on; None if that is not known."""
    logit_scale: float | None = None
    """Log of the inverse temperature; None where the model has none of its own."""
    logit_bias: float | None = None
    """Of a model trained with the sigmoid loss."""
    close: Callable[[], None] = lambda: None
    """Frees what it holds."""


def label_of(name: str) -> str:
    """What tables call a model: its folder's name, or its hub id."""
    return Path(name).resolve().name if Path(name).is_dir() else name
