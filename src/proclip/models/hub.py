"""Files of a model by its name: a folder, or the hub's, downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ProclipError


def hub_folder(name: str, revision: str | None, patterns: Sequence[str], what: str = "") -> Path:
    """The folder `name` itself, or a copy of the hub's repository of that name.

    Args:
        name: folder or hub id.
        revision: of the hub's repository.
        patterns: names of the files to download.
        what: the field that holds the name, for the message.

    Raises:
        ProclipError: it is neither a folder nor reachable on the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        subject = f"{what} {name!r}".strip()
        raise ProclipError(f"{subject} is neither a folder nor a checkpoint that the hub gives: {reason}") from None


def has_file(name: str, file: str, revision: str | None = None) -> bool:
    """Whether the folder `name`, or the hub's repository of that name, has a file.

    Raises:
        ProclipError: it is neither a folder nor reachable on the hub.
    """
    if Path(name).is_dir():
        return (Path(name) / file).is_file()
    return (hub_folder(name, revision, [file]) / file).is_file()
