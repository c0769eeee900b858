"""An exported model: pictures and texts to vectors in ONNX Runtime, numpy in and out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import ProclipError
from ..models.inputs import Picture, check_batch_size, kind_of, open_picture, pictures_of, texts_of
from ..models.preprocess import ImagePreprocess
from ..models.progress import bar
from ..models.token_rows import batches, pad_rows
from ..models.vectors import Floats, as_array, check_llm_embeds, check_vectors, similarity
from ..models.zero_shot import DEFAULT_TEMPLATES, asked, build_zero_shot_classifier, probabilities
from .graph import Graph, Width
from .manifest import TOKEN_INPUTS, AdapterPart, EmbedderPart, ImagePart, Manifest, read_manifest
from .tokens import Tokenize, load_tokenizer, token_rows

BATCH_TOKENS = 1024
"""Tokens a batch of texts, padding included."""


def load(folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 0) -> OnnxModel:
    """Open what ``proclip export onnx`` wrote; a graph is loaded when it is first needed.

    Args:
        folder: of the export.
        providers: ONNX Runtime's, the first that can run a node does, such as ``CUDAExecutionProvider`` with the
            package onnxruntime-gpu.
        threads: of each graph; 0 is as many as there are cores.

    Raises:
        ProclipError: it is no such folder, a file is missing, or onnxruntime is not installed or lacks a provider.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ProclipError("onnxruntime is missing: pip install onnxruntime") from None
    if not isinstance(folder, (str, os.PathLike)):
        raise ProclipError(f"folder: the path of an export is wanted, not {kind_of(folder)}")
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 0:
        raise ProclipError(f"threads is {threads!r}: a whole number is wanted, 0 for as many as there are cores")
    there = onnxruntime.get_available_providers()
    if isinstance(providers, str) or not providers:
        raise ProclipError(f"providers: a list is wanted, not {providers!r}; onnxruntime here has {', '.join(there)}")
    if unknown := [name for name in providers if name not in there]:
        raise ProclipError(f"onnxruntime here has no provider {unknown[0]!r}: it has {', '.join(there)}")
    return OnnxModel(Path(folder), read_manifest(Path(folder)), list(providers), threads)


class OnnxModel:
    """Image and text encoders of an exported model; made by `load`.

    Args:
        folder: of the export.
        manifest: what it holds.
        providers: of ONNX Runtime.
        threads: of each graph; 0 is as many as there are cores.
    """

    def __init__(self, folder: Path, manifest: Manifest, providers: list[str], threads: int) -> None:
        self.folder, self.manifest, self.providers, self.threads = folder, manifest, providers, threads

    @cached_property
    def _image(self) -> tuple[Graph, ImagePreprocess]:
        part = self._image_part
        preprocess = part.preprocessing()
        takes: dict[str, Width] = {"pixel_values": ("image.preprocess.size", preprocess.size)}
        return self._graph("image", part.file, takes, ("image_embeds", self._embed_dim)), preprocess

    @cached_property
    def _adapter(self) -> Graph:
        return self._graph(
            "adapter", self._adapter_part.file, {"llm_embeds": self._llm_dim}, ("text_embeds", self._embed_dim)
        )

    @cached_property
    def _embedder(self) -> tuple[Graph, Tokenize]:
        part = self._embedder_part
        graph = self._graph("embedder", part.file, dict.fromkeys(part.inputs), ("llm_embeds", self._llm_dim))
        return graph, Tokenize(load_tokenizer(self.folder / part.tokenizer))

    @property
    def _embed_dim(self) -> Width:
        return "embed_dim", self.manifest.embed_dim

    @property
    def _llm_dim(self) -> Width:
        return "llm_dim", self.manifest.llm_dim

    @property
    def _image_part(self) -> ImagePart:
        if self.manifest.image is None:
            raise ProclipError(f"{self.folder} was exported without its image tower (--parts)")
        return self.manifest.image

    @property
    def _adapter_part(self) -> AdapterPart:
        if self.manifest.adapter is None:
            raise ProclipError(f"{self.folder} was exported without its adapter (--parts)")
        return self.manifest.adapter

    @property
    def _embedder_part(self) -> EmbedderPart:
        if self.manifest.embedder is None:
            why = self.manifest.left_out.get("embedder", "it was left out (--parts)")
            raise ProclipError(
                f"{self.folder} has no LLM: {why}; project_text takes vectors that the LLM gave elsewhere"
            )
        return self.manifest.embedder

    def _graph(self, part: str, file: str, takes: dict[str, Width], gives: tuple[str, Width]) -> Graph:
        return Graph(self.folder / file, part, takes, gives, self.providers, self.threads)

    def encode_image(
        self, images: Picture | Iterable[Picture], batch_size: int = 64, *, show_progress_bar: bool = False
    ) -> Floats:
        """Pictures to image embeds.

        Args:
            images: as of `ImageTextModel.encode_image`: a path, a Pillow image, an array [h, w, 3] of uint8, or a list.
            batch_size: pictures a step.
            show_progress_bar: a bar on stderr; it needs the package rich.

        Returns:
            [n, d] float32, L2-normalised; [d] for a single picture.

        Raises:
            ProclipError: what is given is no picture, there is no image tower, or a value is not finite.
        """
        pictures, single = pictures_of(images)
        check_batch_size(batch_size)
        graph, _ = self._image
        found = np.empty((len(pictures), self.manifest.embed_dim), dtype=np.float32)
        with bar("pictures", len(pictures), show_progress_bar) as advance:
            for start in range(0, len(pictures), batch_size):
                pixels = np.stack([
                    self.pixel_values(picture, f"picture {place}")
                    for place, picture in enumerate(pictures[start : start + batch_size], start)
                ])  # fmt: skip
                found[start : start + len(pixels)] = graph.run({"pixel_values": pixels})
                advance(len(pixels))
        self._check(found, [f"picture {place}" for place in range(len(pictures))])
        return found[0] if single else found

    def pixel_values(self, picture: Picture, name: str = "picture") -> Floats:
        """What the image tower takes of one picture, [3, s, s] float32; `name` for messages."""
        _, preprocess = self._image
        return preprocess.array(preprocess.fit_size(open_picture(picture, name)))

    def encode_text(
        self, texts: str | Iterable[str], batch_size: int = 512, *, show_progress_bar: bool = False
    ) -> Floats:
        """Texts of any length the LLM reads, in any of its languages, to text embeds.

        Args:
            texts: a string, or strings in an order.
            batch_size: texts a step; batches of like length are made of them.
            show_progress_bar: a bar on stderr; it needs the package rich.

        Returns:
            [n, d] float32, L2-normalised; [d] for a single string.

        Raises:
            ProclipError: a text is empty or no string, the LLM was not exported, or a value is not finite.
        """
        found = texts_of(texts)
        check_batch_size(batch_size)
        embeds = self._encode_all(found, batch_size, show_progress_bar)
        return embeds[0] if isinstance(texts, str) else embeds

    def _encode_all(self, texts: Sequence[str], batch_size: int, show: bool, classes: bool = False) -> Floats:
        _, adapter = self._embedder, self._adapter
        found = np.empty((len(texts), self.manifest.embed_dim), dtype=np.float32)
        with bar("texts", len(texts), show) as advance:
            for start in range(0, len(texts), batch_size):
                llm_embeds = self._llm_embeds(texts[start : start + batch_size], classes)
                found[start : start + len(llm_embeds)] = adapter.run({"llm_embeds": llm_embeds})
                advance(len(llm_embeds))
        self._check(found, texts)
        return found

    def embed_text(self, texts: str | Iterable[str], classes: bool = False) -> Floats:
        """Texts to the LLM's vectors, [n, h] float32, [1, h] for a string; `classes`: with the prompt for class names.

        Raises:
            ProclipError: a text is empty or no string, the LLM was not exported, or a value is not finite.
        """
        found = texts_of(texts)
        llm_embeds = self._llm_embeds(found, classes)
        self._check(llm_embeds, found)
        return llm_embeds

    def _llm_embeds(self, texts: Sequence[str], classes: bool) -> Floats:
        part, (graph, tokenize) = self._embedder_part, self._embedder
        rows = token_rows(texts, tokenize, part, part.class_instruction if classes else part.instruction)
        found = np.empty((len(rows), self.manifest.llm_dim), dtype=np.float32)
        for places in batches([len(row.ids) for row in rows], BATCH_TOKENS):
            arrays = pad_rows([rows[place] for place in places], part.pad_token_id, part.padding_side)
            inputs = dict(zip(TOKEN_INPUTS, arrays, strict=True))
            found[places] = graph.run({name: inputs[name] for name in part.inputs})
        return found

    def project_text(self, llm_embeds: Floats) -> Floats:
        """The LLM's vectors, [n, h], from here or elsewhere, to text embeds, [n, d] float32, L2-normalised.

        Raises:
            ProclipError: they are no array of that shape, there is no adapter, or a value is not finite.
        """
        adapter = self._adapter
        llm_embeds = as_array(llm_embeds, "the LLM's vectors")
        check_llm_embeds(llm_embeds, self.manifest.llm_dim)
        if not len(llm_embeds):
            return np.empty((0, self.manifest.embed_dim), dtype=np.float32)
        with np.errstate(over="ignore"):  # what is too large for float32 is told below
            rows = np.ascontiguousarray(llm_embeds, dtype=np.float32)
        found = adapter.run({"llm_embeds": rows})
        self._check(found, [f"vector {place}" for place in range(len(found))])
        return found

    def _check(self, vectors: Floats, names: Sequence[str]) -> None:
        half = self.manifest.precision == "float16"
        check_vectors(vectors, names, "; its numbers leave float16's range: export in float32" if half else "")

    similarity = staticmethod(similarity)

    def zero_shot_classifier(
        self, classnames: Sequence[str], templates: str | Sequence[str] = DEFAULT_TEMPLATES, batch_size: int = 512
    ) -> Floats:
        """One column a class: the mean of its prompts' text embeds, with the embedder's prompt for class names.

        Args:
            classnames: c names.
            templates: prompt templates with ``{}`` for the name.
            batch_size: texts a step.

        Returns:
            [d, c], L2-normalised columns; ``image_embeds @ classifier`` is the score of each class.

        Raises:
            ProclipError: no class, or a template without ``{}``.
        """
        names, templates = texts_of(classnames, "class name"), texts_of(templates, "template")
        check_batch_size(batch_size)
        return build_zero_shot_classifier(
            lambda texts: self._encode_all(texts, batch_size, False, classes=True), names, templates
        )

    def zero_shot(
        self,
        images: Picture | Iterable[Picture],
        labels: Sequence[str],
        templates: str | Sequence[str] = DEFAULT_TEMPLATES,
        batch_size: int = 64,
        *,
        show_progress_bar: bool = False,
    ) -> Floats:
        """How likely each label is for each picture, [n, c]; [c] for a single picture.

        Rows are shares that sum to 1; a model with ``logit_bias``, trained with the sigmoid loss, gives each label's
        own probability.

        Args:
            images: as of `encode_image`.
            labels: c class names, no two equal.
            templates: prompt templates with ``{}`` for the label; their mean counts.
            batch_size: pictures a step.
            show_progress_bar: a bar on stderr; it needs the package rich.

        Raises:
            ProclipError: what `encode_image` raises; no label, an empty or double one; a template without ``{}``.
        """
        names, templates = asked(labels, templates)
        embeds = self.encode_image(images, batch_size, show_progress_bar=show_progress_bar)
        cosines = embeds @ self.zero_shot_classifier(names, templates)
        return probabilities(cosines, self.manifest.logit_scale, self.manifest.logit_bias)
