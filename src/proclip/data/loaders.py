"""Batches for each stage: seeded by (seed, epoch, position) alone, so every run can be resumed at any step.

A sample's augmentation and its choice of caption come from a generator of its own, derived from the seed, the epoch
and the sample's key; how many threads decode, and where a run was interrupted, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import distributed
from ..config import AugmentConfig, DistillConfig, PretrainConfig, TuneConfig
from ..errors import ProclipError
from ..models.preprocess import ImagePreprocess, read_image
from ..models.towers import TextTokenizer
from ..seeding import derive_seed, generator
from .ahead import ahead, in_parts
from .batches import DistillBatch, MicroBatches, PretrainBatch, TuneBatch
from .dataset import Sample, caption_of, check_captions
from .store import EmbeddingStore, caption_key
from .transforms import augment

T = TypeVar("T")


class _Order(Generic[T]):
    """A list in a new order each epoch, cut into global batches of which every process takes its slice."""

    def __init__(self, items: Sequence[T], batch_size: int, seed: int, what: str) -> None:
        world = distributed.world_size()
        self.items, self.seed = list(items), seed
        self.batch_size = min(batch_size, len(self.items) // world)
        if self.batch_size < 2:
            raise ProclipError(f"{len(self.items)} {what} are too few for a batch of two on each process")
        self.steps_per_epoch = len(self.items) // (self.batch_size * world)

    def batches(self, epoch: int, start: int) -> Iterator[list[T]]:
        """This process's batches of a pass; the few items left over wait for another pass's order."""
        order = torch.randperm(len(self.items), generator=generator(self.seed, "order", epoch)).tolist()
        stride = self.batch_size * distributed.world_size()
        for step in range(start, self.steps_per_epoch):
            first = step * stride + distributed.rank() * self.batch_size
            yield [self.items[i] for i in order[first : first + self.batch_size]]


def _ids(texts: Sequence[str]) -> Tensor:
    return torch.tensor([derive_seed(text) for text in texts])


class _Images:
    """Loads and augments one sample at a time, and draws the caption that goes with it."""

    def __init__(self, captions: Sequence[str], preprocess: ImagePreprocess, config: AugmentConfig, seed: int) -> None:
        self.captions, self.preprocess, self.config, self.seed = captions, preprocess, config, seed

    def _rng(self, purpose: str, epoch: int, key: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, purpose, epoch, key))

    def column(self, sample: Sample, epoch: int) -> str:
        return self.captions[int(self._rng("caption", epoch, sample.key).integers(len(self.captions)))]

    def drawn(self, samples: Sequence[Sample], epoch: int) -> list[tuple[str, str]]:
        """Key and text of the caption that each sample goes with."""
        columns = [self.column(s, epoch) for s in samples]
        return [(caption_key(s.key, c), caption_of(s, c)) for s, c in zip(samples, columns, strict=True)]

    def ids(self, samples: Sequence[Sample], epoch: int) -> tuple[Tensor, Tensor]:
        """Image ids and text ids."""
        return _ids([s.key for s in samples]), _ids([text for _, text in self.drawn(samples, epoch)])

    def pixels(self, sample: Sample, epoch: int) -> Tensor:
        rng = self._rng("augment", epoch, sample.key)
        return augment(read_image(sample.path), self.preprocess, self.config, rng)

    def start(self, samples: Sequence[Sample], epoch: int, pool: ThreadPoolExecutor) -> list[Future[Tensor]]:
        return [pool.submit(self.pixels, sample, epoch) for sample in samples]


class DistillBatches:
    """Stage 1's texts: every (sample, caption column) pair, as two rows of the store; no text, no model.

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
        samples: Sequence[Sample],
        llm: EmbeddingStore,
        teacher: EmbeddingStore,
        config: DistillConfig,
        seed: int,
        left_out: Collection[str] = frozenset(),
    ) -> None:
        for column in config.teacher_captions:
            if column not in config.captions:
                raise ProclipError(f"distill.teacher_captions.{column}: {column!r} is not one of distill.captions")
        targets = [(column, config.teacher_captions.get(column, column)) for column in config.captions]
        check_captions(samples, sorted({column for pair in targets for column in pair}))
        pairs = [(caption_key(s.key, own), caption_key(s.key, other)) for s in samples for own, other in targets]
        self.llm, self.teacher = llm, teacher
        for store, columns in zip((llm, teacher), zip(*targets, strict=True), strict=True):
            captions = ((caption_key(s.key, column), s.captions[column]) for s in samples for column in columns)
            store.check((key, text) for key, text in captions if store is llm or key not in left_out)
        self._llm_keys = [own for own, _ in pairs]
        kept = [pair for pair in pairs if pair[1] not in left_out]
        self.texts, self.left_out = len(pairs), len(pairs) - len(kept)
        self._order = _Order(kept, config.batch_size, seed, "texts")
        self.batch_size, self.steps_per_epoch = self._order.batch_size, self._order.steps_per_epoch

    def training_llm_embeds(self) -> Tensor:
        """Every text's LLM embedding, [n, h], those left out too: what the adapter's input norm is fitted to."""
        return self.llm.rows(self._llm_keys)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[DistillBatch]:
        """The batches of a pass, without the first `start`."""
        for pairs in self._order.batches(epoch, start):
            llm, teacher = self.llm.rows([p[0] for p in pairs]), self.teacher.rows([p[1] for p in pairs])
            yield DistillBatch(llm_embeds=llm, teacher_embeds=teacher)


class TuneBatches:
    """Stage 2's pairs: an augmented image and the stored LLM embedding of one of its captions.

    Args:
        samples: of the split.
        llm: the embedding store.
        preprocess: the image tower's.
        config: caption columns, augmentation, batch size.
        seed: of order, caption choice and augmentation.
        teacher: the original image tower's embedding of each plain picture by the sample's key, for the batches
            of the teacher ``cached``.

    Raises:
        ProclipError: a caption is missing from the data or from the store, or has changed since it was embedded; a
            picture is missing from `teacher`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        llm: EmbeddingStore,
        preprocess: ImagePreprocess,
        config: TuneConfig,
        seed: int,
        teacher: EmbeddingStore | None = None,
    ) -> None:
        check_captions(samples, config.captions)
        self._keys = [caption_key(s.key, column) for s in samples for column in config.captions]
        llm.check((caption_key(s.key, column), s.captions[column]) for s in samples for column in config.captions)
        if teacher is not None:
            teacher.find([s.key for s in samples])  # raises where one is missing, naming the key and the store
        self.llm, self.teacher = llm, teacher
        self._images = _Images(config.captions, preprocess, config.augment, seed)
        self._order = _Order(samples, config.batch_size, seed, "images")
        self.batch_size, self.steps_per_epoch = self._order.batch_size, self._order.steps_per_epoch
        self.micro_batch_size = config.micro_batch_size

    def training_llm_embeds(self) -> Tensor:
        """Every caption's LLM embedding, [n, h]: what the adapter's input norm is fitted to."""
        return self.llm.rows(self._keys)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch | MicroBatches[TuneBatch]]:
        """The batches of a pass, without the first `start`; in parts where ``tune.micro_batch_size`` says so."""

        def make(samples: list[Sample], pool: ThreadPoolExecutor) -> Callable[[], TuneBatch]:
            pixels = self._images.start(samples, epoch, pool)
            captions, keys = self._images.drawn(samples, epoch), [s.key for s in samples]
            llm_embeds = self.llm.rows([key for key, _ in captions])
            return lambda: TuneBatch(
                pixel_values=torch.stack([p.result() for p in pixels]),
                llm_embeds=llm_embeds,
                image_ids=_ids(keys),
                text_ids=_ids([text for _, text in captions]),
                teacher_embeds=self.teacher.rows(keys) if self.teacher is not None else None,
            )

        order = self._order.batches(epoch, start)
        if self.micro_batch_size is None:
            return ahead(order, make)
        return in_parts(order, self.micro_batch_size, make, lambda samples: self._images.ids(samples, epoch))


class PretrainBatches:
    """Contrastive pretraining's pairs: an augmented image and the tokens of one of its captions."""

    def __init__(
        self,
        samples: Sequence[Sample],
        tokenizer: TextTokenizer,
        preprocess: ImagePreprocess,
        config: PretrainConfig,
        seed: int,
    ) -> None:
        check_captions(samples, config.captions)
        self.tokenizer = tokenizer
        self._images = _Images(config.captions, preprocess, config.augment, seed)
        self._order = _Order(samples, config.batch_size, seed, "images")
        self.batch_size, self.steps_per_epoch = self._order.batch_size, self._order.steps_per_epoch
        self.micro_batch_size = config.micro_batch_size

    def truncated(self) -> tuple[int, int]:
        """How many distinct captions are longer than the text tower reads, and how many there are."""
        texts = sorted({caption_of(sample, c) for sample in self._order.items for c in self._images.captions})
        chunks = (texts[start : start + 1024] for start in range(0, len(texts), 1024))
        return sum(self.tokenizer(chunk).truncated for chunk in chunks), len(texts)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[PretrainBatch | MicroBatches[PretrainBatch]]:
        """The batches of a pass, without the first `start`; in parts where ``pretrain.micro_batch_size`` says so."""

        def make(samples: list[Sample], pool: ThreadPoolExecutor) -> Callable[[], PretrainBatch]:
            pixels = self._images.start(samples, epoch, pool)
            texts = [text for _, text in self._images.drawn(samples, epoch)]
            tokens = self.tokenizer(texts)
            return lambda: PretrainBatch(
                pixel_values=torch.stack([p.result() for p in pixels]),
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                image_ids=_ids([s.key for s in samples]),
                text_ids=_ids(texts),
            )

        order = self._order.batches(epoch, start)
        if self.micro_batch_size is None:
            return ahead(order, make)
        return in_parts(order, self.micro_batch_size, make, lambda samples: self._images.ids(samples, epoch))
