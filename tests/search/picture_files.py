"""Pictures, each like no other, as files with EXIF and times of change."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

EXIF_IFD, DATE_TIME_ORIGINAL, ORIENTATION = 0x8769, 0x9003, 0x0112


def drawn(seed: int, size: tuple[int, int] = (30, 20)) -> Image.Image:
    """A picture like no other."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, taken: str | None = None, orientation: int | None = None) -> Path:
    """A picture's file, with EXIF where it says something."""
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    if taken is not None:
        exif.get_ifd(EXIF_IFD)[DATE_TIME_ORIGINAL] = taken
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"exif": exif.tobytes()} if orientation or taken else {}))
    return path


def touch(path: Path, stamp: str) -> None:
    """Set a file's time of change: local time, as in ``2024-05-31T18:20:05``."""
    seconds = datetime.fromisoformat(stamp).timestamp()
    os.utime(path, (seconds, seconds))
