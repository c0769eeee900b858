"""Image files to RGB images, with what a hostile or broken file may cost kept small. Pillow only."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import ProclipError, one_line

MAX_PIXELS = 89_478_485
"""Most pixels of a picture that is decoded, 268 MB as RGB: Pillow warns above that, and we refuse."""
MAX_ASPECT = 100
"""Longest side over the shortest. A strip of 1 x 5,000 scaled to a shorter side of 224 would have 250M pixels."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB, an RGB image as it is; transparent parts become white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says; as it is where that says nothing, or is damaged."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are there, whatever a broken header led Pillow to
        return image


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Image.Image:
    """Open and decode an image as RGB; transparent parts become white.

    Args:
        path: of the file.
        max_pixels: most that are decoded.
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as no side gets shorter than this; None:
            at its full size, as everything else.

    Raises:
        ProclipError: the file is missing, is not a readable image, or has an absurd size.
    """
    if not str(path):
        raise ProclipError("an image's path is empty")
    return _decoded(Path(path), f"image {path}", max_pixels, at_least)


def decode_image(
    content: bytes, name: str, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None
) -> Image.Image:
    """The same for the bytes of an image file that lies in an archive or a table; `name` says where, for the message.

    Raises:
        ProclipError: they are not a readable image, or one of an absurd size.
    """
    return _decoded(BytesIO(content), f"image {name}", max_pixels, at_least)


def size_fault(size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> str | None:
    """What is absurd about a picture's size, None for nothing."""
    width, height = size
    if min(size) < 1:
        return f"it has {width} x {height} pixels"
    if width * height > max_pixels:
        return f"it has {width:,} x {height:,} pixels, more than {max_pixels:,} (data.max_pixels)"
    if max(size) > MAX_ASPECT * min(size):
        return f"it has {width:,} x {height:,} pixels: one side is more than {MAX_ASPECT} times the other"
    return None


def _decoded(source: Path | BytesIO, name: str, max_pixels: int, at_least: int | None) -> Image.Image:
    try:
        with Image.open(source) as image:
            if fault := size_fault(image.size, max_pixels):
                raise ProclipError(f"{name} is refused: {fault}")
            if at_least is not None and image.format == "JPEG":
                image.draft(None, (at_least, at_least))
            image.load()
            return to_rgb(image)
    except FileNotFoundError:
        raise ProclipError(f"{name} is missing") from None
    except IsADirectoryError:
        raise ProclipError(f"{name} is a folder, a file is wanted") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ProclipError(f"{name} is refused: {error}") from None
    except ProclipError:
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them to
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise ProclipError(f"{name} cannot be read: {reason}") from None
