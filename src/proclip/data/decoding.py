"""Every picture decoded once, before hours of work that need them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..errors import ProclipError
from ..models.preprocess import read_image
from .ahead import DECODE_THREADS
from .dataset import Sample

PICTURES_A_CHUNK = 256
NAMED = 5
"""Pictures that an error names; the others are counted."""


def check_pictures(samples: Sequence[Sample], progress: Callable[[int, int], None] | None = None) -> None:
    """Decode every picture, on threads, and keep none.

    Args:
        samples: whose pictures.
        progress: called with pictures done and all pictures.

    Raises:
        ProclipError: some cannot be decoded; the message counts them and names the first few, with what is wrong.
    """
    faults: list[str] = []
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for start in range(0, len(samples), PICTURES_A_CHUNK):
            faults += filter(None, pool.map(_fault, samples[start : start + PICTURES_A_CHUNK]))
            if progress is not None:
                progress(min(start + PICTURES_A_CHUNK, len(samples)), len(samples))
    if faults:
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise ProclipError(
            f"{len(faults)} of {len(samples)} pictures cannot be used: {'; '.join(faults[:NAMED])}{more}. Mend them, "
            "or leave their rows out of metadata.jsonl"
        )


def _fault(sample: Sample) -> str:
    """What is wrong with a picture, '' for nothing."""
    try:
        read_image(sample.path)
    except ProclipError as error:
        return str(error)
    return ""
