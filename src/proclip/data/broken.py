"""Pictures that turn out broken while training runs: replaced, counted, written down, and too many of them refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from rich.console import Console

from .. import distributed
from ..errors import ProclipError

FEW = 1000
"""The share is of at least so many images (of all, where there are fewer): one in the first ten says little."""
NAMED = 5
"""Pictures that are named on the console and by the error; the others are counted."""


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
    """Keeps the count of one stage on this process.

    Args:
        max_share: of the images of a pass, above which the run stops.
        images: of a pass, on this process.
        file: a line of JSON for each broken picture, once; None: none is written.
    """

    def __init__(self, max_share: float, images: int, file: Path | None = None) -> None:
        self.max_share, self._least = max_share, min(FEW, images)
        self._file = file
        if file is not None and distributed.world_size() > 1:
            self._file = file.with_stem(f"{file.stem}.rank{distributed.rank()}")
        self._written = self._read_keys()
        self._seen = self._broken = self._until = 0
        self._first: list[Broken] = []
        self.count = 0
        """Broken pictures met since this process began, those of every pass."""

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
        self.count += len(broken)
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
        if one.key in self._written:
            return
        self._written.add(one.key)
        if len(self._written) <= NAMED:
            line = f"{one.key!r} is broken, {one.instead!r} takes its place: {one.why}"
            Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")

    def _read_keys(self) -> set[str]:
        """Keys that an earlier start of the run wrote; a line that a kill cut short is written again."""
        if self._file is None or not self._file.is_file():
            return set()
        keys = set()
        for line in self._file.read_text(encoding="utf-8").split("\n"):
            try:
                keys.add(str(json.loads(line)["key"]))
            except (ValueError, KeyError, TypeError):
                continue
        return keys
