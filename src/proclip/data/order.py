"""The order of an epoch: which item is drawn at which place, by seed, epoch and place alone.

Items come in blocks, one a source, each with a weight w. In an epoch every item of a block of n is drawn floor(w)
times, and round((w - floor(w)) n) of them once more: those go round the block from epoch to epoch, in an order that
is new on every round, so that over the epochs no item is drawn more than once oftener than another of its block. One
permutation, by seed and epoch, then mixes the draws of all blocks. Places are a matter of the global batch: which
process reads one, and on how many threads, changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch

from .. import distributed
from ..errors import ProclipError
from ..seeding import generator

_log = logging.getLogger(__name__)
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Block:
    """Items that are drawn equally often."""

    count: int
    """n."""
    weight: float = 1.0
    """w, how often in an epoch."""

    @property
    def extra(self) -> int:
        """Draws of an epoch beside the floor(w) of every item."""
        return round((self.weight - int(self.weight)) * self.count)

    @property
    def draws(self) -> int:
        """Draws of an epoch."""
        return int(self.weight) * self.count + self.extra


class Draw(NamedTuple):
    """One draw of an epoch."""

    item: int
    """Its number, over all blocks."""
    copy: int
    """How many times it was drawn before in this epoch, in no particular order: each has random numbers of its own."""


@final
class Pass:
    """The draws of one epoch.

    Args:
        blocks: of the items.
        seed, epoch: what the order follows from.
    """

    def __init__(self, blocks: Sequence[Block], seed: int, epoch: int) -> None:
        self._items = np.cumsum([0, *(block.count for block in blocks)])
        self._draws = np.cumsum([0, *(block.draws for block in blocks)])
        self._counts, self._turns = np.array([(block.count, int(block.weight)) for block in blocks]).T
        self._extra_starts = np.cumsum([0, *(block.extra for block in blocks)])
        self._extra = np.concatenate([_rounds(block, seed, number, epoch) for number, block in enumerate(blocks)])
        count = int(self._draws[-1])
        self._order: Numbers = torch.randperm(count, generator=generator(seed, "order", epoch)).numpy()

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> Draw:
        items, copies = self.at(np.array([place]))
        return Draw(int(items[0]), int(copies[0]))

    def at(self, places: Numbers) -> tuple[Numbers, Numbers]:
        """The draws at some places [n]: their items and copies, [n] each."""
        draws = self._order[places]
        number = np.searchsorted(self._draws, draws, side="right") - 1
        copies, items = np.divmod(draws - self._draws[number], self._counts[number])
        once_more = copies == self._turns[number]
        items[once_more], again = np.divmod(self._extra[self._extra_starts[number[once_more]] + items[once_more]], 2)
        copies[once_more] += again
        return self._items[number] + items, copies


def _rounds(block: Block, seed: int, number: int, epoch: int) -> Numbers:
    """The extra items of an epoch, each times two, plus one if a new round had begun: such an item may come twice."""
    first, found = epoch * block.extra, []
    for turn in range(first // block.count, -(-(first + block.extra) // block.count)):
        order = torch.randperm(block.count, generator=generator(seed, "mixture", number, turn)).numpy()
        start, stop = (min(max(end - turn * block.count, 0), block.count) for end in (first, first + block.extra))
        found.append(order[start:stop] * 2 + (turn > first // block.count))
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


@final
class Order:
    """Epochs cut into global batches, of which every process takes its slice.

    30M items cost 240 MB and about a second an epoch.

    Args:
        blocks: of the items.
        batch_size: draws of a batch on each process; smaller, and a warning, where there are not as many.
        seed: of every epoch's order.
        what: the items, for the message.
        multiple: a divisor of the batch size, of a smaller one too.

    Raises:
        ProclipError: there are too few for a batch of two times `multiple` on each process.
    """

    def __init__(self, blocks: Sequence[Block], batch_size: int, seed: int, what: str, multiple: int = 1) -> None:
        self._blocks, self._seed, self._world = tuple(blocks), seed, distributed.world_size()
        draws = sum(block.draws for block in blocks)
        if none := next((block for block in blocks if not block.draws), None):
            raise ProclipError(f"none of {none.count} {what} would be drawn with a weight of {none.weight:g}: raise it")
        self.batch_size = min(batch_size, draws // self._world // multiple * multiple)
        if self.batch_size < 2 * multiple:
            raise ProclipError(f"{draws} {what} are too few for a batch of {2 * multiple} on each process")
        if self.batch_size < batch_size and distributed.is_main():
            _log.warning(
                "%d %s are fewer than a batch of %d on each process: batches of %d are taken",
                draws, what, batch_size, self.batch_size,
            )  # fmt: skip
        self.stride = self.batch_size * self._world
        """Draws of a global batch."""
        self.steps_per_epoch = draws // self.stride

    def epoch(self, epoch: int) -> Pass:
        """Its draws."""
        return Pass(self._blocks, self._seed, epoch)

    def places(self, start: int) -> Iterator[range]:
        """This process's batches from step `start` on, as places of the pass; the few draws left over are not used."""
        for step in range(start, self.steps_per_epoch):
            first = step * self.stride + distributed.rank() * self.batch_size
            yield range(first, first + self.batch_size)
