"""Pictures that turn out broken while training runs: replaced, counted, written down, and too many of them refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from rich.console import Console

from .. import distributed
from ..errors import ProclipError

FEW = 1000
"""The share is of at least so many images (of all, where there are fewer): one in the first ten says little."""
NAMED = 5
"""Pictures that each process names on the console, and that the error names; the others are counted."""


@dataclass(frozen=True)
class Broken:
    """A picture that could not be used, and what took its place."""

    key: str
    """Of its sample."""
    why: str
    """File and fault."""
    instead: str
    """Key of the sample that was taken."""


@final
class BrokenImages:
    """Keeps the count of one stage: each process writes down and judges what it reads, and `total` is of all.

    Args:
        max_share: of the images of a pass on this process, above which the run stops.
        images: of a pass, on this process.
        file: a line of JSON for each broken picture, once; None: none is written. Of several processes each writes one
            of its own, ``STEM.rankN.jsonl``.
    """

    def __init__(self, max_share: float, images: int, file: Path | None = None) -> None:
        self.max_share, self._least = max_share, min(FEW, images)
        self._known = {key for one in files_like(file) for key in _keys(one)} if file is not None else set[str]()
        self._untold: list[str] = []
        self._named = 0
        self._file = file
        if file is not None and distributed.world_size() > 1:
            self._file = file.with_stem(f"{file.stem}.rank{distributed.rank()}")
        self._seen = self._broken = self._until = 0
        self._first: list[Broken] = []

    def total(self) -> int:
        """Broken pictures that any process has met, each once, earlier starts of the run included.

        Every process must call it at the same moment.
        """
        for keys in distributed.from_all(self._untold):
            self._known.update(keys)
        self._untold = []
        return len(self._known)

    def start_pass(self) -> None:
        """A new pass, or the rest of one: the share is counted from here."""
        self._seen = self._broken = self._until = 0
        self._first = []

    def record(self, places: range, broken: Sequence[Broken]) -> None:
        """Places of a pass that were read, and those pictures that had to be replaced; places count once, in order.

        Raises:
            ProclipError: the share is above what is allowed; the message names the first.
        """
        if places.stop <= self._until:
            return  # a batch in parts is read twice
        self._until = places.stop
        self._seen += len(places)
        self._broken += len(broken)
        self._first = [*self._first, *broken][:NAMED]
        for one in broken:
            self._write(one)
        if self._broken > self.max_share * max(self._seen, self._least):
            named = "; ".join(f"{one.key!r}: {one.why}" for one in self._first)
            raise ProclipError(
                f"{self._broken} of {self._seen} images of this pass are broken, more than the share of "
                f"{self.max_share:g} that data.max_broken_share allows: {named}. Run  proclip data check  and mend them"
            )

    def _write(self, one: Broken) -> None:
        if one.key in self._known:
            return
        self._known.add(one.key)
        self._untold.append(one.key)
        if self._named < NAMED:
            self._named += 1
            line = f"{one.key!r} is broken, {one.instead!r} takes its place: {one.why}"
            Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")


def files_like(file: Path) -> list[Path]:
    """Those of a run's files of broken pictures that are there: `file`, and those of several processes, by name."""
    return sorted(file.parent.glob(f"{file.stem}*{file.suffix}"))


def _keys(file: Path) -> Iterator[str]:
    """Keys that an earlier start of the run wrote; a line that a kill cut short is written again."""
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError, KeyError, TypeError):
            yield str(json.loads(line)["key"])
