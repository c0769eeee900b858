"""What a data set is like: pictures' formats and sizes, captions' lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from .columns import blank
from .pictures import FilePicture, Picture
from .sources import Source

MOST_PICTURES = 100_000
"""Pictures whose headers are read, evenly spaced over the data; of more, these stand for all."""
QUANTILES = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}

Figures = dict[str, Any]


def caption_statistics(source: Source) -> dict[str, Figures]:
    """For each caption column: texts, rows without one, and the distribution of words and of characters."""
    found = {}
    for name, texts in source.texts.items():
        whole = ~blank(texts)
        words = _numbers(texts, lambda chunk: pc.count_substring_regex(chunk, r"\S+"))[whole]
        characters = _numbers(texts, pc.utf8_length)[whole]
        found[name] = {
            "texts": int(whole.sum()),
            "without": int((~whole).sum()),
            "words": _distribution(words),
            "characters": _distribution(characters),
        }
    return found


def picture_statistics(sources: Sequence[Source], progress: Callable[[int, int], None] | None = None) -> Figures:
    """Formats, sides and sizes in bytes, from the pictures' headers; at most `MOST_PICTURES` are looked at."""
    count = sum(map(len, sources))
    step = max(1, -(-count // MOST_PICTURES))
    pictures = [(source, row) for source in sources for row in range(0, len(source), step)]
    formats: Counter[str] = Counter()
    sides: list[tuple[int, int, int]] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(pictures), 1024):
            chunk = pictures[start : start + 1024]
            for kind, *size in pool.map(lambda place: _header(place[0].picture(place[1])), chunk):
                formats[kind] += 1
                if kind != "unreadable":
                    sides.append((size[0], size[1], size[2]))
            if progress is not None:
                progress(min(start + 1024, len(pictures)), len(pictures))
    width, height, in_bytes = np.array(sides, dtype=np.int64).reshape(-1, 3).T
    return {
        "looked_at": len(pictures),
        "formats": dict(formats.most_common()),
        "width": _distribution(width),
        "height": _distribution(height),
        "shorter_side": _distribution(np.minimum(width, height)),
        "bytes": _distribution(in_bytes),
    }


def _header(picture: Picture) -> tuple[str, int, int, int]:
    """Format, width, height, bytes."""
    try:
        if isinstance(picture, FilePicture):
            with Image.open(picture.path) as image:
                return str(image.format), image.width, image.height, picture.path.stat().st_size
        content = picture.content()
        with Image.open(BytesIO(content)) as image:
            return str(image.format), image.width, image.height, len(content)
    except Exception:  # decoders raise whatever a broken file leads them to
        return "unreadable", 0, 0, 0


def _numbers(texts: pa.ChunkedArray, measure: Callable[[pa.Array], pa.Array]) -> np.ndarray[Any, Any]:
    parts = [pc.fill_null(measure(chunk), 0).to_numpy(zero_copy_only=False) for chunk in texts.chunks]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)


def _distribution(values: np.ndarray[Any, Any]) -> Figures:
    if not len(values):
        return {}
    quantiles = np.percentile(values, list(QUANTILES.values()), method="nearest")
    return {name: int(q) for name, q in zip(QUANTILES, quantiles, strict=True)} | {
        "mean": round(float(values.mean()), 1)
    }
