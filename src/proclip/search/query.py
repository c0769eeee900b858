"""What is asked: texts and pictures with weights, as one vector; dates and folders, as a filter."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from ..errors import ProclipError
from .catalogue import Filter
from .vectors import Floats

PictureLike = str | Path | Image
Texts = str | Sequence[str]
Pictures = PictureLike | Sequence[PictureLike]
Minus = str | Path | Image | Sequence[str | Path | Image]
T = TypeVar("T", bound="str | Path | Image")
NOTHING = 1e-6
"""Length of a sum of unit vectors below which it has no direction."""


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
        weights: one of each part, above zero; all 1 if None.

    Raises:
        ProclipError: weights that are not as many as the parts, or not above zero.
    """
    texts, pictures, unwanted = _listed(text), _listed(image), _listed(minus)
    count = len(texts) + len(pictures) + len(unwanted)
    given = list(weights) if weights is not None else [1.0] * count
    if len(given) != count:
        raise ProclipError(
            f"{len(given)} weights for {count} parts: one of each is wanted, in the order texts ({len(texts)}), "
            f"pictures ({len(pictures)}), minus ({len(unwanted)})"
        )
    if bad := [weight for weight in given if not (math.isfinite(weight) and weight > 0)]:
        raise ProclipError(f"the weight {bad[0]} is not above 0: what is not wanted goes into minus, with its weight")
    places = iter(given)
    parts = [Part("text", value, next(places)) for value in texts]
    parts += [Part("picture", value, next(places)) for value in pictures]
    for value in unwanted:
        parts.append(Part("text" if isinstance(value, str) else "picture", value, -next(places)))
    return parts


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
        ProclipError: a text is empty, a picture cannot be read, or the parts cancel each other out.
    """
    texts = [str(part.value) for part in parts if part.kind == "text"]
    of_texts = iter(encode_texts(texts)) if texts else iter(())
    vectors = [next(of_texts) if part.kind == "text" else encode_picture(part.value) for part in parts]
    weights = np.array([part.weight for part in parts])
    total: npt.NDArray[np.float64] = weights @ np.stack([_unit(vector.astype(np.float64)) for vector in vectors])
    if float(np.linalg.norm(total)) < NOTHING:
        raise ProclipError("the parts of the query cancel each other out: nothing is left to search for")
    found: Floats = _unit(total).astype(np.float32)
    return found


def filter_of(after: str | date | None, before: str | date | None, folder: str | Path | None) -> Filter:
    """Which files may be found.

    Args:
        after: taken at its beginning or later: a `date`, a `datetime`, or ``2024``, ``2024-05``, ``2024-05-31``,
            ``2024-05-31 18:20``.
        before: taken before its beginning.
        folder: below it.

    Raises:
        ProclipError: not a date, or a span that ends before it begins.
    """
    first = _moment(after, "after") if after is not None else None
    end = _moment(before, "before") if before is not None else None
    if first is not None and end is not None and end <= first:
        raise ProclipError(f"no picture is taken at or after {after} and before {before}")
    return Filter(first, end, str(Path(folder).expanduser().resolve()) if folder is not None else None)


def _moment(value: str | date, name: str) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")[:19]
    if isinstance(value, date):
        return value.isoformat()
    text = value.strip().replace(" ", "T")
    rest = "0000-01-01T00:00:00"[len(text) :]
    if re.fullmatch(r"\d{4}(-\d\d(-\d\d(T\d\d:\d\d(:\d\d)?)?)?)?", text):
        try:
            datetime.fromisoformat(text + rest)
            return text
        except ValueError:
            pass
    raise ProclipError(f"{name}: {value!r} is not a date: 2024, 2024-05, 2024-05-31 or '2024-05-31 18:20' would be one")


def _listed(value: T | Sequence[T] | None) -> list[T]:
    if value is None:
        return []
    if isinstance(value, (str, Path, Image)):
        return [value]
    return list(value)


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.linalg.norm(vector)
    return vector / length if length else vector
