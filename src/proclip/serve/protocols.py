"""What the server asks of a model and of an index of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image


@dataclass(frozen=True)
class Texts:
    """Vectors of n texts, in the order of the texts."""

    embeds: NDArray[np.float32]
    """[n, d], L2-normalised."""
    tokens: Sequence[int]
    """How many tokens of each were read; zeros where the model does not say."""
    cut: Sequence[bool]
    """Which lost their end, for they were longer than the model reads; all False where it does not say."""


class Encoder(Protocol):
    """A model with a picture side and, if it has one here, a text side.

    `prepare_image` is called from several threads, everything else from one.
    """

    @property
    def name(self) -> str:
        """What clients call the model; never a path."""

    @property
    def dim(self) -> int:
        """d, width of the vectors."""

    @property
    def no_texts(self) -> str:
        """Why no text can be encoded; empty where texts can."""

    @property
    def logit_scale(self) -> float | None:
        """Log of the inverse temperature; None where the model has none, and classes then get no probabilities."""

    @property
    def logit_bias(self) -> float | None:
        """Of a model trained with the sigmoid loss: a class's probability is then its own, not a share."""

    def prepare_image(self, image: Image) -> Any:
        """One RGB picture to what `encode_images` takes of it."""

    def encode_images(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Prepared pictures to [n, d], L2-normalised."""

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Captions and queries; none is empty."""

    def encode_labels(self, texts: Sequence[str]) -> Texts:
        """Class names in their templates: with the model's prompt for classes, where it has one."""


class Hit(Protocol):
    """A picture that was found."""

    @property
    def id(self) -> str:
        """The same picture has the same one in every answer. What is not of letters, digits, - and _ is hashed."""

    @property
    def name(self) -> str:
        """What people call it, as a file's name; of a path only the last part is told."""

    @property
    def score(self) -> float:
        """Cosine of the picture with the query."""

    def thumbnail(self) -> bytes:
        """A JPEG, PNG or WebP file of it, upright, some hundred pixels large; called from several threads."""


class SearchIndex(Protocol):
    """Vectors of pictures. It is searched from one thread, which is not the one that made it."""

    def __len__(self) -> int:
        """How many pictures."""

    def search(self, query_embeds: NDArray[np.float32], k: int) -> Sequence[Hit]:
        """The k nearest to a vector [d], L2-normalised; best first, fewer where there are fewer."""

    def vector_of(self, id: str) -> NDArray[np.float32] | None:
        """Of a hit by its id: [d], L2-normalised; None where it is not there any more."""
