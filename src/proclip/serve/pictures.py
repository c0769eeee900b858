"""Pictures out of requests: a data URL to what the model takes, with nothing decoded before its header is read."""

from __future__ import annotations

import base64
import binascii
import re
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from ..errors import one_line
from ..models.image_files import to_rgb, upright
from .faults import Fault, bad
from .limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Of Pillow; no other decoder is tried. Of an animation the first frame is taken."""
DATA_URL = re.compile(r"data:image/[a-zA-Z0-9.+-]{1,40}(?:;[a-zA-Z0-9=.+-]{1,80}){0,4};base64,", re.IGNORECASE)
PREFIX = 400
"""Characters in which the head of a data URL must end."""


def picture_bytes(source: str, param: str) -> bytes:
    """The file that a data URL, or bare base64, holds.

    Raises:
        Fault: 400, it is an address of something else (nothing is fetched), or not base64.
    """
    head = source[:PREFIX].strip()
    if match := DATA_URL.match(head):
        content = source.strip()[match.end() :]
    elif head[:5].lower() == "data:":
        raise bad(param, "a data URL must begin with data:image/TYPE;base64,")
    elif re.match(r"[a-z][a-z0-9+.-]*:", head, re.IGNORECASE):
        raise bad(param, "nothing is fetched: send the picture itself, as data:image/TYPE;base64,...")
    else:
        content = source
    try:
        found = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise bad(param, "it is not base64") from None
    if not found:
        raise bad(param, "the picture is empty")
    return found


def open_picture(content: bytes, param: str, limits: Limits) -> Image.Image:
    """The bytes of an image file, decoded: RGB, upright as its EXIF says, transparent parts white.

    Raises:
        Fault: 400, it is not an image, it is cut off, or its sides are beyond the limits.
    """
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, param, limits)
            image.load()
            return to_rgb(upright(image))
    except UnidentifiedImageError:
        raise bad(param, f"it is not a picture that can be read; {', '.join(FORMATS)} are") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise bad(param, f"{one_line(error)}; at most {limits.pixels} pixels are taken here") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError):
        raise bad(param, "the picture is broken or cut off") from None


def _check_size(size: tuple[int, int], param: str, limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise bad(param, "the picture has no pixels")
    if width * height > limits.pixels:
        raise bad(param, f"the picture is {width} x {height}, more than {limits.pixels} pixels: make it smaller")
    if max(size) > limits.aspect * min(size):
        raise bad(param, f"the picture is {width} x {height}: sides may differ {limits.aspect:g} times at most")


def media_type(content: bytes) -> str:
    """Of a thumbnail: what its first bytes say.

    Raises:
        Fault: 404, it is none of those that an index gives.
    """
    if content[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return "image/png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    raise Fault(404, "there is no thumbnail of this picture")
