"""What is exported: each part of a model as a module of tensors alone, float32 in and out, and its trace."""

from __future__ import annotations

import copy
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..errors import ProclipError, one_line
from ..models.adapter import Adapter
from ..models.causal_lm import CausalLMEmbedder
from ..models.sentence_transformers_embedder import SentenceTransformersEmbedder
from ..models.towers import ImageTower

BATCH, TOKENS = "batch", "tokens"
"""Names of the axes whose length a graph leaves open."""
EXPORTERS = ("torch.export", "torch.onnx", "onnxscript", "onnx_ir")
"""Loggers of what traces and writes graphs."""
TOKEN_INPUTS = ("input_ids", "attention_mask", "pooling_mask")


class DoesNotExport(ProclipError):
    """A part of a kind that cannot be exported, however sound it is; the message says why."""


class Graph(nn.Module, ABC):
    """A part of a model to export; its arithmetic is float32 until `set_dtype`."""

    axes: ClassVar[Mapping[str, Mapping[int, str]]]
    """Open axes of each input, by the input's name, in the order of `forward`'s arguments."""
    output: ClassVar[str]
    """Name of the output."""
    blockwise: ClassVar[bool] = False
    """Whether int8 has scales for blocks: an LLM's states hold a few numbers a thousand times as large as the others,
    and one scale for all of them leaves nothing of the others (docs/export.md has figures)."""

    def __init__(self, most_tokens: int | None = None) -> None:
        super().__init__()
        self.dtype, self.most_tokens = torch.float32, most_tokens  # None: the code itself has no limit

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Compute in another precision from now on."""
        self.dtype = dtype
        self.to(dtype)

    @abstractmethod
    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace it with."""


class ImageGraph(Graph):
    """Pixel values [b, 3, s, s] to image embeds [b, d], L2-normalised."""

    axes: ClassVar = {"pixel_values": {0: BATCH}}
    output = "image_embeds"

    def __init__(self, tower: ImageTower, pixels: tuple[int, ...]) -> None:
        super().__init__()
        self.tower, self.pixels = copy.deepcopy(tower).float().cpu().eval(), pixels

    def example(self) -> tuple[Tensor, ...]:
        """Two pictures of noise."""
        return (torch.randn(2, *self.pixels),)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[b, 3, s, s] to [b, d] float32, L2-normalised."""
        return F.normalize(self.tower(pixel_values.to(self.dtype)).float(), dim=-1)


class AdapterGraph(Graph):
    """LLM embeddings [b, h] to text embeds [b, d], L2-normalised. The input norm is float32 in every precision."""

    axes: ClassVar = {"llm_embeds": {0: BATCH}}
    output = "text_embeds"

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = copy.deepcopy(adapter).float().cpu().folded()

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Compute what follows the input norm in another precision: raw states of an LLM may exceed float16."""
        self.dtype = dtype
        for part in (self.adapter.blocks, self.adapter.norm, self.adapter.project):
            part.to(dtype)

    def example(self) -> tuple[Tensor, ...]:
        """Two vectors of noise."""
        return (torch.randn(2, self.adapter.llm_dim),)

    def forward(self, llm_embeds: Tensor) -> Tensor:
        """[b, h] to [b, d] float32, L2-normalised."""
        x = self.adapter.normalized_input(llm_embeds).to(self.dtype)
        return F.normalize(self.adapter.features_of(x).float(), dim=-1)


class DecoderGraph(Graph):
    """Tokens and masks [b, t] to pooled states [b, h] of a decoder: backends ``causal-lm`` and ``llm2vec``."""

    axes: ClassVar = {name: {0: BATCH, 1: TOKENS} for name in TOKEN_INPUTS}
    output, blockwise = "llm_embeds", True

    def __init__(self, embedder: CausalLMEmbedder) -> None:
        super().__init__()
        self.embedder, self.model = embedder, embedder.model  # the second makes its weights known

    def example(self) -> tuple[Tensor, ...]:
        """Two rows of tokens, one of them padded."""
        ids, mask = _two_rows(self.embedder.padding_side)
        return ids, mask, mask.clone()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pooling_mask: Tensor) -> Tensor:
        """[b, t] int64 each to [b, h] float32."""
        return self.embedder.vectors(input_ids, attention_mask, pooling_mask).float()


class SentenceTransformersGraph(Graph):
    """Tokens and mask [b, t] to the vectors [b, h] of an embedding model, its own pooling and normalisation inside."""

    axes: ClassVar = {name: {0: BATCH, 1: TOKENS} for name in TOKEN_INPUTS[:2]}
    output, blockwise = "llm_embeds", True

    def __init__(self, embedder: SentenceTransformersEmbedder) -> None:
        super().__init__(embedder.max_length)  # learned positions end there
        self.model, self.padding_side = embedder.model, embedder.padding_side

    def example(self) -> tuple[Tensor, ...]:
        """Two rows of tokens, one of them padded."""
        return _two_rows(self.padding_side)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[b, t] int64 each to [b, h] float32."""
        found: dict[str, Any] = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
        embeds: Tensor = found["sentence_embedding"]
        return embeds.float()


def _two_rows(padding_side: str) -> tuple[Tensor, Tensor]:
    """Ids and mask of tokens, [2, 7] each."""
    ids = torch.arange(14).view(2, 7)
    mask = torch.ones_like(ids)
    mask[1, slice(0, 3) if padding_side == "left" else slice(4, None)] = 0
    return ids, mask


def traced(graph: Graph, what: str) -> ExportedProgram:
    """The program of a graph for any length of its open axes.

    Raises:
        DoesNotExport: ``torch.export`` cannot follow its code.
    """
    open_axes = {BATCH: Dim(BATCH), TOKENS: Dim(TOKENS, max=graph.most_tokens)}
    shapes = {name: {axis: open_axes[of] for axis, of in axes.items()} for name, axes in graph.axes.items()}
    with exporting(what, "torch.export cannot follow it"):
        return torch.export.export(graph.eval(), graph.example(), dynamic_shapes=shapes)


@contextmanager
def exporting(what: str, fault: str) -> Iterator[None]:
    """Quietly run code of an exporter; whatever it raises means that the part `what` does not export.

    Raises:
        DoesNotExport: with `fault` and the cause. A file that cannot be written stays an `OSError`.
    """
    try:
        with quiet(), torch.no_grad():
            yield
    except OSError:
        raise
    except Exception as error:
        raise DoesNotExport(f"{what} does not export: {fault}: {cause_of(error)}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of the exporters' own code and their notes on packages that are not needed; others still log."""
    levels = {logger: logger.level for logger in map(logging.getLogger, EXPORTERS)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    logging.root.addFilter(_no_advice)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeFilter(_no_advice)
        for logger, level in levels.items():
            logger.setLevel(level)


def _no_advice(record: logging.LogRecord) -> bool:
    """Whether a record is no advice of ONNX Runtime's quantizer, which logs as if it were the program itself."""
    return record.levelno >= logging.ERROR or "onnxruntime" not in Path(record.pathname).parts


def cause_of(error: BaseException) -> str:
    """What an exporter's error comes from, in one line: the error at the bottom says it, those above it advise."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {one_line(error)}"
