"""An exported model: pictures and texts to vectors in ONNX Runtime, numpy in and out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ProclipError, one_line
from ..models.inputs import Picture, check_batch_size, labels_of, open_picture, pictures_of, texts_of
from ..models.token_rows import batches, pad_rows
from ..models.zero_shot import DEFAULT_TEMPLATES, prompts
from .manifest import AdapterPart, EmbedderPart, ImagePart, Manifest, read_manifest
from .tokens import Tokenize, load_tokenizer, token_rows

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Vectors = npt.NDArray[np.float32]
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
        raise ProclipError('onnxruntime is missing: pip install "proclip-align[export]", or onnxruntime') from None
    folder = Path(folder)
    manifest = read_manifest(folder)
    there = onnxruntime.get_available_providers()
    if unknown := [name for name in providers if name not in there]:
        raise ProclipError(f"onnxruntime here has no provider {unknown[0]!r}: it has {', '.join(there)}")
    return OnnxModel(folder, manifest, list(providers), threads)


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
    def _image(self) -> InferenceSession:
        return self._session(self._image_part.file)

    @cached_property
    def _adapter(self) -> InferenceSession:
        return self._session(self._adapter_part.file)

    @cached_property
    def _embedder(self) -> tuple[InferenceSession, Tokenize]:
        part = self._embedder_part
        return self._session(part.file), Tokenize(load_tokenizer(self.folder / part.tokenizer))

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

    def _session(self, file: str) -> InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(self.folder / file), options, providers=self.providers)
        except Exception as error:  # ONNX Runtime's own classes share no base but this
            raise ProclipError(f"{self.folder / file} cannot be loaded by ONNX Runtime: {one_line(error)}") from None

    @cached_property
    def _preprocess(self) -> Any:
        return self._image_part.preprocessing()

    def encode_image(self, images: Picture | Iterable[Picture], batch_size: int = 64) -> Vectors:
        """Pictures to image embeds.

        Args:
            images: as of `ImageTextModel.encode_image`: a path, a Pillow image, an array [h, w, 3] of uint8, or a list.
            batch_size: pictures a step.

        Returns:
            [n, d] float32, L2-normalised; [d] for a single picture.

        Raises:
            ProclipError: what is given is no picture, or there is no image tower.
        """
        pictures, single = pictures_of(images)
        check_batch_size(batch_size)
        session = self._image
        found = np.empty((len(pictures), self.manifest.embed_dim), dtype=np.float32)
        for start in range(0, len(pictures), batch_size):
            pixels = np.stack([
                self.pixel_values(picture, f"picture {place}")
                for place, picture in enumerate(pictures[start : start + batch_size], start)
            ])  # fmt: skip
            found[start : start + len(pixels)] = _run(session, {"pixel_values": pixels})
        return found[0] if single else found

    def pixel_values(self, picture: Picture, name: str = "picture") -> Vectors:
        """What the image tower takes of one picture, [3, s, s] float32; `name` for messages."""
        array: Vectors = self._preprocess.array(self._preprocess.fit_size(open_picture(picture, name)))
        return array

    def encode_text(self, texts: str | Iterable[str]) -> Vectors:
        """Texts of any length the LLM reads, in any of its languages, to text embeds.

        Returns:
            [n, d] float32, L2-normalised; [d] for a single string.

        Raises:
            ProclipError: a text is empty or no string, or the LLM was not exported.
        """
        embeds = self.project_text(self.embed_text(texts_of(texts)))
        return embeds[0] if isinstance(texts, str) else embeds

    def embed_text(self, texts: Sequence[str], classes: bool = False) -> Vectors:
        """Texts to the LLM's vectors, [n, h] float32; with `classes` with the prompt for class names."""
        part, (session, tokenize) = self._embedder_part, self._embedder
        rows = token_rows(texts, tokenize, part, part.class_instruction if classes else part.instruction)
        found = np.empty((len(rows), self.manifest.llm_dim), dtype=np.float32)
        for places in batches([len(row.ids) for row in rows], BATCH_TOKENS):
            arrays = pad_rows([rows[place] for place in places], part.pad_token_id, part.padding_side)
            inputs = dict(zip(("input_ids", "attention_mask", "pooling_mask"), arrays, strict=True))
            found[places] = _run(session, {name: inputs[name] for name in part.inputs})
        return found

    def project_text(self, llm_embeds: Vectors) -> Vectors:
        """The LLM's vectors, [n, h], from here or elsewhere, to text embeds, [n, d] float32, L2-normalised.

        Raises:
            ProclipError: they have another shape, or there is no adapter.
        """
        session, wanted = self._adapter, self.manifest.llm_dim
        if llm_embeds.ndim != 2 or llm_embeds.shape[1] != wanted:
            raise ProclipError(f"the adapter takes vectors [n, {wanted}], these are {list(llm_embeds.shape)}")
        if not len(llm_embeds):
            return np.empty((0, self.manifest.embed_dim), dtype=np.float32)
        return _run(session, {"llm_embeds": np.ascontiguousarray(llm_embeds, dtype=np.float32)})

    @staticmethod
    def similarity(image_embeds: Vectors, text_embeds: Vectors) -> Vectors:
        """Cosine of every image with every text, [n, m], in [-1, 1]; inputs L2-normalised."""
        cosines: Vectors = image_embeds @ text_embeds.T
        return cosines

    def zero_shot_classifier(
        self, classnames: Sequence[str], templates: str | Sequence[str] = DEFAULT_TEMPLATES
    ) -> Vectors:
        """One column a class: the mean of its prompts' text embeds, with the embedder's prompt for class names.

        Args:
            classnames: c names.
            templates: prompt templates with ``{}`` for the name.

        Returns:
            [d, c], L2-normalised columns; ``image_embeds @ classifier`` is the score of each class.

        Raises:
            ProclipError: no class, or a template without ``{}``.
        """
        templates = texts_of(templates, "template")
        texts = prompts(texts_of(classnames, "class name"), templates)
        embeds = self.project_text(self.embed_text(texts, classes=True))
        means = embeds.reshape(len(classnames), len(templates), -1).mean(axis=1)
        columns: Vectors = (means / np.linalg.norm(means, axis=1, keepdims=True)).T.astype(np.float32)
        return columns

    def zero_shot(
        self,
        images: Picture | Iterable[Picture],
        labels: Sequence[str],
        templates: str | Sequence[str] = DEFAULT_TEMPLATES,
    ) -> Vectors:
        """How likely each label is for each picture, [n, c]; [c] for a single picture.

        Rows are shares that sum to 1; a model with ``logit_bias``, trained with the sigmoid loss, gives each label's
        own probability.
        """
        cosines = self.encode_image(images) @ self.zero_shot_classifier(labels_of(labels), templates)
        logits = np.exp(np.float32(self.manifest.logit_scale)) * cosines
        likely: Vectors
        if self.manifest.logit_bias is not None:
            likely = (1 / (1 + np.exp(-(logits + self.manifest.logit_bias)))).astype(np.float32)
            return likely
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        likely = (shares / shares.sum(axis=-1, keepdims=True)).astype(np.float32)
        return likely


def _run(session: InferenceSession, inputs: dict[str, npt.NDArray[Any]]) -> Vectors:
    try:
        found: Vectors = session.run(None, inputs)[0]
    except Exception as error:  # a graph that does not take these inputs; ONNX Runtime's classes share no other base
        raise ProclipError(f"the exported graph cannot be run: {one_line(error)}") from None
    return found
