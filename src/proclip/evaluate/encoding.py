"""A model under evaluation on a benchmark's pictures and texts: decoding overlaps the model, nothing is encoded twice.

The cache has a folder ``images/MODEL/PICTURES`` for each set of pictures and ``texts/MODEL`` for all texts, where MODEL
and PICTURES are hashes; each is an embedding store (docs/data_format.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.images import ImageSource
from ..data.in_order import in_order
from ..data.shared_store import SharedStore
from ..data.text_cache import TextCache
from ..errors import ProclipError
from ..models.embedder import Encoded, TextEmbedder
from ..models.vectors import check_vectors
from .dual_encoder import DualEncoder, ImageEncoder
from .encoders import Encoders

BATCH = 64
"""Pictures that the model sees at once; twice as many more wait, decoded and prepared."""
PICTURES_A_UNIT = 1024
"""Pictures that belong to one process and are kept as one: what an interrupted run goes on from."""
DECODE_THREADS = min(16, os.cpu_count() or 1)
SEEN_PICTURES = 16
"""Of a set, these many are decoded to tell it from another set with the same keys."""
Report = Callable[[str, int, int], None]
"""Called with ``pictures`` or ``texts``, how many are done, and how many there are to do."""


@dataclass
class EncodingCounts:
    """What encoders have done so far in this process; what the cache held is not counted."""

    pictures: int = 0
    """Pictures encoded."""
    picture_seconds: float = 0.0
    """What that took, decoding included."""
    texts: int = 0
    """Texts encoded."""
    text_seconds: float = 0.0
    """What that took, loading the weights not included."""
    cut: dict[str, bool | None] = field(default_factory=dict)
    """Distinct texts that were asked for, from the cache or not, and whether each lost its end; None: not known."""

    @property
    def images_per_second(self) -> float | None:
        """Rate of encoding pictures; None where all came from the cache."""
        return self.pictures / self.picture_seconds if self.pictures else None

    @property
    def texts_per_second(self) -> float | None:
        """Rate of encoding texts; None where all came from the cache."""
        return self.texts / self.text_seconds if self.texts else None

    @property
    def truncated(self) -> dict[str, float] | None:
        """``texts``: how many distinct texts lost their end, ``share`` of all; None where the encoder does not say."""
        known = [cut for cut in self.cut.values() if cut is not None]
        if not known or len(known) < len(self.cut):
            return None
        return {"texts": sum(known), "share": sum(known) / len(known)}


def open_encoders(
    model: DualEncoder, images: ImageSource, cache: Path | None = None, report: Report | None = None
) -> tuple[Encoders, EncodingCounts]:
    """A model as the tasks of one benchmark see it.

    Ask for the features of all the benchmark's pictures at once before its tasks ask for some of them: they are then
    one set in the cache, whatever tasks are chosen. Where there are several processes, all must ask alike.

    Args:
        model: under evaluation.
        images: the benchmark's pictures.
        cache: folder for vectors of any number of models and benchmarks; None: in memory.
        report: told of progress.

    Returns:
        the encoders, and what they have done so far.

    Raises:
        ProclipError: several processes without a cache folder, or with a model that has no identity.
    """
    counts, widths = EncodingCounts(), _Widths(model.name)
    features = ImageFeatures(model.images, images, cache, counts, report)

    def image_embeds(keys: Sequence[str]) -> Tensor:
        return widths.unit("image", features(keys))

    def texts_of(embedder: TextEmbedder) -> Callable[[Sequence[str]], Tensor]:
        cached = TextCache(_folder(cache, "texts", embedder.identity), _Timed(embedder, counts))

        def text_embeds(texts: Sequence[str]) -> Tensor:
            encoded = cached.encode(texts, (lambda done, total: report("texts", done, total)) if report else None)
            cut = encoded.cut.tolist() if encoded.cut is not None else [None] * len(texts)
            counts.cut.update(zip(texts, cut, strict=True))
            return widths.unit("text", model.project_text(encoded.embeds).detach().float().cpu())

        return text_embeds

    for_classes = model.texts.for_classes()
    encoders = Encoders(
        encode_image=image_embeds,
        encode_text=texts_of(model.texts),
        encode_class=texts_of(for_classes) if for_classes is not model.texts else None,
        image_features=features,
    )
    return encoders, counts


@final
class _Widths:
    """Makes vectors unit length, and refuses sides that are not of one space."""

    def __init__(self, name: str) -> None:
        self.name, self.width_of = name, dict[str, int]()

    def unit(self, side: str, vectors: Tensor) -> Tensor:
        if len(vectors):
            self.width_of[side] = vectors.shape[1]
        if len(set(self.width_of.values())) > 1:
            raise ProclipError(
                f"{self.name}: image features are {self.width_of['image']} wide and text features "
                f"{self.width_of['text']}: they must be in one space"
            )
        return F.normalize(vectors, dim=-1)


@final
class _Timed:
    """A text side that counts what it is asked to encode."""

    def __init__(self, embedder: TextEmbedder, counts: EncodingCounts) -> None:
        self.embedder, self.counts, self.identity = embedder, counts, embedder.identity

    @property
    def dim(self) -> int:
        return self.embedder.dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        _ = self.embedder.dim  # loads the weights
        start = time.perf_counter()
        encoded = self.embedder.encode(texts)
        self.counts.text_seconds += time.perf_counter() - start
        self.counts.texts += len(texts)
        return encoded

    def for_classes(self) -> _Timed:
        return _Timed(self.embedder.for_classes(), self.counts)


@final
class ImageFeatures:
    """A benchmark's pictures by key to image features; each picture is encoded once.

    The keys of one call that are new are one set, with a folder of its own in the cache.

    Args:
        encoder: the image side.
        images: the pictures.
        cache: folder; None: in memory.
        counts: where what is done is added.
        report: told of progress.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        images: ImageSource,
        cache: Path | None,
        counts: EncodingCounts,
        report: Report | None = None,
    ) -> None:
        self.encoder, self.images, self.counts, self.report = encoder, images, counts, report
        self.folder = _folder(cache, "images", encoder.identity)
        self._sets: list[SharedStore] = []
        self._set_of: dict[str, int] = {}

    def __call__(self, keys: Sequence[str]) -> Tensor:
        """Image features, [n, f] float32, not normalised.

        Raises:
            ProclipError: a picture is missing or damaged, the encoder gives vectors of a wrong shape or a value that is
                not finite (the message names the key), or a file of the cache is damaged.
        """
        new = list(dict.fromkeys(key for key in keys if key not in self._set_of))
        if new:
            self._sets.append(self._encoded(new))
            self._set_of.update(dict.fromkeys(new, len(self._sets) - 1))
        places: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(self._set_of[key], []).append(place)
        parts = [self._sets[number].rows([keys[p] for p in own]).embeds for number, own in places.items()]
        if len(parts) < 2:
            return parts[0] if parts else torch.empty(0, 0)
        features = torch.empty(len(keys), parts[0].shape[1])
        for own, part in zip(places.values(), parts, strict=True):
            features[own] = part
        return features

    def _encoded(self, keys: list[str]) -> SharedStore:
        """The set of these keys, whole."""
        folder = self.folder / _digest_of_files(self.images, keys) if self.folder is not None else None
        features = SharedStore(folder, self.encoder.identity)
        features.verify()
        with features.filling(keys, PICTURES_A_UNIT) as units:
            start, done, total = time.perf_counter(), 0, sum(map(len, units))
            for unit, encoded in encode_units(self.encoder, self.images, units):
                features.add(unit, Encoded(encoded, None))
                done += len(unit)
                self.counts.pictures += len(unit)
                if self.report is not None:
                    self.report("pictures", done, total)
            self.counts.picture_seconds += time.perf_counter() - start if total else 0.0
        return features


def encode_units(
    encoder: ImageEncoder, images: ImageSource, units: Sequence[Sequence[str]]
) -> Iterator[tuple[Sequence[str], Tensor]]:
    """Encode units of pictures; threads decode and prepare the next batch while the model computes the present one.

    Yields:
        a unit's keys, m of them, and their features [m, f].
    """
    pool = ThreadPoolExecutor(DECODE_THREADS)
    try:
        keys = [key for unit in units for key in unit]
        prepared = in_order(pool, lambda key: encoder.prepare(images.open(key)), keys, 2 * BATCH)
        for unit in units:
            parts = []
            for start in range(0, len(unit), BATCH):
                batch = unit[start : start + BATCH]
                parts.append(encoder.encode(list(islice(prepared, len(batch)))))
                check_vectors(parts[-1], batch)
                if parts[-1].shape[1] != parts[0].shape[1]:
                    raise ProclipError(f"the encoder returned other widths from {batch[0]!r} on: {parts[-1].shape[1]}")
            yield unit, torch.cat(parts)
    finally:
        pool.shutdown(cancel_futures=True)


def digest_of_pictures(images: ImageSource, keys: Sequence[str]) -> str:
    """Hash of keys, in their order, and of the pixels of up to sixteen of the pictures: 16 hexadecimal digits.

    So the pictures of two data sets with the same keys are told apart, however they are kept.
    """
    digest = hashlib.sha256(json.dumps(list(keys)).encode())
    for key in keys[:: -(-len(keys) // SEEN_PICTURES)]:
        picture = images.open(key)
        digest.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
    return digest.hexdigest()[:16]


def _digest_of_files(images: ImageSource, keys: Sequence[str]) -> str:
    """The same and the sizes in bytes of all: a single picture that is replaced under its key makes another set."""
    known = f"{digest_of_pictures(images, keys)} {images.sizes(keys)}"
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def _folder(cache: Path | None, kind: str, identity: Mapping[str, Any]) -> Path | None:
    """Where the cache keeps what is of this identity; nowhere where there is no cache, or the identity is empty."""
    if cache is None or not identity:
        return None
    return cache / kind / hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]
