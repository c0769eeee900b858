"""The order of an epoch: today's for one source, exact weights for several, and 30M items at a stated price."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from proclip import distributed
from proclip.data.order import Block, Draw, Order
from proclip.errors import ProclipError
from proclip.seeding import generator


def whole_epoch(order: Order, epoch: int) -> list[Draw]:
    draws = order.epoch(epoch)
    items, copies = draws.at(np.arange(len(draws)))
    found = [Draw(int(item), int(copy)) for item, copy in zip(items, copies, strict=True)]
    assert found == [draws[place] for place in range(len(draws))]
    return found


def test_one_source_is_one_permutation() -> None:
    order = Order([Block(23)], batch_size=5, seed=7, what="items")
    for epoch in range(3):
        wanted = torch.randperm(23, generator=generator(7, "order", epoch)).tolist()
        assert whole_epoch(order, epoch) == [Draw(item, 0) for item in wanted]
    assert [list(places) for places in order.places(2)] == [list(range(10, 15)), list(range(15, 20))]


@pytest.mark.parametrize("weights", [(2.0, 0.5), (1.25, 1.0), (0.3, 3.0), (0.75, 0.01)])
def test_weights_are_exact_in_every_epoch_and_over_all(weights: tuple[float, float]) -> None:
    blocks = [Block(40, weights[0]), Block(100, weights[1])]
    order = Order(blocks, batch_size=4, seed=0, what="items")
    seen: Counter[int] = Counter()
    for epoch in range(12):
        draws = whole_epoch(order, epoch)
        assert len(set(draws)) == len(draws)  # copies of one item differ
        counts = Counter(draw.item for draw in draws)
        assert sum(counts[item] for item in range(40)) == round(40 * weights[0])
        assert sum(counts[item] for item in range(40, 140)) == round(100 * weights[1])
        seen += counts
        for block in (range(40), range(40, 140)):  # so far no item was drawn twice oftener than another
            assert max(seen[item] for item in block) - min(seen[item] for item in block) <= 1
        assert draws == whole_epoch(order, epoch)
    assert whole_epoch(order, 0) != whole_epoch(Order(blocks, batch_size=4, seed=1, what="items"), 0)


def test_processes_share_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Order([Block(50, 1.5)], batch_size=12, seed=3, what="items")
    wanted = {start: [list(places) for places in alone.places(start)] for start in (0, 2)}
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for start in wanted:
        shares = []
        for rank in range(3):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            order = Order([Block(50, 1.5)], batch_size=4, seed=3, what="items")
            shares.append([list(places) for places in order.places(start)])
        together = [list(itertools.chain(*step)) for step in zip(*shares, strict=True)]
        assert together == wanted[start]


def test_a_batch_larger_than_the_data(caplog: pytest.LogCaptureFixture) -> None:
    """It is made smaller, aloud, and stays a multiple of what it has to be."""
    assert (Order([Block(50)], 50, seed=0, what="images").batch_size, caplog.messages) == (50, [])
    assert Order([Block(50)], 64, seed=0, what="images", multiple=4).batch_size == 48
    assert caplog.messages == ["50 images are fewer than a batch of 64 on each process: batches of 48 are taken"]
    with pytest.raises(ProclipError, match="7 images are too few for a batch of 8 on each process"):
        Order([Block(7)], 64, seed=0, what="images", multiple=4)


def test_too_little_to_draw() -> None:
    with pytest.raises(ProclipError, match="1 images are too few"):
        Order([Block(1)], batch_size=4, seed=0, what="images")
    with pytest.raises(ProclipError, match=r"none of 10 images would be drawn with a weight of 0\.01"):
        Order([Block(100), Block(10, 0.01)], batch_size=4, seed=0, what="images")
