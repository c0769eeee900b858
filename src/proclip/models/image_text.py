"""What every model of pictures and texts does for its users: encode, compare, classify without training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .inputs import Picture, check_batch_size, open_picture, pictures_of, texts_of
from .preprocess import ImagePreprocess
from .progress import bar
from .towers import ImageTower
from .vectors import Floats, check_vectors, similarity
from .zero_shot import DEFAULT_TEMPLATES, asked, build_zero_shot_classifier, probabilities


class ImageTextModel(ABC):
    """A model with an image side and a text side in one space: `ProCLIP`, or a `Clip`.

    Its vectors are float32, L2-normalised, on the CPU, whatever it computes in: tensors, or numpy arrays on demand.
    """

    image_tower: ImageTower
    preprocess: ImagePreprocess
    logit_scale: Tensor | float
    logit_bias: Tensor | float | None

    @property
    @abstractmethod
    def towers(self) -> list[nn.Module]:
        """What computes most, and may do so in float16 or bfloat16."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str], classes: bool = False) -> Tensor:
        """One batch of texts, none empty, to text embeds [n, d] float32 on the CPU, L2-normalised.

        Args:
            texts: n texts.
            classes: whether they are class names in their templates, for which an embedder may have its own prompt.
        """

    @property
    def device(self) -> torch.device:
        """Where the image tower's weights are."""
        return next(self.image_tower.parameters()).device

    @overload
    def encode_image(
        self,
        images: Picture | Iterable[Picture],
        batch_size: int = 64,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def encode_image(
        self,
        images: Picture | Iterable[Picture],
        batch_size: int = 64,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: Literal[True],
    ) -> Floats: ...
    def encode_image(
        self,
        images: Picture | Iterable[Picture],
        batch_size: int = 64,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = False,
    ) -> Tensor | Floats:
        """Pictures to image embeds.

        Args:
            images: a path, a Pillow image, an array [h, w, 3] of uint8, or a list of them; EXIF orientation is applied.
            batch_size: pictures a step.
            show_progress_bar: a bar on stderr.
            convert_to_numpy: an array instead of a tensor.

        Returns:
            [n, d], [d] for a single picture, [0, d] for an empty list.

        Raises:
            ProclipError: a path is missing or is no image, an array is not of uint8, or something else is no picture.
        """
        pictures, single = pictures_of(images)
        check_batch_size(batch_size)
        chunks = [torch.empty(0, self.image_tower.embed_dim)]
        with bar("pictures", len(pictures), show_progress_bar) as advance:
            for start in range(0, len(pictures), batch_size):
                chunks.append(self.embed_pixels(self.pixel_values(pictures[start : start + batch_size], start)))
                advance(len(chunks[-1]))
        embeds = torch.cat(chunks)
        check_vectors(embeds, [f"picture {place}" for place in range(len(pictures))])
        return _given(embeds[0] if single else embeds, convert_to_numpy)

    def pixel_values(self, images: Sequence[Picture], first: int = 0) -> Tensor:
        """What the image tower takes of one batch of pictures, preprocessed and stacked, on the CPU.

        Args:
            images: pictures, as of `encode_image`.
            first: place of the first of them, for messages.
        """
        return torch.stack(
            [self.preprocess(open_picture(image, f"picture {place}")) for place, image in enumerate(images, first)]
        )

    @torch.no_grad()
    def embed_pixels(self, pixel_values: Tensor) -> Tensor:
        """A batch that the image tower takes, to image embeds [n, d] float32 on the CPU, L2-normalised."""
        self.image_tower.eval()
        return F.normalize(self.image_tower(pixel_values.to(self.device)).float(), dim=-1).cpu()

    @overload
    def encode_text(
        self,
        texts: str | Iterable[str],
        batch_size: int = 512,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def encode_text(
        self,
        texts: str | Iterable[str],
        batch_size: int = 512,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: Literal[True],
    ) -> Floats: ...
    def encode_text(
        self,
        texts: str | Iterable[str],
        batch_size: int = 512,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = False,
    ) -> Tensor | Floats:
        """Texts of any length that the text side reads, in any of its languages, to text embeds.

        Args:
            texts: a string, or a list of strings.
            batch_size: texts a step; an LLM makes batches of like length of them, as large as suits the device.
            show_progress_bar: a bar on stderr.
            convert_to_numpy: an array instead of a tensor.

        Returns:
            [n, d], [d] for a single string, [0, d] for an empty list.

        Raises:
            ProclipError: a text is empty or is no string; the LLM cannot be loaded.
        """
        found = texts_of(texts)
        check_batch_size(batch_size)
        embeds = self._embed_all(found, batch_size, show_progress_bar)
        return _given(embeds[0] if isinstance(texts, str) else embeds, convert_to_numpy)

    def _embed_all(self, texts: Sequence[str], batch_size: int, show: bool, classes: bool = False) -> Tensor:
        chunks = [torch.empty(0, self.image_tower.embed_dim)]
        with bar("texts", len(texts), show) as advance:
            for start in range(0, len(texts), batch_size):
                chunks.append(self.embed_texts(texts[start : start + batch_size], classes))
                advance(len(chunks[-1]))
        embeds = torch.cat(chunks)
        check_vectors(embeds, texts)
        return embeds

    similarity = staticmethod(similarity)

    def zero_shot_classifier(
        self, classnames: Sequence[str], templates: str | Sequence[str] = DEFAULT_TEMPLATES, batch_size: int = 512
    ) -> Tensor:
        """One column a class: the mean of its prompts' text embeds, with the embedder's prompt for class names.

        Args:
            classnames: c names.
            templates: prompt templates with ``{}`` for the name.
            batch_size: texts a step.

        Returns:
            [d, c], L2-normalised columns; ``image_embeds @ classifier`` is the score of each class.
        """
        check_batch_size(batch_size)
        names = texts_of(classnames, "class name")
        templates = texts_of(templates, "template")
        return build_zero_shot_classifier(
            lambda texts: self._embed_all(texts, batch_size, False, classes=True), names, templates
        )

    @overload
    def zero_shot(
        self,
        images: Picture | Iterable[Picture],
        labels: Sequence[str],
        templates: str | Sequence[str] = DEFAULT_TEMPLATES,
        batch_size: int = 64,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def zero_shot(
        self,
        images: Picture | Iterable[Picture],
        labels: Sequence[str],
        templates: str | Sequence[str] = DEFAULT_TEMPLATES,
        batch_size: int = 64,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: Literal[True],
    ) -> Floats: ...
    def zero_shot(
        self,
        images: Picture | Iterable[Picture],
        labels: Sequence[str],
        templates: str | Sequence[str] = DEFAULT_TEMPLATES,
        batch_size: int = 64,
        *,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = False,
    ) -> Tensor | Floats:
        """How likely each label is for each picture.

        Args:
            images: as of `encode_image`.
            labels: c class names, as they are to stand in the templates; no two are equal. Which of two labels that
                score alike comes first is left to the caller.
            templates: one or several prompt templates with ``{}`` for the label; their mean counts.
            batch_size: pictures a step.
            show_progress_bar: a bar on stderr.
            convert_to_numpy: an array instead of a tensor.

        Returns:
            [n, c], [c] for a single picture: softmax over the labels of exp(logit_scale) times the cosine, which sums
            to 1. Of a model trained with the sigmoid loss (it has a ``logit_bias``) each label's own chance, in [0, 1].

        Raises:
            ProclipError: what `encode_image` raises; no label, an empty or double one; a template without ``{}``.
        """
        names, templates = asked(labels, templates)
        embeds = self.encode_image(images, batch_size, show_progress_bar=show_progress_bar)  # before an LLM is loaded
        cosines = (embeds @ self.zero_shot_classifier(names, templates)).numpy()
        chances = torch.from_numpy(probabilities(cosines, _number(self.logit_scale), _number(self.logit_bias)))
        return _given(chances, convert_to_numpy)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def _given(vectors: Tensor, convert_to_numpy: bool) -> Tensor | Floats:
    if not convert_to_numpy:
        return vectors
    array: Floats = vectors.numpy()
    return array
