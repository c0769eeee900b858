"""Members of tar archives in the webdataset layout: a sample is all that share their name up to the first dot."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PICTURES = ("webp", "png", "jpg", "jpeg")
"""Extensions of pictures."""
NAME = re.compile(r"(?:\./)?((?:.*/)?[^./][^.]*)\.([^/]+)")
"""Sample, folders included, and extension."""


class CutShort(tarfile.ReadError):
    """An archive ends within a member."""

    def __init__(self, name: str, sample: str | None) -> None:
        super().__init__(f"{name} ends beyond its end")
        self.sample = sample
        """Whose member it is, if any's."""


class Member(NamedTuple):
    """A member, and where its content lies."""

    name: str
    """In the archive."""
    sample: str
    """Up to the first dot."""
    extension: str
    """After it, in lower case."""
    offset: int
    """Bytes before the content."""
    size: int
    """Bytes of it."""


def members_of(path: Path) -> Iterator[Member]:
    """The files of an archive that are a sample's, in its order; only the headers are read.

    Raises:
        CutShort: it ends within a member.
        tarfile.TarError, OSError: it is damaged, or cannot be read.
    """
    length = path.stat().st_size
    with tarfile.open(path, "r:") as archive:
        for header in archive:
            named = NAME.fullmatch(header.name)
            if header.offset_data + header.size > length:
                raise CutShort(header.name, named and named[1])
            if header.isfile() and named is not None:
                yield Member(header.name, named[1], named[2].lower(), header.offset_data, header.size)
        _check_end(path, archive.offset)


def _check_end(path: Path, offset: int) -> None:
    """The archive must end where tarfile stopped, which a damaged header too makes it do."""
    with path.open("rb") as file:
        file.seek(offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"no member's header at byte {offset}")
