"""What is asked: texts and pictures with weights, as one vector; dates and folders, as a filter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL.Image import Image

from ..errors import ProclipError
from ..models.inputs import kind_of, texts_of
from ..models.weighted_query import MOST_WEIGHT, weighted_query
from .catalogue import Filter
from .vectors import Floats

PictureLike = str | Path | Image
Texts = str | Sequence[str]
Pictures = PictureLike | Sequence[PictureLike]
Minus = str | Path | Image | Sequence[str | Path | Image]
T = TypeVar("T", bound="str | Path | Image")


@dataclass(frozen=True)
class Part:
    """One text or picture of a query."""

    kind: Literal["text", "picture"]
    value: str | Path | Image
    weight: float
    """Below zero for what is not wanted."""


def parts_of(
    text: Texts | None, image: Pictures | None, minus: Minus | None, weights: Sequence[float] | None
) -> list[Part]:
    """The parts of a query: its texts, its pictures, what is not wanted, in that order.

    Args:
        text: texts.
        image: pictures: paths or Pillow images.
        minus: texts (a string is always a text), and pictures (a `Path` or Pillow image).
        weights: one of each part, in [0, 10]; all 1 if None.

    Raises:
        ProclipError: one of another type or an empty text, or weights that are not as many as the parts; it names
            the argument.
    """
    texts = texts_of(text) if text is not None else []
    pictures = _listed(image, "image", "paths and Pillow images")
    unwanted = _listed(minus, "minus", "texts, paths (as Path) and Pillow images")
    if any(isinstance(value, str) and not value.strip() for value in unwanted):
        raise ProclipError("minus: a text of it is empty")
    count = len(texts) + len(pictures) + len(unwanted)
    given = _numbers(weights) if weights is not None else [1.0] * count
    if len(given) != count:
        raise ProclipError(
            f"{len(given)} weights for {count} parts: one of each is wanted, in the order texts ({len(texts)}), "
            f"pictures ({len(pictures)}), minus ({len(unwanted)})"
        )
    places = iter(given)
    parts = [Part("text", value, next(places)) for value in texts]
    parts += [Part("picture", value, next(places)) for value in pictures]
    for value in unwanted:
        parts.append(Part("text" if isinstance(value, str) else "picture", value, -next(places)))
    return parts


def path_of(value: str | Path, name: str) -> Path:
    """An absolute path.

    Raises:
        ProclipError: it is none; `name` is the argument's.
    """
    if not isinstance(value, (str, Path)) or "\0" in str(value):
        raise ProclipError(f"{name}: a path is wanted, not {kind_of(value)}")
    try:
        return Path(value).expanduser().resolve()
    except RuntimeError:  # ~someone
        raise ProclipError(f"{name}: a path is wanted, and {value} begins with a user that is not here") from None


def check_near(near: PictureLike | None) -> None:
    """Refuse what is no single picture."""
    if near is not None and not isinstance(near, (str, Path, Image)):
        raise ProclipError(f"near: one path or Pillow image is wanted, not {kind_of(near)}")


def check_count(k: int) -> None:
    """Refuse what is no number of hits."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ProclipError(f"k is {k!r}: how many hits are wanted, a whole number above 0")


def query_vector(
    parts: Sequence[Part],
    encode_texts: Callable[[list[str]], Floats],
    encode_picture: Callable[[str | Path | Image], Floats],
) -> Floats:
    """The weighted sum of the parts' L2-normalised vectors, L2-normalised, [d].

    Args:
        parts: at least one.
        encode_texts: n texts to [n, d].
        encode_picture: a picture to [d].

    Raises:
        ProclipError: a picture cannot be read, nothing is wanted, or the parts cancel each other out.
    """
    texts = [str(part.value) for part in parts if part.kind == "text"]
    of_texts = iter(encode_texts(texts)) if texts else iter(())
    vectors = [next(of_texts) if part.kind == "text" else encode_picture(part.value) for part in parts]
    return weighted_query(vectors, [part.weight for part in parts])


def filter_of(after: str | date | None, before: str | date | None, folder: str | Path | None) -> Filter:
    """Which files may be found.

    Args:
        after: taken at its beginning or later: a `date`, a `datetime`, or ``2024``, ``2024-05``, ``2024-05-31``,
            ``2024-05-31 18:20``.
        before: taken before its beginning.
        folder: below it.

    Raises:
        ProclipError: not a date, not a path, or a span that ends before it begins.
    """
    first = _moment(after, "after") if after is not None else None
    end = _moment(before, "before") if before is not None else None
    if first is not None and end is not None and end <= first:
        raise ProclipError(f"no picture is taken at or after {after} and before {before}")
    return Filter(first, end, str(path_of(folder, "folder")) if folder is not None else None)


def _moment(value: str | date, name: str) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")[:19]
    if isinstance(value, date):
        return value.isoformat()
    text = value.strip().replace(" ", "T") if isinstance(value, str) else ""
    rest = "0000-01-01T00:00:00"[len(text) :]
    if re.fullmatch(r"\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d)?)?)?)?", text):
        try:
            datetime.fromisoformat(text + rest)
            return text
        except ValueError:
            pass
    raise ProclipError(f"{name}: {value!r} is not a date: 2024, 2024-05, 2024-05-31 or '2024-05-31 18:20' would be one")


def _listed(value: T | Sequence[T] | None, name: str, wanted: str) -> list[T]:
    if value is None:
        return []
    found: list[Any] = [value] if isinstance(value, (str, Path, Image)) else _items(value, name, wanted)
    for one in found:
        if not isinstance(one, (str, Path, Image)):
            raise ProclipError(f"{name}: {wanted} are wanted, not {kind_of(one)}")
    return found


def _numbers(weights: Sequence[float]) -> list[float]:
    wanted = f"numbers from 0 to {MOST_WEIGHT:g}"
    given = _items(weights, "weights", wanted)
    for one in given:
        if isinstance(one, bool) or not isinstance(one, Real) or not 0 <= float(one) <= MOST_WEIGHT:
            hint = (
                ": what is not wanted goes into minus, with its weight"
                if isinstance(one, Real) and float(one) < 0
                else ""
            )
            raise ProclipError(f"weights (--weights): {wanted} are wanted, not {kind_of(one)}{hint}")
    return [float(one) for one in given]


def _items(value: object, name: str, wanted: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping, Set)) or not isinstance(value, Iterable):
        raise ProclipError(f"{name}: {wanted} are wanted, not {kind_of(value)}")
    return list(value)
