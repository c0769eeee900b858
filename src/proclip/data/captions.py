"""Captions as a long job reads them: one after the other, or by number, never all at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from .dataset import Samples
from .store import caption_key


class Captions(Sequence[tuple[str, str]]):
    """Captions in a fixed order: column after column, each in the order of its samples.

    A column that is added at the end leaves the numbers of all others as they were.

    Args:
        columns: samples and the name of a column of theirs.
    """

    def __init__(self, columns: Sequence[tuple[Samples, str]]) -> None:
        self._columns = columns
        self._ends = list(accumulate(len(samples) for samples, _ in columns))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> tuple[str, str]:  # type: ignore[override]  # no slices: they would be lists
        """Key and text of one caption.

        Raises:
            ProclipError: it is not there, or empty.
        """
        block = bisect_right(self._ends, number)
        samples, column = self._columns[block]
        key, text = samples.caption(number - (self._ends[block - 1] if block else 0), column)
        return caption_key(key, column), text

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Keys and texts.

        Raises:
            ProclipError: one is not there, or empty.
        """
        for samples, column in self._columns:
            for place, (key, _, text) in enumerate(samples.captions((column,))):
                whole = text if text and not text.isspace() else samples.caption(place, column)[1]
                yield caption_key(key, column), whole
