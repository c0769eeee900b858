"""A model's gallery: what it finds for a few queries, and some of what it gets wrong.

Queries and the order in which errors are looked for are drawn by a fixed seed, so nothing is chosen by hand, and every
model is asked the same.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import final

import torch
from PIL.Image import Resampling
from torch import Tensor

from ..data.images import ImageSource
from ..models.zero_shot import build_zero_shot_classifier
from ..results.gallery import Found, Gallery, Query, WrongChoice, WrongClass
from ..seeding import generator
from .benchmark import Benchmark
from .encoders import Encoders, encode_distinct
from .tasks import ClassificationTask, HardNegativesTask, PairItem, PairsTask, RetrievalTask, WinogroundTask

TOP = 5
"""Nearest pictures or texts that are kept."""
QUERIES = 8
"""Text queries of a benchmark, dealt out over its retrieval tasks."""
PICTURE_QUERIES = 2
"""Pictures of a benchmark that ask for their texts, where it has one retrieval task."""
ERRORS = 6
"""Errors of a task that are kept at most."""
SIZE, QUALITY = 128, 82
"""Longest side of a picture in pixels, and how well WebP keeps it."""


@final
class _Pictures:
    """Pictures as data addresses, each decoded once."""

    def __init__(self, benchmark: str, images: ImageSource) -> None:
        self.benchmark, self.images = benchmark, images
        self.uris: dict[str, str] = {}

    def add(self, key: str) -> str:
        """Keep a picture; returns the key under which it is kept."""
        name = f"{self.benchmark}/{key}"
        if name not in self.uris:
            image = self.images.open(key).copy()
            image.thumbnail((SIZE, SIZE), Resampling.LANCZOS)
            out = io.BytesIO()
            image.save(out, format="WEBP", quality=QUALITY, method=6)
            self.uris[name] = f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
        return name


def make_gallery(
    name: str, benchmark: Benchmark, encoders: Encoders, queries: Mapping[str, int] | None = None
) -> Gallery:
    """What a model finds and gets wrong on a benchmark.

    Args:
        name: of the model.
        benchmark: its tasks and pictures.
        encoders: the model; pictures and texts are encoded again unless it keeps them.
        queries: how many text queries of which retrieval task, by prefix; `QUERIES` over all of them if None.

    Returns:
        the gallery; those of several benchmarks are put together by `results.gallery.joined_galleries`.
    """
    pictures = _Pictures(benchmark.name, benchmark.images)
    asked: list[Query] = []
    for prefix, count in (queries or _dealt(benchmark)).items():
        task = benchmark.tasks.get(prefix)
        if isinstance(task, RetrievalTask):
            asked += _text_queries(benchmark.name, prefix, task, encoders, pictures, count)
    retrieval = {prefix: task for prefix, task in benchmark.tasks.items() if isinstance(task, RetrievalTask)}
    if len(retrieval) == 1:
        for prefix, task in retrieval.items():
            asked += _picture_queries(benchmark.name, prefix, task, encoders, pictures)
    classes: list[WrongClass] = []
    choices: list[WrongChoice] = []
    for prefix, one in benchmark.tasks.items():
        if isinstance(one, ClassificationTask):
            classes += _wrong_classes(benchmark.name, prefix, one, encoders, pictures)
        elif isinstance(one, HardNegativesTask):
            choices += _wrong_captions(benchmark.name, prefix, one, encoders, pictures)
        elif isinstance(one, (PairsTask, WinogroundTask)):
            choices += _wrong_pairs(benchmark.name, prefix, one, encoders, pictures)
    return Gallery(
        name=name, pictures=pictures.uris, queries=tuple(asked), wrong_classes=tuple(classes),
        wrong_choices=tuple(choices),
    )  # fmt: skip


def _drawn(count: int, *parts: str) -> list[int]:
    """0 to count - 1 in an order that the parts alone decide."""
    return torch.randperm(count, generator=generator("gallery", *parts)).tolist()


def _dealt(benchmark: Benchmark) -> dict[str, int]:
    """How many queries each retrieval task gets: an equal share, or one each of some."""
    prefixes = [prefix for prefix, task in benchmark.tasks.items() if isinstance(task, RetrievalTask)]
    order = _drawn(len(prefixes), benchmark.name, "tasks")[:QUERIES] if prefixes else []
    return {prefixes[place]: max(1, QUERIES // len(prefixes)) for place in sorted(order)}


def _text_queries(
    benchmark: str, prefix: str, task: RetrievalTask, encoders: Encoders, pictures: _Pictures, count: int
) -> Iterator[Query]:
    keys = [key for key, _ in task.items]
    image_embeds = encode_distinct(encoders.encode_image, keys)
    for index in _drawn(len(keys), benchmark, prefix, "texts")[:count]:
        key, captions = task.items[index]
        right = {one for one, texts in task.items if captions[0] in texts}
        scores = image_embeds @ encode_distinct(encoders.encode_text, captions[:1])[0]
        order = scores.argsort(descending=True, stable=True).tolist()
        yield Query(
            benchmark=benchmark, task=prefix, direction="t2i", asked=captions[0],
            answers=tuple(pictures.add(one) for one in dict.fromkeys((key, *sorted(right)))),
            found=tuple(Found(what=pictures.add(keys[i]), right=keys[i] in right) for i in order[:TOP]),
            rank=1 + next(place for place, i in enumerate(order) if keys[i] in right),
        )  # fmt: skip


def _picture_queries(
    benchmark: str, prefix: str, task: RetrievalTask, encoders: Encoders, pictures: _Pictures
) -> Iterator[Query]:
    texts = [caption for _, captions in task.items for caption in captions]
    text_embeds = encode_distinct(encoders.encode_text, texts)
    for index in _drawn(len(task.items), benchmark, prefix, "pictures")[:PICTURE_QUERIES]:
        key, captions = task.items[index]
        scores = text_embeds @ encode_distinct(encoders.encode_image, [key])[0]
        order = scores.argsort(descending=True, stable=True).tolist()
        yield Query(
            benchmark=benchmark, task=prefix, direction="i2t", asked=pictures.add(key), answers=captions,
            found=tuple(Found(what=texts[i], right=texts[i] in captions) for i in order[:TOP]),
            rank=1 + next(place for place, i in enumerate(order) if texts[i] in captions),
        )  # fmt: skip


def _wrong_classes(
    benchmark: str, prefix: str, task: ClassificationTask, encoders: Encoders, pictures: _Pictures
) -> Iterator[WrongClass]:
    encode = encoders.encode_class or encoders.encode_text
    classifier = build_zero_shot_classifier(lambda t: encode_distinct(encode, t), task.classnames, task.templates)
    scores = encode_distinct(encoders.encode_image, [key for key, _ in task.items]) @ classifier
    predicted = scores.argmax(dim=1).tolist()
    order = _drawn(len(task.items), benchmark, prefix, "errors")
    for row in [row for row in order if predicted[row] != task.items[row][1]][:ERRORS]:
        key, truth = task.items[row]
        yield WrongClass(
            benchmark=benchmark, task=prefix, picture=pictures.add(key), truth=task.classnames[truth],
            predicted=task.classnames[predicted[row]], truth_score=_rounded(scores[row, truth]),
            predicted_score=_rounded(scores[row, predicted[row]]),
        )  # fmt: skip


def _wrong_captions(
    benchmark: str, prefix: str, task: HardNegativesTask, encoders: Encoders, pictures: _Pictures
) -> Iterator[WrongChoice]:
    images = encode_distinct(encoders.encode_image, [item.key for item in task.items])
    texts = encode_distinct(encoders.encode_text, [t for i in task.items for t in (i.caption, i.negative)])
    scores = (images[:, None].double() @ texts.view(len(images), 2, -1).double().transpose(1, 2)).float()  # [n, 1, 2]
    wrong = scores[:, 0, 0] <= scores[:, 0, 1]
    for row in [row for row in _drawn(len(images), benchmark, prefix, "errors") if wrong[row]][:ERRORS]:
        item = task.items[row]
        yield WrongChoice(
            benchmark=benchmark, task=prefix, kind=item.kind, pictures=(pictures.add(item.key),),
            texts=(item.caption, item.negative), scores=_table(scores[row]),
        )  # fmt: skip


def _wrong_pairs(
    benchmark: str, prefix: str, task: PairsTask | WinogroundTask, encoders: Encoders, pictures: _Pictures
) -> Iterator[WrongChoice]:
    items: tuple[PairItem, ...] = task.items
    images = encode_distinct(encoders.encode_image, [key for item in items for key in item.keys])
    texts = encode_distinct(encoders.encode_text, [text for item in items for text in item.captions])
    count = len(items)
    scores = (images.view(count, 2, -1).double() @ texts.view(count, 2, -1).double().transpose(1, 2)).float()
    own, across = scores.diagonal(dim1=1, dim2=2), torch.stack([scores[:, 0, 1], scores[:, 1, 0]], dim=1)
    by_image = (own > across).all(dim=1)
    by_text = (own > across.flip(1)).all(dim=1)
    if isinstance(task, WinogroundTask):
        right = by_image & by_text
    else:
        right = by_image if task.compare == "statements" else by_text
    for row in [row for row in _drawn(count, benchmark, prefix, "errors") if not right[row]][:ERRORS]:
        item = items[row]
        yield WrongChoice(
            benchmark=benchmark, task=prefix, kind=item.pattern, pictures=tuple(map(pictures.add, item.keys)),
            texts=item.captions, scores=_table(scores[row]),
        )  # fmt: skip


def _rounded(score: Tensor) -> float:
    return round(float(score), 4)


def _table(scores: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(_rounded(one) for one in row) for row in scores)
