"""What the server does, apart from HTTP: requests through the batches, the index and what is kept."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ProclipError
from ..models.weighted_query import check_wanted, weighted_query
from ..models.zero_shot import build_zero_shot_classifier, probabilities, prompts
from .batching import Batcher, Lane
from .faults import Fault, bad
from .inputs import Input
from .kept import Found, Recent, gone, public_name
from .limits import Limits
from .metrics import Metrics
from .pictures import open_picture, picture_bytes
from .protocols import Encoder, SearchIndex, Texts
from .words import Span, spans, without

T = TypeVar("T")
Vector = NDArray[np.float32]
THUMBNAIL_BYTES = 64 * 2**20
"""Of those that are kept."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedded:
    """Vectors of a request's inputs."""

    vectors: list[Vector]
    """[d] each, L2-normalised, in the order of the inputs."""
    tokens: int
    """Read of all texts together."""
    cut: int
    """How many texts lost their end."""


@dataclass(frozen=True)
class Ranked:
    """One picture that was found."""

    id: str
    name: str
    score: float


class Service:
    """A model, perhaps an index, and what bounds them.

    Args:
        encoder: the model.
        limits: what is refused.
        index: of pictures, in the model's space; it is searched from one thread.
        metrics: told of every batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        limits: Limits,
        index: SearchIndex | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.encoder, self.limits, self.metrics = encoder, limits, metrics or Metrics()
        self.index = index
        self._index_thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._decoders = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="decode")
        self._found = Found()
        self._thumbnails: Recent[str, bytes] = Recent(THUMBNAIL_BYTES, len)
        self._label_vectors: Recent[str, Vector] = Recent(8192)
        self._active = 0
        bounds: Any = {"most_items": limits.batch, "most_inside": limits.queue, "most_cost": limits.batch_chars}
        self.batcher = Batcher(
            [
                Lane("text", lambda items: _rows(encoder.encode_texts(items)), cost=len, **bounds),
                Lane("label", lambda items: _rows(encoder.encode_labels(items)), cost=len, **bounds),
                Lane("image", lambda items: list(encoder.encode_images(items)), **bounds),
            ],
            limits.wait,
            self.metrics.batch,
        )
        for name, lane in self.batcher.lanes.items():
            self.metrics.watch_queue(name, lambda lane=lane: lane.inside)  # type: ignore[misc]

    async def start(self) -> None:
        """Begin to run batches."""
        self.batcher.start()

    async def close(self) -> None:
        """Stop, once what runs has ended."""
        await self.batcher.close()
        for pool in (self._index_thread, self._decoders):
            await asyncio.to_thread(pool.shutdown)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Bounds the time of a request that computes.

        Raises:
            Fault: 429 where others were computed at the same time, 504 where it was alone and still took too long.
        """
        self._active += 1
        shared = self._active > 1
        try:
            async with asyncio.timeout(self.limits.timeout):
                yield
        except TimeoutError:
            if shared or self._active > 1:
                raise self.batcher.busy() from None
            raise Fault(504, f"it took more than {self.limits.timeout:g} s: send less at once") from None
        finally:
            self._active -= 1

    async def embed(self, inputs: Sequence[Input]) -> Embedded:
        """Texts and pictures to vectors.

        Raises:
            Fault: 400 a picture cannot be used; 429 too much is waiting.
        """
        texts = [one.text for one in inputs if one.text is not None]
        images = [one for one in inputs if one.image is not None]
        if texts and self.encoder.no_texts:
            raise Fault(400, "this server's model encodes pictures only: its text side is not installed here")
        with self.batcher.room("text", len(texts)), self.batcher.room("image", len(images)):
            if texts and images:
                rows, vectors = await _together(self._texts("text", texts), self._images(images))
            else:
                rows, vectors = await self._texts("text", texts), await self._images(images)
        by_kind = {True: iter([row[0] for row in rows]), False: iter(vectors)}
        return Embedded(
            [next(by_kind[one.text is not None]) for one in inputs],
            sum(row[1] for row in rows),
            sum(row[2] for row in rows),
        )

    async def _texts(self, lane: str, texts: Sequence[str]) -> list[tuple[Vector, int, bool]]:
        return await self.batcher.run(lane, texts) if texts else []

    async def _images(self, images: Sequence[Input]) -> list[Vector]:
        if not images:
            return []
        prepared = await _together(*(self._prepared(str(one.image), one.param) for one in images))
        return await self.batcher.run("image", prepared)

    async def _prepared(self, source: str, param: str) -> Any:
        def prepare() -> Any:
            return self.encoder.prepare_image(open_picture(picture_bytes(source, param), param, self.limits))

        return await asyncio.get_running_loop().run_in_executor(self._decoders, prepare)

    async def pictures(self) -> int | None:
        """How many the index has; None where there is none."""
        return await self._in_index(self.index.__len__) if self.index is not None else None

    async def search(self, parts: Sequence[tuple[Input, float]], k: int) -> tuple[list[Ranked], Embedded]:
        """The pictures nearest to a sum of weighted inputs.

        Args:
            parts: inputs and their weights; below zero for what is not wanted.
            k: how many.

        Raises:
            Fault: 400 nothing is wanted, or the parts cancel out; 404 there is no index.
        """
        if (index := self.index) is None:
            raise Fault(404, "this server has no index of pictures: start it with --index")
        weights = [weight for _, weight in parts]
        try:
            check_wanted(weights)
            embedded = await self.embed([part for part, _ in parts])
            query = weighted_query(embedded.vectors, weights)
        except ProclipError as error:
            raise bad("weights", str(error)) from None
        hits = await self._in_index(lambda: index.search(query, k))
        return [Ranked(self._found.add(hit), public_name(hit), float(hit.score)) for hit in hits], embedded

    async def thumbnail(self, name: str) -> bytes:
        """The thumbnail of a picture that was found lately; made once.

        Raises:
            Fault: 404, it was not found lately, or is gone.
        """
        if (content := self._thumbnails.get(name)) is None:
            hit = self._found.get(name)
            try:
                content = await asyncio.get_running_loop().run_in_executor(self._decoders, hit.thumbnail)
            except Exception as error:
                raise gone() from error
            self._thumbnails.put(name, content)
        return content

    async def explain(self, text: str, image: Input | str) -> tuple[float, list[tuple[Span, float]], Embedded]:
        """What each part of a text does to its likeness with a picture.

        Args:
            text: checked.
            image: a picture of the request, or the public id of one that was found.

        Returns:
            cosine of text and picture; for each part of the text what it adds: the cosine less that of the text
            without it (of a single word, all of it); what was read.
        """
        parts = spans(text, self.limits.spans)
        rests = [without(text, part) for part in parts]
        variants = list(dict.fromkeys([text, *filter(None, rests)]))
        inputs = [Input("text", text=one) for one in variants]
        if isinstance(image, Input):
            embedded = await self.embed([*inputs, image])
            picture = embedded.vectors.pop()
        else:
            embedded = await self.embed(inputs)
            picture = await self._found_vector(image)
        scores = dict(zip(variants, (float(vector @ picture) for vector in embedded.vectors), strict=True))
        whole = scores[text]
        effects = [whole - scores[rest] if rest else whole for rest in rests]
        return whole, list(zip(parts, effects, strict=True)), embedded

    async def _found_vector(self, name: str) -> Vector:
        index, hit = self.index, self._found.get(name)
        assert index is not None
        if (vector := await self._in_index(lambda: index.vector_of(hit.id))) is None:
            raise gone()
        return vector

    async def classify(
        self, images: Sequence[Input], labels: Sequence[str], templates: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Pictures by class names.

        Returns:
            cosines [n, c], and probabilities [n, c]: a softmax over the classes, or of a model with a bias a sigmoid
            of each; None of a model without a temperature.
        """
        if self.encoder.no_texts:
            raise Fault(400, "this server's model encodes pictures only: its text side is not installed here")
        wanted = prompts(labels, templates)
        known = {text: vector for text in wanted if (vector := self._label_vectors.get(text)) is not None}
        missing = [text for text in dict.fromkeys(wanted) if text not in known]
        with self.batcher.room("label", len(missing)):
            embedded, rows = await _together(self.embed(images), self._texts("label", missing))
        for text, (vector, _, _) in zip(missing, rows, strict=True):
            known[text] = vector
            self._label_vectors.put(text, vector)
        stacked = np.stack([known[text] for text in wanted])
        cosines = np.stack(embedded.vectors) @ build_zero_shot_classifier(lambda _: stacked, labels, templates)
        if (scale := self.encoder.logit_scale) is None:
            return cosines, None
        return cosines, probabilities(cosines, scale, self.encoder.logit_bias)

    async def _in_index(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._index_thread, work)


def _rows(texts: Texts) -> list[tuple[Vector, int, bool]]:
    return list(zip(texts.embeds, texts.tokens, texts.cut, strict=True))


async def _together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Results of several pieces of work at once; the first failure ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(piece) for piece in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
