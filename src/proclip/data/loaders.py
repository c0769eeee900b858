"""Batches for each stage: seeded by (seed, epoch, position) alone, so every run can be resumed at any step.

A sample's augmentation and its choice of caption come from a generator of its own, derived from the seed, the epoch
and the sample's key; how many threads decode, and where a run was interrupted, changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..config import DataConfig, DistillConfig, PretrainConfig, TuneConfig
from ..errors import ProclipError
from ..models.preprocess import ImagePreprocess
from ..models.towers import TextTokenizer
from ..seeding import derive_seed
from .ahead import ahead, in_parts
from .batches import DistillBatch, MicroBatches, PretrainBatch, TuneBatch
from .columns import batched
from .dataset import Samples, check_captions
from .image_loading import ImageLoader, Loaded, stacked
from .order import Block, Order, Pass
from .store import EmbeddingStore, caption_key

B = TypeVar("B")
EMBEDS_A_PART = 1 << 14
"""Embeddings that are held at one time while all are read."""


def _ids(texts: Sequence[str]) -> Tensor:
    return torch.tensor([derive_seed(text) for text in texts])


def _stored_rows(
    store: EmbeddingStore, samples: Samples, columns: Sequence[str], left_out: Collection[str] = frozenset()
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Row in a store of every caption, checked: of sample i in column j at i c + j, of c columns; -1 where left out."""
    rows = np.full(len(samples) * len(columns), -1)
    read = ((place, *caption) for place, caption in enumerate(_captions(samples, columns)))
    for chunk in batched(((p, key, text) for p, key, text in read if key not in left_out)):
        places, keys, texts = zip(*chunk, strict=True)
        store.check(zip(keys, texts, strict=True))
        rows[list(places)] = store.find(keys).numpy()
    return rows


def _captions(samples: Samples, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Keys in a store, and texts, sample by sample."""
    return ((caption_key(key, column), text or "") for key, column, text in samples.captions(columns))


class DistillBatches:
    """Stage 1's texts: every (sample, caption column) pair, as two rows of the stores; no text, no model.

    The rows are looked up once, when it is made, and are 16 bytes a text of memory.

    Args:
        samples: of the split.
        llm, teacher: the embedding stores.
        config: caption columns, and which column the teacher reads for each.
        seed: of the order.
        left_out: keys of the teacher's captions that are no targets: it cannot read them whole.

    Raises:
        ProclipError: a caption is missing from the data or from a store, or has changed since it was embedded.
    """

    def __init__(
        self,
        samples: Samples,
        llm: EmbeddingStore,
        teacher: EmbeddingStore,
        config: DistillConfig,
        seed: int,
        left_out: Collection[str] = frozenset(),
    ) -> None:
        for column in config.teacher_captions:
            if column not in config.captions:
                raise ProclipError(f"distill.teacher_captions.{column}: {column!r} is not one of distill.captions")
        targets = [config.teacher_captions.get(column, column) for column in config.captions]
        check_captions(samples, sorted({*config.captions, *targets}))
        self.llm, self.teacher = llm, teacher
        self._llm_rows = _stored_rows(llm, samples, config.captions)
        self._teacher_rows = _stored_rows(teacher, samples, targets, left_out)
        whole = self._teacher_rows >= 0
        self._learned = np.flatnonzero(whole) if left_out else None
        self.texts, self.left_out = len(whole), len(whole) - int(whole.sum())
        ends = np.cumsum([len(part) * len(targets) for part in samples.parts])
        counts = [int(of_part.sum()) for of_part in np.split(whole, ends[:-1])]
        blocks = [Block(count, part.weight) for count, part in zip(counts, samples.parts, strict=True) if count]
        self._order = Order(blocks, config.batch_size, seed, "texts")
        self.batch_size, self.steps_per_epoch = self._order.batch_size, self._order.steps_per_epoch

    def training_llm_embeds(self) -> Iterator[Tensor]:
        """Every text's LLM embedding, those left out too, in parts [m, h]: what the input norm is fitted to."""
        for start in range(0, self.texts, EMBEDS_A_PART):
            yield self.llm.at(torch.from_numpy(self._llm_rows[start : start + EMBEDS_A_PART]))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[DistillBatch]:
        """The batches of a pass, without the first `start`; the next ones are read while one is used."""
        order = self._order.epoch(epoch)

        def make(places: range, pool: ThreadPoolExecutor) -> Callable[[], DistillBatch]:
            return pool.submit(self._batch, order, places).result

        return ahead(self._order.places(start), make)

    def _batch(self, order: Pass, places: range) -> DistillBatch:
        items, _ = order.at(np.asarray(places))
        texts = items if self._learned is None else self._learned[items]
        return DistillBatch(
            llm_embeds=self.llm.at(torch.from_numpy(self._llm_rows[texts])),
            teacher_embeds=self.teacher.at(torch.from_numpy(self._teacher_rows[texts])),
        )


class _ImageBatches(ABC, Generic[B]):
    """What batches with images share: their order, their decoding ahead, and batches in parts."""

    def __init__(
        self,
        samples: Samples,
        preprocess: ImagePreprocess,
        config: TuneConfig | PretrainConfig,
        seed: int,
        data: DataConfig | None,
        broken_file: Path | None,
    ) -> None:
        check_captions(samples, tuple(config.captions))
        self.samples = samples
        self._images = ImageLoader(
            samples, config.captions, preprocess, config.augment, config.batch_size, seed, data or DataConfig(),
            broken_file,
        )  # fmt: skip
        self.broken = self._images.broken
        self.batch_size, self.steps_per_epoch = self._images.order.batch_size, self._images.order.steps_per_epoch
        self.micro_batch_size = config.micro_batch_size

    @abstractmethod
    def _batch(self, loaded: Sequence[Loaded]) -> B:
        """The batch of some loaded images."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[B | MicroBatches[B]]:
        """The batches of a pass, without the first `start`; in parts where ``micro_batch_size`` says so."""
        order = self._images.order.epoch(epoch)
        self.broken.start_pass()

        def make(places: range, pool: ThreadPoolExecutor) -> Callable[[], B]:
            loading = self._images.start(places, order, epoch, pool)
            return lambda: self._batch(self._images.finish(places, loading))

        places = self._images.order.places(start)
        return ahead(places, make) if self.micro_batch_size is None else in_parts(places, self.micro_batch_size, make)


class TuneBatches(_ImageBatches[TuneBatch]):
    """Stage 2's pairs: an augmented image and the stored LLM embedding of one of its captions.

    Args:
        samples: of the split.
        llm: the embedding store.
        preprocess: the image tower's.
        config: caption columns, augmentation, batch size.
        seed: of order, caption choice and augmentation.
        teacher: the original image tower's embedding of each plain picture by the sample's key, for the batches
            of the teacher ``cached``.
        data: limits and settings of reading pictures.
        broken_file: where broken pictures are listed.

    Raises:
        ProclipError: a caption is missing from the data or from the store, or has changed since it was embedded; a
            picture is missing from `teacher`.
    """

    def __init__(
        self,
        samples: Samples,
        llm: EmbeddingStore,
        preprocess: ImagePreprocess,
        config: TuneConfig,
        seed: int,
        teacher: EmbeddingStore | None = None,
        data: DataConfig | None = None,
        broken_file: Path | None = None,
    ) -> None:
        columns = tuple(config.captions)
        check_captions(samples, columns)
        llm.check(_captions(samples, columns))
        if teacher is not None:
            for part in batched((key for key, _, _ in samples.captions(columns[:1]))):
                teacher.find(part)  # raises where one is not there, naming it and the store
        super().__init__(samples, preprocess, config, seed, data, broken_file)
        self.llm, self.teacher = llm, teacher

    def training_llm_embeds(self) -> Iterator[Tensor]:
        """Every caption's LLM embedding, in parts [m, h]: what the adapter's input norm is fitted to."""
        for part in batched(_captions(self.samples, self._images.captions), EMBEDS_A_PART):
            yield self.llm.rows([key for key, _ in part])

    def _batch(self, loaded: Sequence[Loaded]) -> TuneBatch:
        keys = [one.sample.key for one in loaded]
        return TuneBatch(
            pixel_values=stacked(loaded),
            llm_embeds=self.llm.rows([caption_key(one.sample.key, one.column) for one in loaded]),
            image_ids=_ids(keys),
            text_ids=_ids([one.text for one in loaded]),
            teacher_embeds=self.teacher.rows(keys) if self.teacher is not None else None,
        )


class PretrainBatches(_ImageBatches[PretrainBatch]):
    """Contrastive pretraining's pairs: an augmented image and the tokens of one of its captions."""

    def __init__(
        self,
        samples: Samples,
        tokenizer: TextTokenizer,
        preprocess: ImagePreprocess,
        config: PretrainConfig,
        seed: int,
        data: DataConfig | None = None,
        broken_file: Path | None = None,
    ) -> None:
        super().__init__(samples, preprocess, config, seed, data, broken_file)
        self.tokenizer = tokenizer

    def truncated(self) -> tuple[int, int]:
        """How many captions are longer than the text tower reads, and how many there are."""
        cut = total = 0
        for part in batched(_captions(self.samples, self._images.captions), 1024):
            cut += self.tokenizer([text for _, text in part]).truncated
            total += len(part)
        return cut, total

    def _batch(self, loaded: Sequence[Loaded]) -> PretrainBatch:
        texts = [one.text for one in loaded]
        tokens = self.tokenizer(texts)
        return PretrainBatch(
            pixel_values=stacked(loaded),
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            image_ids=_ids([one.sample.key for one in loaded]),
            text_ids=_ids(texts),
        )
