"""Pairs of pictures that differ in one attribute, with a statement true of each (after MMVP)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from .chance import shuffled
from .concepts import STYLES, TONES, Concept
from .facts import PictureFacts
from .phrases import phrase
from .splits import DEV_STATES, TEST_STATES, direction_stem

MOST = 30
"""Pairs of concepts a pattern; each gives one item a style."""

Pair = tuple[Concept, Concept, str, str]

STATES = (*TEST_STATES, *DEV_STATES)

COUNTS = {
    ("eye", "eyes"): ("one eye", "two eyes"),
    ("musical note", "musical notes"): ("one musical note", "several musical notes"),
    ("beer mug", "clinking beer mugs"): ("one beer mug", "two beer mugs"),
    ("bust in silhouette", "busts in silhouette"): ("one bust in silhouette", "two busts in silhouette"),
    ("house", "houses"): ("one house", "several houses"),
    ("curly loop", "double curly loop"): ("one curly loop", "two curly loops"),
    ("camel", "two-hump camel"): ("a camel with one hump", "a camel with two humps"),
    ("notebook", "books"): ("one book", "several books"),
    ("wine glass", "clinking glasses"): ("one glass", "two glasses"),
    ("pink heart", "two hearts"): ("one pink heart", "two pink hearts"),
}
"""Names of one and of several of a thing -> what to say of each."""

COLOUR_STEMS = (" heart", " circle", " square", " book", " diamond", " exclamation mark", " question mark")
_COLOUR_NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "pink", "grey")
_THINGS_TURNED = (
    ("left arrow", "right arrow"),
    ("up-left arrow", "up-right arrow"),
    ("down-left arrow", "down-right arrow"),
    ("magnifying glass tilted left", "magnifying glass tilted right"),
)


def _by_hash(pairs: Sequence[Pair], pattern: str) -> list[Pair]:
    """Orders pairs by a hash and lets a concept stand in at most two of them."""
    table = {f"{a.key}|{b.key}": (a, b, x, y) for a, b, x, y in pairs}
    uses: Counter[str] = Counter()
    chosen: list[Pair] = []
    for name in shuffled(table, "pairs", pattern):
        a, b, _, _ = table[name]
        if max(uses[a.key], uses[b.key]) < 2 and len(chosen) < MOST:
            uses.update((a.key, b.key))
            chosen.append(table[name])
    return chosen


def _stated(a: Concept, b: Concept) -> Pair:
    return a, b, f"a drawing of {phrase(a)}", f"a drawing of {phrase(b)}"


def _tones(concepts: Sequence[Concept]) -> Iterator[Pair]:
    groups: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        if len(concept.tones) == 1:
            groups[concept.base].append(concept)
    for base in sorted(groups):
        for a, b in combinations(groups[base], 2):
            if abs(TONES.index(a.tones[0]) - TONES.index(b.tones[0])) >= 2:  # neighbours are hard to tell by eye
                yield _stated(a, b)


def _genders(concepts: Sequence[Concept]) -> Iterator[Pair]:
    groups: dict[tuple[str, tuple[str, ...]], dict[str, Concept]] = defaultdict(dict)
    for concept in concepts:
        if concept.gender:
            groups[concept.role, concept.tones][concept.gender] = concept
    for name in sorted(groups):
        if len(groups[name]) == 2:
            yield _stated(groups[name]["man"], groups[name]["woman"])


def _directions(concepts: Sequence[Concept]) -> Iterator[Pair]:
    groups: dict[tuple[str, tuple[str, ...]], list[Concept]] = defaultdict(list)
    for concept in concepts:
        if direction_stem(concept):
            groups[direction_stem(concept), concept.tones].append(concept)
    for name in sorted(groups):
        if len(groups[name]) != 2:
            continue
        left, right = sorted(groups[name], key=lambda c: "right" in c.base)
        if "facing right" in right.base and "fist" not in right.base:
            what = phrase(right)
            yield left, right, f"a drawing of {what.replace('facing right', 'facing left')}", f"a drawing of {what}"
        else:
            yield _stated(left, right)
    yield from _listed(concepts, _THINGS_TURNED)


def _listed(concepts: Sequence[Concept], table: Sequence[tuple[str, str]]) -> Iterator[Pair]:
    by_name = {c.names["en"]: c for c in concepts}
    for one, other in table:
        if one in by_name and other in by_name:
            yield _stated(by_name[one], by_name[other])


def _counts(concepts: Sequence[Concept]) -> Iterator[Pair]:
    by_name = {c.names["en"]: c for c in concepts}
    for (one, other), (first, second) in COUNTS.items():
        if one in by_name and other in by_name:
            yield by_name[one], by_name[other], f"a drawing of {first}", f"a drawing of {second}"


def _colours(concepts: Sequence[Concept]) -> Iterator[Pair]:
    for stem in COLOUR_STEMS:
        group = [c for c in concepts if c.base.endswith(stem)]
        split = {
            c.key: next((n for n in _COLOUR_NAMES if c.base.split()[-2 - stem.count(" ", 1)] == n), "") for c in group
        }
        for a, b in combinations(group, 2):
            one, other = split[a.key], split[b.key]
            if one and other and one != other and a.base.replace(one, "") == b.base.replace(other, ""):
                yield _stated(a, b)


def pair_items(concepts: Sequence[Concept], facts: Mapping[str, PictureFacts]) -> list[dict[str, Any]]:
    """Returns the items of the pairs task over ``concepts``, both styles, in a fixed order."""
    patterns = {"skin tone": _tones, "gender": _genders, "direction": _directions, "colour": _colours, "count": _counts}
    chosen = {name: _by_hash(list(make(concepts)), name) for name, make in patterns.items()}
    chosen["state"] = _by_hash(list(_listed(concepts, STATES)), "state")
    items = []
    for pattern in sorted(chosen):
        for a, b, first, second in chosen[pattern]:
            for style in STYLES:
                keys = (f"{style}/{a.key}", f"{style}/{b.key}")
                if facts[keys[0]].digest != facts[keys[1]].digest:
                    items.append({"pattern": pattern, "keys": list(keys), "captions": [first, second]})
    return items
