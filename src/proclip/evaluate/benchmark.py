"""A benchmark: tasks over pictures, how it is measured, and where its data lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..data.images import ImageSource
from ..errors import ProclipError
from .tasks import Task

FIRST_IDS = 5
"""Offending ids that a message names."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Data of a benchmark, loaded and checked; no picture is decoded yet."""

    name: str
    """Name, such as ``flickr30k``."""
    tasks: Mapping[str, Task]
    """Tasks by the prefix of their figures; one with the prefix "" where there is only one."""
    images: ImageSource
    """Its pictures."""
    protocol: str
    """How it is measured, in a sentence."""
    headline: tuple[str, ...]
    """Keys of the figures that stand for it in a table."""
    means: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Figures that are means of others: key to the keys of its parts, as in ``mean/t2i_r@1`` over languages."""
    complete: bool = True
    """Whether the counts are those that its authors give."""
    notes: Mapping[str, object] = field(default_factory=dict)
    """What else a result should say of the data, JSON values."""

    def checksum(self) -> str:
        """Hash of all ids, captions, labels and class names, in their order: 16 hexadecimal digits."""
        content = {prefix: asdict(task) for prefix, task in self.tasks.items()}
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def only(self, tasks: Collection[str]) -> Benchmark:
        """The benchmark with some of its tasks, and the means that these allow.

        Args:
            tasks: prefixes; of the one task without a prefix, its name.

        Raises:
            ProclipError: it has no task of that prefix.
        """
        named = {prefix or task.name: prefix for prefix, task in self.tasks.items()}
        if unknown := [one for one in tasks if one not in named]:
            raise ProclipError(f"{self.name} has no task {unknown[0]!r}; it has {', '.join(named)}")
        chosen = {prefix: self.tasks[prefix] for name, prefix in named.items() if name in tasks}
        if chosen.keys() == self.tasks.keys():
            return self
        owners = tuple(f"{prefix}/" for prefix in chosen)
        means = {key: tuple(part for part in parts if part.startswith(owners)) for key, parts in self.means.items()}
        means = {key: parts for key, parts in means.items() if parts}
        headline = tuple(key for key in self.headline if key in means or key.startswith(owners))
        return dataclasses.replace(self, tasks=chosen, means=means, headline=headline)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A benchmark of the catalogue."""

    name: str
    """Name."""
    folder: str
    """Folder below the data root in which its files lie."""
    load: Callable[[Path], Benchmark]
    """From that folder.

    Raises `ProclipError` for what is wrong with captions or labels: what is missing or does not match; the message
    names the first few ids and how many there are. Counts and pictures are checked by `load_suite`, for all alike.
    """
    layout: str
    """What the folder must hold, in a line."""
    aliases: tuple[str, ...] = ()
    """Other names of that folder, tried in this order where it is not there."""
    expected: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    """Counts that its authors give, of ``images`` and ``texts``; several where several versions are in use."""


def some(ids: list[str]) -> str:
    """How a message names ids: the first few, and how many there are."""
    shown = ", ".join(repr(one) for one in ids[:FIRST_IDS])
    return shown if len(ids) <= FIRST_IDS else f"{shown}, ... ({len(ids)} in all)"


def check_pictures(name: str, images: ImageSource, keys: list[str]) -> None:
    """Raise `ProclipError` if pictures are missing."""
    if absent := images.missing(keys):
        raise ProclipError(
            f"{name}: {len(absent):,} of {len(keys):,} pictures are missing or no pictures: {some(absent)}"
        )
