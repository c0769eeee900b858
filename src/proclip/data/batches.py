"""The contract between data and training: what a batch holds, and what gives batches.

Letters: b batch, h width of the LLM's embeddings, d width of the shared space, s image side, t tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

BatchT_co = TypeVar("BatchT_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class DistillBatch:
    """Stage 1: texts as the LLM and as CLIP's text tower embedded them."""

    llm_embeds: Tensor
    """[b, h], as the embedder gave them; float32, or float16 or bfloat16 as a store has them."""
    teacher_embeds: Tensor
    """[b, d], L2-normalised; likewise."""


@dataclass(frozen=True, kw_only=True)
class TuneBatch:
    """Stage 2: images and the LLM's embedding of one caption of each."""

    pixel_values: Tensor
    """[b, 3, s, s] float32, normalised as the image tower wants it (NaFlex: [b, 1 + n, 3 p^2], packed)."""
    llm_embeds: Tensor
    """[b, h] float32."""
    image_ids: Tensor
    """[b] int64; equal for equal images."""
    text_ids: Tensor
    """[b] int64; equal for equal captions."""
    teacher_embeds: Tensor | None = None
    """[b, d] float32, L2-normalised: the original image tower's embedding of each plain picture, where it is cached."""


@dataclass(frozen=True, kw_only=True)
class PretrainBatch:
    """Contrastive pretraining: images and tokens of one caption of each."""

    pixel_values: Tensor
    """[b, 3, s, s] float32."""
    input_ids: Tensor
    """[b, t] int64, padded on the right."""
    attention_mask: Tensor
    """[b, t] int64, 1 at tokens."""
    image_ids: Tensor
    """[b] int64."""
    text_ids: Tensor
    """[b] int64."""


@dataclass(frozen=True, kw_only=True)
class MicroBatches(Generic[BatchT_co]):
    """A batch too large for the memory, in parts."""

    parts: Iterable[BatchT_co]
    """Batches whose samples, one part after the other, are the whole's. They can be walked several times and are the
    same each time; no walk keeps more than a few."""


@dataclass(frozen=True, kw_only=True)
class PairIds:
    """What is left of a batch of pairs, in parts, when all of them are encoded."""

    image_ids: Tensor
    """[b] int64; equal for equal images."""
    text_ids: Tensor
    """[b] int64; equal for equal captions."""


class BatchSource(Protocol[BatchT_co]):
    """Batches whose content depends on seed, epoch and position alone, so that any run can be resumed anywhere."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass."""

    @property
    def batch_size(self) -> int:
        """Samples in a batch (on this process)."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[BatchT_co]:
        """The batches of a pass, without the first `start`."""
