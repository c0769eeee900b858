"""The words of a text, and the text without each of them: what each does to the likeness with a picture."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

UNSPACED = r"[\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese: written without spaces, so that each character is a word here."""
WORD = re.compile(rf"{UNSPACED}|(?:(?!{UNSPACED})[\w'’\-])+")


@dataclass(frozen=True)
class Span:
    """A part of a text, from its first character to the one after its last."""

    start: int
    end: int


def spans(text: str, most: int) -> list[Span]:
    """The words of a text; where there are more than `most`, runs of neighbouring words, of nearly equal count."""
    words = [Span(*match.span()) for match in WORD.finditer(text)]
    size = math.ceil(len(words) / most) if words else 1
    runs = [words[start : start + size] for start in range(0, len(words), size)]
    return [Span(run[0].start, run[-1].end) for run in runs]


def without(text: str, span: Span) -> str:
    """The text without a part of it; empty where nothing but marks and space is left."""
    rest = f"{text[: span.start].rstrip()} {text[span.end :].lstrip()}".strip()
    return rest if WORD.search(rest) else ""
