"""Training images from their samples: decoded, augmented, broken ones replaced, with the caption that was drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from ..config import AugmentConfig, DataConfig
from ..errors import ProclipError
from ..models.preprocess import ImagePreprocess
from ..seeding import derive_seed
from .broken import Broken, BrokenImages
from .dataset import Sample, Samples, caption_of
from .host_memory import host_empty
from .order import Block, Draw, Order, Pass
from .transforms import augment, smallest_side

TRIES = 1000
"""Broken pictures in a row after which no good one is looked for."""


@dataclass(frozen=True)
class Loaded:
    """A training image."""

    item: int
    """The sample's number."""
    sample: Sample
    """Whose picture it is."""
    column: str
    """Caption column that was drawn for it."""
    pixels: Tensor
    """Augmented, as the tower takes it."""
    broken: Broken | None = None
    """What it takes the place of."""

    @property
    def text(self) -> str:
        """The caption."""
        return caption_of(self.sample, self.column)


@final
class ImageLoader:
    """The images of a stage: their order, and how each is read.

    A broken picture's place is taken by the first good one of the order from the same place of the next global batch
    on: a function of seed, epoch and place, whoever reads it and when, and as a rule no image of the same batch.

    Args:
        samples: of the split.
        captions: columns, of which one is drawn for each image; a table gives their chances.
        preprocess: the image tower's.
        config: of the augmentation.
        batch_size: images of a step on each process.
        seed: of order, augmentation and caption choice.
        data: limits and settings of reading.
        broken_file: where broken pictures are listed.
        usable: whether the sample of a number has all that its stage needs, else it counts as broken; None: all have.
        multiple: a divisor of the batch size, which a smaller one for want of images has too.

    Raises:
        ProclipError: too few samples.
    """

    def __init__(
        self,
        samples: Samples,
        captions: Sequence[str] | Mapping[str, float],
        preprocess: ImagePreprocess,
        config: AugmentConfig,
        batch_size: int,
        seed: int,
        data: DataConfig,
        broken_file: Path | None = None,
        usable: Callable[[int], bool] | None = None,
        multiple: int = 1,
    ) -> None:
        self.usable = usable
        self.samples, self.captions, self.preprocess, self.config = samples, tuple(captions), preprocess, config
        self.seed, self._chances = seed, _cumulated(captions)
        self.order = Order([Block(len(p), p.weight) for p in samples.parts], batch_size, seed, "images", multiple)
        images = self.order.steps_per_epoch * self.order.batch_size
        self.broken = BrokenImages(data.max_broken_share, images, broken_file)
        self._at_least = smallest_side(preprocess, config) if data.jpeg_draft else None

    def start(self, places: range, order: Pass, epoch: int, pool: ThreadPoolExecutor) -> list[Future[Loaded]]:
        """Begin to load the images of some places of a pass."""
        return [pool.submit(self.load, place, order, epoch) for place in places]

    def finish(self, places: range, loading: Sequence[Future[Loaded]]) -> list[Loaded]:
        """Wait for them, and count those that were replaced, once for each place of a pass.

        Raises:
            ProclipError: no picture is left to take another's place, or too many were broken.
        """
        loaded = [one.result() for one in loading]
        self.broken.record(places, [one.broken for one in loaded if one.broken])
        return loaded

    def load(self, place: int, order: Pass, epoch: int) -> Loaded:
        """The image of a place, or what takes it.

        Raises:
            ProclipError: a thousand pictures in a row are broken, or all of them.
        """
        first: tuple[str, str] | None = None
        tries = min(TRIES, len(order))
        for number in range(tries):
            draw = order[place if number == 0 else (place + self.order.stride + number - 1) % len(order)]
            sample = self.samples[draw.item]
            try:
                pixels = self._pixels(sample, draw, epoch)  # first, for what it says of one that is broken
                if self.usable is not None and not self.usable(draw.item):
                    raise ProclipError(f"{sample.picture} could not be used when the teacher embedded the pictures")
            except ProclipError as error:
                first = first or (sample.key, str(error))
                continue
            broken = Broken(*first, instead=sample.key) if first else None
            return Loaded(draw.item, sample, self._column(sample, draw, epoch), pixels, broken)
        assert first is not None
        raise ProclipError(f"{tries} pictures in a row cannot be used, such as {first[0]!r}: {first[1]}")

    def _rng(self, purpose: str, epoch: int, sample: Sample, draw: Draw) -> np.random.Generator:
        again = (draw.copy,) if draw.copy else ()
        return np.random.default_rng(derive_seed(self.seed, purpose, epoch, sample.key, *again))

    def _column(self, sample: Sample, draw: Draw, epoch: int) -> str:
        rng = self._rng("caption", epoch, sample, draw)
        if self._chances is None:
            return self.captions[int(rng.integers(len(self.captions)))]
        return self.captions[int(np.searchsorted(self._chances, rng.random(), side="right"))]

    def _pixels(self, sample: Sample, draw: Draw, epoch: int) -> Tensor:
        image = sample.picture.open(self._at_least)
        return augment(image, self.preprocess, self.config, self._rng("augment", epoch, sample, draw))


def _cumulated(captions: Sequence[str] | Mapping[str, float]) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Chances added up, the last one infinite so that rounding never falls off the end; None for equal ones."""
    if not isinstance(captions, Mapping) or len(set(captions.values())) == 1:
        return None
    ends = np.cumsum(list(captions.values())) / math.fsum(captions.values())
    ends[-1] = np.inf
    return ends


def stacked(loaded: Sequence[Loaded]) -> Tensor:
    """The pixels of a batch."""
    pixels = [one.pixels for one in loaded]
    return torch.stack(pixels, out=host_empty((len(pixels), *pixels[0].shape)))
