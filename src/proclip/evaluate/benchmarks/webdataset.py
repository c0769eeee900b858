"""Labelled pictures in CLIP_benchmark's webdataset layout: ``SPLIT/0.tar``, ..., with ``SPLIT/nshards.txt``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...data.images import TarImages
from ...errors import ProclipError
from ..benchmark import check_pictures, some
from .prompts import CLASSNAMES, text_lines

Items = tuple[tuple[str, int], ...]
"""Image keys and labels."""


def is_webdataset(folder: Path) -> bool:
    """Whether a folder has a test split in this layout."""
    return any((folder / "test" / name).is_file() for name in ("nshards.txt", "0.tar"))


def check_classification(folder: Path) -> None:
    """Raise `ProclipError` if ``dataset_type.txt`` says that the set is of another kind."""
    path = folder / "dataset_type.txt"
    kind = text_lines(path)[0].lower() if path.is_file() else "classification"
    if kind != "classification":
        raise ProclipError(f"{path} says {kind!r}: the set is not one of classification")


def shards(folder: Path, split: str) -> dict[str, Path]:
    """Archives of a split by ``SPLIT/NUMBER``, in their order.

    Raises:
        ProclipError: there are none, or not as many as ``nshards.txt`` says.
    """
    found = {path.stem: path for path in (folder / split).glob("*.tar")}
    if odd := sorted(stem for stem in found if not stem.isdecimal()):
        raise ProclipError(f"{folder / split}: archives must be named 0.tar, 1.tar, ..., not {some(odd)}")
    if not found:
        raise ProclipError(f"{folder / split} has no archives (0.tar, 1.tar, ...)")
    counted = folder / split / "nshards.txt"
    if counted.is_file():
        line = text_lines(counted)[0]
        if not line.isdecimal():
            raise ProclipError(f"{counted} must hold the number of archives, not {line!r}")
        expected = {str(number) for number in range(int(line))}
        if wrong := sorted(expected ^ set(found), key=int):
            raise ProclipError(
                f"{counted} says {line} archives (0.tar, ...), but there are {len(found)}: "
                f"missing or left over: {some([f'{stem}.tar' for stem in wrong])}"
            )
    return {f"{split}/{stem}": found[stem] for stem in sorted(found, key=int)}


def labels(folder: Path, split: str, images: TarImages, classes: int) -> Items:
    """Keys and labels (``cls``) of a split's samples.

    Raises:
        ProclipError: samples without picture or label, a label that is not a number, or one that has no class name;
            the message names the folder, the first samples (``SPLIT/SHARD/SAMPLE``) and how many there are.
    """
    where = str(folder)
    keys = [key for key in images.samples if key.startswith(f"{split}/")]
    if not keys:
        raise ProclipError(f"{folder / split}: the archives hold no samples")
    check_pictures(where, images, keys)
    absent = set(images.lacking("cls"))
    _none(where, keys, absent.__contains__, "have no label (.cls)")
    contents = {key: images.content(key, "cls").decode("ascii", "replace").strip() for key in keys}
    _none(where, keys, lambda key: not contents[key].isdecimal(), "have a .cls that is not a number")
    _none(
        where,
        keys,
        lambda key: int(contents[key]) >= classes,
        f"have a label beyond the {classes} names of {CLASSNAMES} (0 to {classes - 1})",
    )
    return tuple((key, int(contents[key])) for key in keys)


def _none(where: str, keys: list[str], wrong: Callable[[str], bool], what: str) -> None:
    if found := [key for key in keys if wrong(key)]:
        raise ProclipError(f"{where}: {len(found)} of {len(keys)} samples {what}: {some(found)}")
