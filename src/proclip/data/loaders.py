"""Batches for each stage: seeded by (seed, epoch, position) alone, so every run can be resumed at any step.

A sample's augmentation and its choice of caption come from a generator of its own, derived from the seed, the epoch
and the sample's key; how many threads decode, and where a run was interrupted, changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import distributed
from ..config import DataConfig, DistillConfig, PretrainConfig, TuneConfig
from ..errors import ProclipError
from ..models.preprocess import ImagePreprocess
from ..models.towers import TextTokenizer
from ..seeding import derive_seed
from .ahead import ahead, in_parts
from .batches import DistillBatch, MicroBatches, PretrainBatch, TuneBatch
from .columns import batched
from .dataset import Samples, check_captions
from .embed_plan import Skip
from .image_loading import ImageLoader, Loaded, stacked
from .key_table import Ints
from .order import Block, Order, Pass
from .store import EmbeddingStore
from .stored_rows import StoredRows

B = TypeVar("B")
EMBEDS_A_PART = 1 << 14
"""Embeddings that are held at one time while all are read."""


def _ids(texts: Sequence[str]) -> Tensor:
    return torch.tensor([derive_seed(text) for text in texts])


def _own_embeds(store: EmbeddingStore, rows: Ints) -> Iterator[Tensor]:
    """Vectors of this process's share of some rows, in parts [m, dim]."""
    rows = rows[distributed.share(len(rows))]
    for start in range(0, len(rows), EMBEDS_A_PART):
        yield store.at(torch.from_numpy(rows[start : start + EMBEDS_A_PART].copy()))  # rows may be read-only


def nothing_to_read(columns: Sequence[str]) -> ProclipError:
    """What is said where the teacher would cut every caption, and stage 1 leaves out those that are cut."""
    return ProclipError(
        f"every caption of {', '.join(columns)} is longer than the CLIP reads: stage 1 has nothing to learn from; name "
        "a column with shorter captions (distill.captions), leave the stage out (distill = 'none'), or take them cut "
        "(distill.skip_truncated = false)"
    )


class DistillBatches:
    """Stage 1's texts: every (sample, caption column) pair, as two rows of the stores; no text, no model.

    Args:
        samples: of the split.
        llm, teacher: the embedding stores.
        config: caption columns, and which column the teacher reads for each.
        seed: of the order.
        rows: finds the captions' rows, when this is made.
        skip: which of some texts the teacher cannot read whole: they are no targets.

    Raises:
        ProclipError: a caption is missing from the data or from a store, or has changed since it was embedded; or no
            target is left.
    """

    def __init__(
        self,
        samples: Samples,
        llm: EmbeddingStore,
        teacher: EmbeddingStore,
        config: DistillConfig,
        seed: int,
        rows: StoredRows | None = None,
        skip: Skip | None = None,
    ) -> None:
        for column in config.teacher_captions:
            if column not in config.captions:
                raise ProclipError(f"distill.teacher_captions.{column}: {column!r} is not one of distill.captions")
        targets = [config.teacher_captions.get(column, column) for column in config.captions]
        check_captions(samples, sorted({*config.captions, *targets}))
        self.llm, self.teacher, rows = llm, teacher, rows or StoredRows()
        self._llm_rows = rows.captions(llm, samples, config.captions)
        self._teacher_rows = rows.captions(teacher, samples, targets, skip)
        whole = self._teacher_rows >= 0
        if not whole.any():
            raise nothing_to_read(targets)
        self._learned = None if whole.all() else np.flatnonzero(whole)
        self.texts, self.left_out = len(whole), len(whole) - int(whole.sum())
        ends = np.cumsum([len(part) * len(targets) for part in samples.parts])
        counts = [int(of_part.sum()) for of_part in np.split(whole, ends[:-1])]
        blocks = [Block(count, part.weight) for count, part in zip(counts, samples.parts, strict=True) if count]
        self._order = Order(blocks, config.batch_size, seed, "texts")
        self.batch_size, self.steps_per_epoch = self._order.batch_size, self._order.steps_per_epoch

    def training_llm_embeds(self) -> Iterator[Tensor]:
        """This process's share of all texts' LLM embeddings, in parts [m, h]: for the adapter's input norm."""
        return _own_embeds(self.llm, self._llm_rows)

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
            llm_embeds=self.llm.at(torch.from_numpy(self._llm_rows[texts]), as_stored=True),
            teacher_embeds=self.teacher.at(torch.from_numpy(self._teacher_rows[texts]), as_stored=True),
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
        usable: Callable[[int], bool] | None = None,
        multiple: int = 1,
    ) -> None:
        check_captions(samples, tuple(config.captions))
        self.samples = samples
        self._images = ImageLoader(
            samples, config.captions, preprocess, config.augment, config.batch_size, seed, data or DataConfig(),
            broken_file, usable, multiple,
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
        rows: finds the captions' rows, when this is made.

    Raises:
        ProclipError: a caption is missing from the data or from the store, or has changed since it was embedded; a
            larger share of the pictures than `data` allows is missing from `teacher`.
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
        rows: StoredRows | None = None,
    ) -> None:
        columns = tuple(config.captions)
        check_captions(samples, columns)
        rows = rows or StoredRows()
        self._rows = rows.captions(llm, samples, columns)
        usable = None
        if teacher is not None:
            self._teacher_rows = rows.pictures(teacher, samples)
            _check_teacher(self._teacher_rows, samples, teacher, (data or DataConfig()).max_broken_share)
            usable = self._has_teacher
        super().__init__(samples, preprocess, config, seed, data, broken_file, usable, config.teacher_stride)
        self.llm, self.teacher = llm, teacher

    def _has_teacher(self, item: int) -> bool:
        return bool(self._teacher_rows[item] >= 0)

    def training_llm_embeds(self) -> Iterator[Tensor]:
        """This process's share of the captions' LLM embeddings, in parts [m, h]: for the adapter's input norm."""
        return _own_embeds(self.llm, self._rows)

    def _batch(self, loaded: Sequence[Loaded]) -> TuneBatch:
        columns, items, teacher = self._images.captions, [one.item for one in loaded], self.teacher
        rows = self._rows[[one.item * len(columns) + columns.index(one.column) for one in loaded]]
        return TuneBatch(
            pixel_values=stacked(loaded),
            llm_embeds=self.llm.at(torch.from_numpy(rows)),
            image_ids=_ids([one.sample.key for one in loaded]),
            text_ids=_ids([one.text for one in loaded]),
            teacher_embeds=None if teacher is None else teacher.at(torch.from_numpy(self._teacher_rows[items])),
        )


def _check_teacher(rows: Ints, samples: Samples, teacher: EmbeddingStore, most: float) -> None:
    absent = np.flatnonzero(rows < 0)
    if len(absent) > most * len(rows):
        raise ProclipError(
            f"{len(absent):,} of {len(rows):,} pictures, such as {samples[int(absent[0])].key!r}, are not among the "
            f"teacher's embeddings at {teacher.folder}: more than the {most:g} that data.max_broken_share allows. Run  "
            "proclip data check  and mend them"
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
        for part in batched(self.samples.captions(self._images.captions), 1024):
            cut += self.tokenizer([text or "" for _, _, text in part]).truncated
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
