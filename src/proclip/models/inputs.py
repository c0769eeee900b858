"""What people hand to a model, one or many, checked: texts, labels, and pictures as paths, Pillow images and arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ProclipError, one_line
from .image_files import read_image, size_fault, to_rgb, upright
from .token_rows import check_texts
from .vectors import as_array

Picture = Image.Image | str | Path | NDArray[np.uint8]
"""One picture: a Pillow image, the path of a file, or an array [h, w, 3]."""
ARRAY = "[h, w, 3] or [3, h, w] uint8"
ADDRESSES = ("http://", "https://", "data:")


def texts_of(texts: str | Iterable[str], name: str = "text") -> list[str]:
    """One text or many as a list.

    Args:
        texts: a string, or strings in an order: a list, a tuple, an array, a column of a table.
        name: of one of them, for messages.

    Raises:
        ProclipError: something else is given, or a text is empty; the message gives its place.
    """
    if isinstance(texts, str):
        found = [texts]
    elif isinstance(texts, (bytes, Mapping, Set)) or not isinstance(texts, Iterable):
        raise ProclipError(f"{name}s: a string or a list of strings is wanted, not {kind_of(texts)}")
    else:
        found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise ProclipError(f"{name} {place} of {len(found)} is not a string but {kind_of(text)}")
    check_texts(found)
    return found


def labels_of(labels: Sequence[str]) -> list[str]:
    """Class names of a zero-shot classification as a list.

    Raises:
        ProclipError: there is none, one is no string or empty, or one is there twice, which would share its chance.
    """
    if isinstance(labels, str):
        raise ProclipError(f"labels: a list of class names is wanted, not the string {labels!r}")
    found = texts_of(labels, "label")
    if not found:
        raise ProclipError("labels: at least one class name is wanted")
    if twice := [label for label, count in Counter(found).items() if count > 1]:
        raise ProclipError(f"label {twice[0]!r} is there twice: each of two equal labels would get half of its chance")
    return found


def pictures_of(images: Picture | Iterable[Picture]) -> tuple[list[Picture], bool]:
    """One picture or many as a list, and whether it was one; nothing is opened yet.

    Args:
        images: a picture, pictures in an order (an array of paths too), or an array [n, h, w, 3].

    Raises:
        ProclipError: something else is given.
    """
    if isinstance(images, (str, Path, Image.Image)):
        return [images], True
    if isinstance(array := as_array(images, "images"), np.ndarray) and array.dtype.kind not in "OTU":
        return ([array], True) if array.ndim < 4 else (list(array), False)
    if isinstance(images, (bytes, Mapping, Set)) or not isinstance(images, Iterable):
        raise ProclipError(
            f"images: a path, a Pillow image, an array or a list of them is wanted, not {kind_of(images)}"
        )
    return list(images), False


def open_picture(picture: Any, name: str) -> Image.Image:
    """One picture as an RGB image, turned as its EXIF orientation says; transparent parts become white.

    Args:
        picture: a `Picture`, or a tensor like an array; channels may come first.
        name: for messages, of what is no file.

    Raises:
        ProclipError: the file is missing or is no image, an array is of another shape or type, or it is no picture.
    """
    if isinstance(picture, str) and not picture:
        raise ProclipError(f"{name}: the path is empty")
    if isinstance(picture, str) and picture.startswith(ADDRESSES):
        raise ProclipError(f"{name}: {picture[:40]!r} is an address, which is not fetched: open the image and pass it")
    if isinstance(picture, (str, Path)):
        return upright(read_image(picture))
    if isinstance(array := as_array(picture, name), np.ndarray):
        picture = _from_array(array, name)
    if not isinstance(picture, Image.Image):
        raise ProclipError(f"{name} is not a path, a Pillow image or an array, but {kind_of(picture)}")
    if fault := size_fault(picture.size):
        raise ProclipError(f"{name} is refused: {fault}")
    try:
        picture.load()
        return to_rgb(upright(picture))
    except Exception as error:  # Pillow decodes late, and its decoders raise whatever a broken file leads them to
        raise ProclipError(f"{name} cannot be read: {one_line(error)}") from None


def _from_array(array: NDArray[Any], name: str) -> Image.Image:
    if array.dtype != np.uint8:
        why = ": where it is in [0, 1], give (255 * array).round().astype('uint8')" if array.dtype.kind == "f" else ""
        raise ProclipError(f"{name}: an array of a picture is {ARRAY}, not {list(array.shape)} of {array.dtype}{why}")
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[-1]) or not array.size:
        raise ProclipError(f"{name}: an array of a picture is {ARRAY}, not {list(array.shape)}")
    return Image.fromarray(np.ascontiguousarray(array if array.shape[-1] == 3 else array.transpose(1, 2, 0)))


def check_batch_size(batch_size: int) -> None:
    """Refuse what is no whole number above zero."""
    if not isinstance(batch_size, (int, np.integer)) or isinstance(batch_size, bool) or batch_size < 1:
        raise ProclipError(f"batch_size is {batch_size!r}: a whole number above 0 is wanted")


def kind_of(value: object) -> str:
    """A value's type and its beginning, for messages."""
    return "None" if value is None else f"{type(value).__name__} ({one_line(ValueError(repr(value)), 40)})"
