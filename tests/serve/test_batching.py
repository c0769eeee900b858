"""Requests are put together, none is starved or lost, and what fails fails alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("fastapi")

from proclip.serve.batching import Batcher, Lane
from proclip.serve.faults import Fault


class Model:
    """Doubles numbers, and notes what came together."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[Any]] = []
        self.seconds = seconds
        self.may_run = threading.Event()
        self.may_run.set()

    def __call__(self, items: list[Any]) -> Sequence[Any]:
        self.may_run.wait(10)
        self.batches.append(items)
        time.sleep(self.seconds)
        if "bad" in items:
            raise ValueError("bad")
        return [2 * item for item in items]


def run(
    work: Callable[[Batcher], Awaitable[Any]], *models: Model, wait: float = 0.02, most_inside: int = 100, **lane: Any
) -> Any:
    async def main() -> Any:
        options: Any = {"most_items": 4, "most_inside": most_inside, **lane}
        lanes = [Lane(str(n), model, **options) for n, model in enumerate(models)]
        batcher = Batcher(lanes, wait)
        batcher.start()
        try:
            async with asyncio.timeout(20):
                return await work(batcher)
        finally:
            await batcher.close()
            assert not any(one.inside or one.jobs for one in lanes)

    return asyncio.run(main())


async def ask(batcher: Batcher, items: Sequence[Any], lane: str = "0") -> list[Any]:
    with batcher.room(lane, len(items)):
        return await batcher.run(lane, items)


def test_requests_share_batches_and_get_their_own_results() -> None:
    model = Model(0.005)

    async def work(batcher: Batcher) -> Any:
        return await asyncio.gather(*(ask(batcher, list(range(n, n + 1 + n % 3))) for n in range(40)))

    assert run(work, model) == [[2 * item for item in range(n, n + 1 + n % 3)] for n in range(40)]
    assert max(map(len, model.batches)) == 4
    assert len(model.batches) < 40
    assert sum(map(len, model.batches)) == sum(1 + n % 3 for n in range(40))


def test_a_large_request_goes_in_several_batches() -> None:
    model = Model()
    assert run(lambda batcher: ask(batcher, list(range(11))), model) == [2 * n for n in range(11)]
    assert [len(batch) for batch in model.batches] == [4, 4, 3]


def test_costly_inputs_go_in_small_batches() -> None:
    model = Model()
    texts = ["a" * 9, "b", "c", "d" * 20, "e"]
    run(lambda batcher: ask(batcher, texts), model, cost=len, most_cost=10)
    assert model.batches == [["a" * 9, "b"], ["c"], ["d" * 20], ["e"]]


def test_kinds_never_share_a_batch_and_the_oldest_goes_first() -> None:
    texts, images = Model(), Model()
    order: list[str] = []

    async def one(batcher: Batcher, lane: str, item: int) -> None:
        await ask(batcher, [item], lane)
        order.append(lane)

    async def work(batcher: Batcher) -> None:
        texts.may_run.clear()
        tasks = [asyncio.create_task(one(batcher, "0", 0))]
        await asyncio.sleep(0.05)  # its batch runs
        for lane, item in (("1", 10), ("0", 1), ("0", 2), ("1", 11)):
            tasks.append(asyncio.create_task(one(batcher, lane, item)))
            await asyncio.sleep(0.002)
        texts.may_run.set()
        await asyncio.gather(*tasks)

    run(work, texts, images)
    assert texts.batches == [[0], [1, 2]]
    assert images.batches == [[10, 11]]
    assert order == ["0", "1", "1", "0", "0"]


@pytest.mark.parametrize(("count", "low", "high"), [(1, 0.2, 1.0), (4, 0.0, 0.15)])
def test_the_first_waits_for_others_but_not_long_and_not_when_a_batch_is_full(
    count: int, low: float, high: float
) -> None:
    async def work(batcher: Batcher) -> float:
        start = time.perf_counter()
        await asyncio.gather(*(ask(batcher, [n]) for n in range(count)))
        return time.perf_counter() - start

    assert low <= run(work, Model(), wait=0.2) < high


def test_clients_that_came_in_two_groups_go_together() -> None:
    model = Model(0.1)

    async def client(batcher: Batcher, number: int) -> None:
        await asyncio.sleep(0.03 * (number > 1))  # the second group comes while the first is computed
        for _ in range(4):
            await ask(batcher, [number])

    async def work(batcher: Batcher) -> Any:
        return await asyncio.gather(*(client(batcher, number) for number in range(4)))

    run(work, model, wait=0.005)
    assert [len(batch) for batch in model.batches] == [2, 4, 4, 4, 2]


def test_too_much_is_refused_and_says_when_to_come_again() -> None:
    model = Model(0.02)

    async def work(batcher: Batcher) -> list[Any]:
        batcher.lanes["0"].seconds_an_item = 0.9
        asked = [ask(batcher, [n, n]) for n in range(5)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(work, model, most_inside=6)
    assert answers[:3] == [[0, 0], [2, 2], [4, 4]]
    assert all(isinstance(fault, Fault) and fault.status == 429 for fault in answers[3:])
    assert answers[3].headers == {"retry-after": "6"}


def test_one_request_larger_than_the_bound_is_served_when_nothing_else_is() -> None:
    assert len(run(lambda batcher: ask(batcher, list(range(9))), Model(), most_inside=6)) == 9


def test_what_the_model_cannot_compute_fails_alone() -> None:
    model = Model()

    async def work(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(*(ask(batcher, [item]) for item in (1, "bad", 3)), return_exceptions=True)

    first, second, third = run(work, model)
    assert (first, third) == ([2], [6])
    assert isinstance(second, Fault)
    assert second.status == 500


def test_a_request_that_is_given_up_leaves_the_queue() -> None:
    model = Model()

    async def work(batcher: Batcher) -> None:
        model.may_run.clear()
        tasks = [asyncio.create_task(ask(batcher, [n])) for n in range(6)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()  # it runs already
        tasks[5].cancel()  # it waits
        await asyncio.sleep(0.01)
        model.may_run.set()
        assert await asyncio.gather(*tasks[1:5]) == [[2], [4], [6], [8]]

    run(work, model)
    assert [item for batch in model.batches for item in batch] == [0, 1, 2, 3, 4]
