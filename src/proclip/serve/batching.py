"""Requests of many clients put together: one thread runs the model, on batches of whatever waits."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .faults import Fault

logger = logging.getLogger(__name__)
LINGER = 0.1
"""Share of a shared batch's time for which the model then waits, at most, for those that it answered to ask again:
clients that wait for each answer would else go on in the small groups in which they happened to come."""


@dataclass(eq=False)
class _Job:
    """Some inputs of one request, not more than a batch holds."""

    items: Sequence[Any]
    cost: int
    arrived: float
    future: asyncio.Future[list[Any]]
    started: bool = False


@dataclass
class Lane:
    """Inputs of one kind, which can share a batch."""

    name: str
    run: Callable[[list[Any]], Sequence[Any]]
    """Inputs to as many results; called in the model's thread."""
    most_items: int
    """Of a batch."""
    most_inside: int
    """Inputs that wait or are computed."""
    cost: Callable[[Any], int] = lambda item: 0
    most_cost: int = 1
    """Of a batch of more than one input."""
    inside: int = 0
    jobs: deque[_Job] = field(default_factory=deque)
    seconds_an_item: float = 0.01
    """As the last batches took."""

    def chunks(self, items: Sequence[Any]) -> Iterator[tuple[list[Any], int]]:
        """The inputs of a request in parts that fit into a batch, and the cost of each part."""
        part: list[Any] = []
        total = 0
        for item in items:
            cost = self.cost(item)
            if part and (len(part) == self.most_items or total + cost > self.most_cost):
                yield part, total
                part, total = [], 0
            part.append(item)
            total += cost
        if part:
            yield part, total

    def full(self) -> bool:
        """Whether what waits fills a batch."""
        return sum(len(job.items) for job in self.jobs) >= self.most_items

    def take(self) -> list[_Job]:
        """The jobs of the next batch, oldest first."""
        taken: list[_Job] = []
        count = total = 0
        while self.jobs:
            job = self.jobs[0]
            if taken and (count + len(job.items) > self.most_items or total + job.cost > self.most_cost):
                break
            self.jobs.popleft()
            job.started = True
            taken.append(job)
            count += len(job.items)
            total += job.cost
        return taken


class Batcher:
    """Batches across requests, with a bound on what is let in.

    Args:
        lanes: kinds of inputs; the one whose first input has waited longest goes next.
        wait: seconds for which an idle model waits for company of a first input; after a batch
            of several requests it is idle for a while (`LINGER`) unless the next is full.
        observe: told of every batch: lane, inputs, seconds.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        wait: float,
        observe: Callable[[str, int, float], None] = lambda lane, count, seconds: None,
    ) -> None:
        self.lanes = {lane.name: lane for lane in lanes}
        self._wait, self._observe = wait, observe
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._changed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._lingers_until = 0.0

    def start(self) -> None:
        """Begin to run; called in the event loop."""
        self._runner = asyncio.create_task(self._run())

    @property
    def alive(self) -> bool:
        """Whether batches are being run."""
        return self._runner is not None and not self._runner.done()

    async def close(self) -> None:
        """Let the batch that runs end, then stop."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
        await asyncio.to_thread(self._thread.shutdown)

    @contextmanager
    def room(self, name: str, count: int) -> Iterator[None]:
        """Room for a request's inputs, held until the block ends.

        Raises:
            Fault: 429, too many are inside; it says when to come again.
        """
        lane = self.lanes[name]
        if lane.inside and lane.inside + count > lane.most_inside:
            raise self.busy()
        lane.inside += count
        try:
            yield
        finally:
            lane.inside -= count

    async def run(self, name: str, items: Sequence[Any]) -> list[Any]:
        """Results of a request's inputs, in their order; call it within `room`.

        Raises:
            Fault: 500, the model failed.
        """
        lane, loop = self.lanes[name], asyncio.get_running_loop()
        jobs = [_Job(part, cost, loop.time(), loop.create_future()) for part, cost in lane.chunks(items)]
        lane.jobs.extend(jobs)
        self._changed.set()
        try:
            parts = await asyncio.gather(*(job.future for job in jobs))
        finally:
            for job in jobs:
                if not job.started:  # the client went, or its time is up
                    job.future.cancel()
                    lane.jobs.remove(job)
        return [result for part in parts for result in part]

    def busy(self) -> Fault:
        """429, with the seconds after which what is inside should be done."""
        waiting = sum(lane.inside * lane.seconds_an_item for lane in self.lanes.values())
        seconds = min(60, max(1, math.ceil(waiting)))
        return Fault(429, f"too much is waiting: try again in {seconds} s", retry_after=seconds)

    async def _next(self) -> Lane:
        """The lane whose turn it is, once its batch is full or its first input has waited."""
        loop = asyncio.get_running_loop()
        while True:
            waiting = [lane for lane in self.lanes.values() if lane.jobs]
            left: float | None = None
            if waiting:
                lane = min(waiting, key=lambda one: one.jobs[0].arrived)
                left = max(lane.jobs[0].arrived + self._wait, self._lingers_until) - loop.time()
                if left <= 0 or lane.full():
                    return lane
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _run(self) -> None:
        while True:
            lane = await self._next()
            jobs = lane.take()
            try:
                await self._batch(lane, jobs)
            except Exception:
                logger.exception("a batch of %s failed", lane.name)
                for job in jobs:  # which of them it was that the model cannot compute
                    await self._alone(lane, job, len(jobs) > 1)

    async def _batch(self, lane: Lane, jobs: Sequence[_Job]) -> None:
        loop = asyncio.get_running_loop()
        items = [item for job in jobs for item in job.items]
        start = loop.time()
        results = list(await loop.run_in_executor(self._thread, lane.run, items))
        seconds = loop.time() - start
        if len(jobs) > 1:
            self._lingers_until = loop.time() + LINGER * seconds
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} inputs")
        self._observe(lane.name, len(items), seconds)
        lane.seconds_an_item += 0.2 * (seconds / len(items) - lane.seconds_an_item)
        for job in jobs:
            part, results = results[: len(job.items)], results[len(job.items) :]
            if not job.future.done():
                job.future.set_result(part)

    async def _alone(self, lane: Lane, job: _Job, again: bool) -> None:
        if job.future.done():
            return
        if again:
            try:
                await self._batch(lane, [job])
                return
            except Exception:
                logger.exception("an input of %s failed alone", lane.name)
        if not job.future.done():
            job.future.set_exception(Fault(500, "the model failed on this input; the server's log says why"))
