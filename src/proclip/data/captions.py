"""Captions as a long job reads them: one after the other, or by number, never all at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from .dataset import Sample, caption_of
from .store import caption_key


class Captions(Sequence[tuple[str, str]]):
    """Captions in a fixed order: column after column, each in the order of its samples.

    A column that is added at the end leaves the numbers of all others as they were.

    Args:
        columns: samples and the name of a column of theirs.
    """

    def __init__(self, columns: Sequence[tuple[Sequence[Sample], str]]) -> None:
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
        sample = samples[number - (self._ends[block - 1] if block else 0)]
        return caption_key(sample.key, column), caption_of(sample, column)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Keys and texts.

        Raises:
            ProclipError: one is not there, or empty.
        """
        for samples, column in self._columns:
            for sample in samples:
                yield caption_key(sample.key, column), caption_of(sample, column)
