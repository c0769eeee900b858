"""One picture, wherever its bytes lie: a file, a member of a tar archive, a cell of a table."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

from PIL.Image import Image

from ..errors import ProclipError
from ..models.image_files import MAX_PIXELS, decode_image, read_image


class Picture(Protocol):
    """A picture that is not decoded yet. ``str`` of it says where it lies, for messages."""

    @property
    def name(self) -> str:
        """Its file's or member's name, without folders."""

    @property
    def path(self) -> Path | None:
        """The file in which it lies; None where that is no file."""

    @property
    def size(self) -> int:
        """Bytes, not decoded; 0 where the file is missing."""

    def open(self, at_least: int | None = None) -> Image:
        """Decoded, RGB; a large JPEG perhaps smaller than it is, with `at_least` as `read_image` takes it.

        Raises:
            ProclipError: it is missing, no readable image, or of an absurd size; the message says where it lies.
        """

    def content(self) -> bytes:
        """Its bytes, not decoded.

        Raises:
            ProclipError: it is missing or cannot be read.
        """

    def stamp(self) -> str:
        """Changes when the picture does, as far as that is seen without reading it.

        Raises:
            ProclipError: it is missing.
        """


@final
@dataclass(frozen=True)
class FilePicture:
    """A file of its own."""

    path: Path
    """The file."""
    max_pixels: int = field(default=MAX_PIXELS, repr=False)
    """Most that are decoded."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def size(self) -> int:
        """The file's size."""
        try:
            return self.path.stat().st_size
        except (OSError, ValueError):
            return 0

    def open(self, at_least: int | None = None) -> Image:
        """Decoded, RGB."""
        return read_image(self.path, max_pixels=self.max_pixels, at_least=at_least)

    def content(self) -> bytes:
        """The file's bytes."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            raise ProclipError(f"image {self.path} is missing") from None
        except (OSError, ValueError) as error:  # ValueError: no file has such a name
            raise ProclipError(f"image {self.path} cannot be read: {error}") from None

    def stamp(self) -> str:
        """Size and time of change."""
        try:
            status = self.path.stat()
        except (OSError, ValueError):
            raise ProclipError(f"image {self.path} is missing") from None
        return f"{status.st_size} bytes, {status.st_mtime_ns}"

    def __str__(self) -> str:
        return str(self.path)


@final
@dataclass(frozen=True)
class TarPicture:
    """A member of a tar archive, read where it lies."""

    path: Path
    """The archive."""
    name: str
    """The member's name, without folders."""
    offset: int
    """Of its content, bytes from the start of the archive."""
    size: int
    """Bytes."""
    max_pixels: int = field(default=MAX_PIXELS, repr=False)
    """Most that are decoded."""

    def open(self, at_least: int | None = None) -> Image:
        """Decoded, RGB."""
        return decode_image(self.content(), str(self), max_pixels=self.max_pixels, at_least=at_least)

    def content(self) -> bytes:
        """The member's bytes, by one read at its place."""
        try:
            file = os.open(self.path, os.O_RDONLY)
            try:
                found = os.pread(file, self.size, self.offset)
            finally:
                os.close(file)
        except FileNotFoundError:
            raise ProclipError(f"{self.path} is missing") from None
        except OSError as error:
            raise ProclipError(f"{self.path} cannot be read: {error}") from None
        if len(found) != self.size:
            raise ProclipError(f"{self.path}: {self.name} is cut short: the archive has changed since it was indexed")
        return found

    def stamp(self) -> str:
        """Size: an archive that is copied, or made anew because another member was mended, has the same picture."""
        return f"{self.size} bytes"

    def __str__(self) -> str:
        return f"{self.path}, {self.name}"


@final
@dataclass(frozen=True)
class CellPicture:
    """Bytes that a table holds."""

    where: str
    """Table and row, for messages."""
    name: str
    """What the table calls the picture."""
    data: bytes = field(repr=False)
    """An image file's."""
    max_pixels: int = field(default=MAX_PIXELS, repr=False)
    """Most that are decoded."""
    path: None = None
    """It has none."""

    @property
    def size(self) -> int:
        """Length of the bytes."""
        return len(self.data)

    def open(self, at_least: int | None = None) -> Image:
        """Decoded, RGB."""
        return decode_image(self.data, self.where, max_pixels=self.max_pixels, at_least=at_least)

    def content(self) -> bytes:
        """The bytes."""
        return self.data

    def stamp(self) -> str:
        """Hash of the bytes."""
        import hashlib

        return hashlib.sha256(self.data).hexdigest()

    def __str__(self) -> str:
        return self.where
