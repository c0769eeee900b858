"""What a model found and what it got wrong, with pictures: ``NAME.gallery.json`` beside a result file.

Pictures are small data addresses, stored once by ``BENCHMARK/KEY``, so that a page needs nothing beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import ProclipError
from ..files import read_json, write_json

FORMAT = "proclip-gallery"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Found:
    """One of the nearest."""

    what: str
    """Key of a picture (``BENCHMARK/KEY``), or a text."""
    right: bool
    """Whether it is a right answer."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query of a retrieval task, and what the model found."""

    benchmark: str
    """Name of the benchmark."""
    task: str
    """Prefix of the task in it, such as ``multilingual/de``; "" where it has one task."""
    direction: Literal["t2i", "i2t"]
    """Whether a text asks for pictures, or a picture for texts."""
    asked: str
    """The query: a text, or the key of a picture."""
    answers: tuple[str, ...]
    """What is right: keys of pictures, or texts."""
    found: tuple[Found, ...]
    """The nearest, best first."""
    rank: int
    """Place of the first right one among all, from 1."""


@dataclass(frozen=True, kw_only=True)
class WrongClass:
    """A picture that zero-shot classification got wrong."""

    benchmark: str
    """Name of the benchmark."""
    task: str
    """Prefix of the task in it."""
    picture: str
    """Key of the picture."""
    truth: str
    """Name of its class."""
    predicted: str
    """Name of the class that the model took."""
    truth_score: float
    """Cosine of the picture and its class."""
    predicted_score: float
    """Cosine of the picture and the class that the model took."""


@dataclass(frozen=True, kw_only=True)
class WrongChoice:
    """An item of a fine-grained task that the model got wrong: pictures, and texts of which each picture has its own.

    One picture and two texts (the true caption first), or two pictures and two texts in the same order.
    """

    benchmark: str
    """Name of the benchmark."""
    task: str
    """Prefix of the task in it."""
    kind: str
    """Visual pattern, or how the caption was changed."""
    pictures: tuple[str, ...]
    """Keys of the pictures."""
    texts: tuple[str, ...]
    """The texts."""
    scores: tuple[tuple[float, ...], ...]
    """Cosine of each picture with each text."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A model's gallery."""

    name: str
    """Name of the model, as in its result file."""
    pictures: Mapping[str, str]
    """``data:`` addresses by ``BENCHMARK/KEY``."""
    queries: tuple[Query, ...] = field(default=())
    """Of retrieval."""
    wrong_classes: tuple[WrongClass, ...] = field(default=())
    """Of zero-shot classification."""
    wrong_choices: tuple[WrongChoice, ...] = field(default=())
    """Of fine-grained tasks."""

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(self)})


def joined_galleries(galleries: Sequence[Gallery]) -> Gallery:
    """One model's galleries of several benchmarks, at least one, as one."""
    return Gallery(
        name=galleries[0].name,
        pictures={key: uri for gallery in galleries for key, uri in gallery.pictures.items()},
        queries=tuple(one for gallery in galleries for one in gallery.queries),
        wrong_classes=tuple(one for gallery in galleries for one in gallery.wrong_classes),
        wrong_choices=tuple(one for gallery in galleries for one in gallery.wrong_choices),
    )


def gallery_path(path: Path) -> Path:
    """Where the gallery of a result file lies."""
    return path.with_name(f"{path.name.removesuffix('.json')}.gallery.json")


def load_gallery(path: Path) -> Gallery:
    """Read a gallery.

    Raises:
        ProclipError: the file is missing, is not a gallery, is of a later version, lacks a field, names a picture that
            it does not hold, or holds one that is no ``data:`` address; the message names the file.
    """
    values = read_json(path)
    if values.get("format") != FORMAT or values.get("version") != VERSION:
        raise ProclipError(f"{path} is not a gallery that this proclip reads: 'format' must be {FORMAT!r}, version 1")
    try:
        gallery = Gallery(
            name=values["name"],
            pictures=dict(values["pictures"]),
            queries=tuple(_query(one) for one in values["queries"]),
            wrong_classes=tuple(WrongClass(**one) for one in values["wrong_classes"]),
            wrong_choices=tuple(_choice(one) for one in values["wrong_choices"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProclipError(f"{path}: a field is missing or not as it should be: {error}") from None
    if absent := [key for key in _used(gallery) if key not in gallery.pictures]:
        raise ProclipError(f"{path}: the picture {absent[0]!r} is named but not there ({len(absent)} in all)")
    if odd := [key for key, uri in gallery.pictures.items() if not uri.startswith("data:image/")]:
        raise ProclipError(f"{path}: the picture {odd[0]!r} must be a data:image/ address")
    return gallery


def _query(values: dict[str, Any]) -> Query:
    found = tuple(Found(**one) for one in values["found"])
    if values["direction"] not in ("t2i", "i2t"):
        raise ValueError(f"direction {values['direction']!r}")
    return Query(**{**values, "answers": tuple(values["answers"]), "found": found})


def _choice(values: dict[str, Any]) -> WrongChoice:
    lists = {key: tuple(values[key]) for key in ("pictures", "texts")}
    return WrongChoice(**{**values, **lists, "scores": tuple(tuple(row) for row in values["scores"])})


def _used(gallery: Gallery) -> list[str]:
    """Every key of a picture that the items name."""
    keys: list[str] = []
    for query in gallery.queries:
        keys += (
            [found.what for found in query.found] + list(query.answers) if query.direction == "t2i" else [query.asked]
        )
    keys += [wrong.picture for wrong in gallery.wrong_classes]
    keys += [key for wrong in gallery.wrong_choices for key in wrong.pictures]
    return list(dict.fromkeys(keys))
