"""Picture files in folders: which there are, and how one is read: upright, its first frame, with its date."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from PIL.Image import Image

from ..errors import ProclipError, one_line
from ..models.image_files import to_rgb, upright

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
HEIC = frozenset({".heic", ".heif"})
HEIC_EXTRA = "pip install 'proclip-align[heic]'"
_EXIF_IFD, _DATE_TIME_ORIGINAL = 0x8769, 0x9003


@dataclass(frozen=True)
class PictureFile:
    """A picture's file as a walk sees it."""

    path: str
    """Absolute."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Of its last change."""


@dataclass(frozen=True)
class Picture:
    """A picture, decoded."""

    image: Image
    """RGB, upright."""
    taken: str | None
    """EXIF's DateTimeOriginal, as in ``2024-05-31T18:20:05``, the camera's local time; None where there is none."""


def walk(root: str, leave_out: str, fault: Callable[[str, str], None]) -> Iterator[PictureFile]:
    """Picture files below a folder, by their extension, in any order.

    Files and folders whose name begins with a dot are left out, and folders that are symbolic links are not entered.

    Args:
        root: absolute.
        leave_out: a folder that is not entered: the index's own.
        fault: told of a folder or file that cannot be read, and why.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders += [entry.path] if entry.path != leave_out else []
                    elif (found := _picture_file(entry, fault)) is not None:
                        yield found
        except OSError as error:
            fault(folder, f"the folder cannot be read: {error.strerror}")


def _picture_file(entry: os.DirEntry[str], fault: Callable[[str, str], None]) -> PictureFile | None:
    if Path(entry.name).suffix.lower() not in EXTENSIONS | HEIC:
        return None
    try:
        entry.path.encode()
        if not entry.is_file():
            return None
        about = entry.stat()
    except UnicodeEncodeError:
        fault(os.fsencode(entry.path).decode(errors="replace"), "its name is not valid UTF-8")
        return None
    except OSError as error:
        fault(entry.path, str(error.strerror))
        return None
    return PictureFile(entry.path, about.st_size, about.st_mtime_ns)


def is_left_out(path: str) -> bool:
    """Whether a file needs the extra for HEIC, which is not installed."""
    return Path(path).suffix.lower() in HEIC and not _heic()


def content_hash(content: bytes) -> str:
    """SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def decode(content: bytes, name: str, at_least: int | None = None) -> Picture:
    """Decode a picture: its first frame, turned as its EXIF orientation says, RGB with transparent parts white.

    Args:
        content: of the file.
        name: for the message.
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as no side gets shorter than this.

    Raises:
        ProclipError: it is not a picture that can be read.
    """
    if Path(name).suffix.lower() in HEIC and not _heic():
        raise ProclipError(f"{name}: reading HEIC needs {HEIC_EXTRA}")
    try:
        with PillowImage.open(BytesIO(content)) as image:
            if at_least is not None and image.format == "JPEG":
                image.draft(None, (at_least, at_least))
            image.load()
            return Picture(to_rgb(upright(image)), _taken(image))
    except UnidentifiedImageError:
        raise ProclipError(f"{name} is not a picture") from None
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise ProclipError(f"{name} cannot be read: {one_line(error)}") from None


def read(path: str | Path, at_least: int | None = None) -> Picture:
    """The same of a file.

    Raises:
        ProclipError: the file is missing, or is not a picture that can be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ProclipError(f"{path}: {error.strerror}") from None
    return decode(content, str(path), at_least)


def thumbnail(image: Image, side: int) -> bytes:
    """A PNG of a picture that fits into a square of so many pixels."""
    small, file = image.copy(), BytesIO()
    small.thumbnail((side, side))
    small.save(file, format="PNG")
    return file.getvalue()


def _taken(image: Image) -> str | None:
    try:
        value = str(image.getexif().get_ifd(_EXIF_IFD).get(_DATE_TIME_ORIGINAL, ""))
    except Exception:  # likewise
        return None
    found = re.match(r"(\d{4}):(\d\d):(\d\d)[ T](\d\d:\d\d:\d\d)", value)
    try:
        return datetime.fromisoformat("{}-{}-{}T{}".format(*found.groups())).isoformat() if found else None
    except ValueError:  # cameras write zeros, and other days that there are not
        return None


@cache
def _heic() -> bool:
    """Whether Pillow reads HEIC; asks for it if the extra is there."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:  # missing, or broken
        return False
    register_heif_opener()
    return True
