"""Retrieval in many languages: Crossmodal-3600 in both protocols, and means over languages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...data.images import ImageFiles
from ...errors import ProclipError
from ..benchmark import Benchmark, Entry, some
from .reading import RECALLS, first_file, json_lines, retrieval_task, text_field, texts_field

XM3600_LANGUAGES = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it",
    "ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
"""Codes of Crossmodal-3600's 36 languages, in alphabetical order."""
SAME = {"nb": "no", "nn": "no", "tl": "fil", "iw": "he", "in": "id", "qu": "quz"}
"""Other codes in use for some of them."""


def language_code(code: str) -> str:
    """A language without its script or region, under the code that Crossmodal-3600 has: ``zh-Hans`` is ``zh``."""
    plain = code.replace("_", "-").split("-")[0].lower()
    return SAME.get(plain, plain)


def language_means(prefixes: Sequence[str], trained: Iterable[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Means over languages, as `Benchmark.means` has them: the key of each to the keys of its parts.

    Args:
        prefixes: of the tasks, whose last part is the language: ``de``, or ``multilingual/de``.
        trained: codes of the languages that the text side was trained on; with them there is a second mean,
            ``mean_trained``, over those of the languages that are among them, if any is.
    """
    known = None if trained is None else {language_code(code) for code in trained}
    means: dict[str, tuple[str, ...]] = {}
    for name in ("mean", "mean_trained"):
        chosen = list(prefixes)
        if name == "mean_trained":
            chosen = [] if known is None else [p for p in prefixes if language_code(p.rpartition("/")[2]) in known]
        if chosen:
            parent, slash, _ = chosen[0].rpartition("/")
            means |= {f"{parent}{slash}{name}/{key}": tuple(f"{p}/{key}" for p in chosen) for key in RECALLS}
    return means


def mean_languages(benchmark: Benchmark) -> tuple[str, ...]:
    """Prefixes of the languages that a benchmark's means are over, in their order: what `language_means` takes."""
    parts = dict.fromkeys(part.rpartition("/")[0] for parts in benchmark.means.values() for part in parts)
    return tuple(parts)


def _languages_of(rows: Sequence[Mapping[str, Any]], path: Path) -> tuple[str, ...]:
    """The languages of the file, in the order of `XM3600_LANGUAGES`."""
    found = {code for row in rows for code in row if not code.startswith("image/")}
    for code in sorted(found - set(XM3600_LANGUAGES)):
        close = difflib.get_close_matches(code, XM3600_LANGUAGES, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ProclipError(f"{path}: unknown language {code!r}{hint} (known: {' '.join(XM3600_LANGUAGES)})")
    if absent := [code for code in XM3600_LANGUAGES if code not in found]:
        raise ProclipError(f"{path}: languages are missing: {some(absent)}")
    return XM3600_LANGUAGES


def xm3600(folder: Path, *, every: bool) -> Benchmark:
    """Crossmodal-3600: 3,600 images with captions in 36 languages, one task a language.

    Args:
        folder: with ``captions.jsonl`` and ``images/KEY.jpg``.
        every: all captions of a language (mteb), not only the first (CLIP_benchmark).
    """
    path = first_file(folder, "captions.jsonl", "annotations/captions.jsonl", "captions/captions.jsonl")
    rows = json_lines(path)
    keys = [text_field(row, "image/key", f"{path}, entry {i}") for i, row in enumerate(rows)]
    name = "xm3600-all" if every else "xm3600"
    tasks = {}
    for code in _languages_of(rows, path):
        if absent := [key for key, row in zip(keys, rows, strict=True) if not isinstance(row.get(code), dict)]:
            raise ProclipError(f"{path}: images without captions in {code!r}: {some(absent)}")
        items = []
        for key, row in zip(keys, rows, strict=True):
            captions = texts_field(row[code], "caption", f"{path}, image {key!r}, language {code!r}")
            items.append((key, captions if every else captions[:1]))
        tasks[code] = retrieval_task(f"{name}/{code}", items)
    means = language_means(tuple(tasks))
    return Benchmark(
        name=name,
        tasks=tasks,
        images=ImageFiles({key: folder / "images" / f"{key}.jpg" for key in keys}),
        protocol=(
            "recall@k for each language with all captions of an image; a hit if any right one is among the k nearest"
            if every
            else "recall@k for each language with the first caption of each image, as CLIP_benchmark has it, but "
            "that equal captions are one text, right for each of their images"
        ),
        headline=("mean/i2t_r@1", "mean/t2i_r@1"),
        means=means,
    )


_LAYOUT = "captions.jsonl and images/*.jpg"
ENTRIES: dict[str, Entry] = {
    "xm3600": Entry(
        name="xm3600", folder="xm3600", load=partial(xm3600, every=False), layout=_LAYOUT,
        expected={"images": 3600, "texts": 3600 * len(XM3600_LANGUAGES)},
    ),
    "xm3600-all": Entry(
        name="xm3600-all", folder="xm3600", load=partial(xm3600, every=True), layout=_LAYOUT,
        expected={"images": 3600, "texts": 261_375},
    ),
}  # fmt: skip
"""Entries of the catalogue, by name."""
PAPER = ("xm3600",)
"""Those that the paper measures on; it does not say in which protocol: this is the one that FLAME used."""
