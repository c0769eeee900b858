"""Files of a model by its name: a folder, or the hub's, downloaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from ..errors import NotHere, one_line

OURS = ("mini-clip", "smollm2")
"""Names of checkpoints in packages: they come before a folder of that name."""
COMMIT = re.compile(r"[0-9a-f]{40}")


class HubAccess(TypedDict, total=False):
    """How the hub is asked: arguments of its own client, None for its default."""

    token: str | bool | None
    """Of the user; the one that is logged in, if None."""
    cache_dir: str | Path | None
    """Where copies are kept; where all are, if None."""
    local_files_only: bool
    """Take what this machine's cache has, and ask nobody."""


def hub_folder(
    name: str, revision: str | None, patterns: Sequence[str], what: str = "", **access: Unpack[HubAccess]
) -> Path:
    """The folder `name` itself, or a copy of the hub's repository of that name.

    Args:
        name: folder or hub id.
        revision: of the hub's repository.
        patterns: names of the files to download.
        what: the field that holds the name, for the message.
        access: token, cache and whether to stay on this machine.

    Raises:
        NotHere: it is neither a folder nor reachable on the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), **access))
    except HFValidationError:  # a path: nothing on the hub can be called that
        raise _not_here(name, what, "there is no such folder") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        said = "HF_HUB_OFFLINE" if is_offline_mode() else "local_files_only" if access.get("local_files_only") else ""
        uncached = isinstance(error, LocalEntryNotFoundError) and said
        reason = f"it is not in the cache, and {said} is set" if uncached else one_line(error)
        raise _not_here(name, what, reason) from None


def _not_here(name: str, what: str, reason: str) -> NotHere:
    subject = f"{what} {name!r}".strip()
    return NotHere(f"{subject} is neither a folder nor a checkpoint that the hub gives: {reason}")


def may_be_named(name: str) -> bool:
    """Whether a checkpoint can have this name: it is a folder, or the hub could know it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        try_to_load_from_cache(name, "config.json")  # refuses what can be no hub id, and asks nobody
    except HFValidationError:
        return Path(name).is_dir()
    return True


def hub_origin(folder: Path) -> tuple[str, str] | None:
    """Hub id and commit of a folder in the hub's cache (``models--ORG--NAME/snapshots/COMMIT``), None for any other."""
    commit, repository = commit_of(folder), folder.parent.parent.name
    kind, _, name = repository.partition("--")
    return (name.replace("--", "/"), commit) if commit and kind == "models" and name else None


def commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache (``.../snapshots/COMMIT``), None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None


def local_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """A file of the folder `name`, or of the hub's repository as this machine's cache has it; nothing is downloaded."""
    if Path(name).exists():
        return Path(name) / file if (Path(name) / file).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def lasting_name(name: str) -> str:
    """A checkpoint's name that holds wherever it is read: the absolute path of a folder or file, others as they are."""
    if name in OURS:
        return name
    prefix, path = ("open_clip:", name.removeprefix("open_clip:")) if name.startswith("open_clip:") else ("", name)
    if prefix and not Path(path).exists():  # open_clip:MODEL/FILE
        model, _, path = path.partition("/")
        prefix += f"{model}/"
    return prefix + str(Path(path).absolute()) if path and Path(path).exists() else name


def has_file(name: str, file: str, revision: str | None = None) -> bool:
    """Whether the folder `name`, or the hub's repository of that name, has a file.

    Raises:
        ProclipError: it is neither a folder nor reachable on the hub.
    """
    if Path(name).is_dir():
        return (Path(name) / file).is_file()
    return (hub_folder(name, revision, [file]) / file).is_file()
