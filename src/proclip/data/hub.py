"""Data sets of the Hugging Face hub, and those that its library saved, through that library (extra ``eval``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ProclipError

PREFIX = "hf:"
"""Before the id of a data set of the hub."""
SAVED = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` writes, of several splits or of one."""


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote it."""
    return any((folder / name).is_file() for name in SAVED)


def load_hub_dataset(identifier: str, split: str | None = None) -> Any:
    """A data set of the hub or of a folder (parquet files, or what ``save_to_disk`` wrote), or one of its splits.

    Returns:
        a ``datasets.Dataset``; without `split` a mapping of every split's name to one, where it has names.

    Raises:
        ProclipError: the library is not installed, the data set cannot be had, or it has no such split.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise ProclipError(
            "data sets of the hub need the library datasets: pip install 'proclip-align[eval]'"
        ) from None
    try:
        if not is_saved(Path(identifier)):
            return datasets.load_dataset(identifier, split=split)
        found = datasets.load_from_disk(identifier)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        what = f"the data set {identifier!r}" + (f", split {split!r}," if split else "")
        raise ProclipError(f"{what} cannot be read: {first_line(error)}") from None
    if split is None or isinstance(found, datasets.Dataset):
        return found
    if split not in found:
        raise ProclipError(f"{identifier} has no split {split!r}; there are: {', '.join(found)}")
    return found[split]


def first_line(error: BaseException) -> str:
    """Of a library's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
