"""A true caption and a false one that differs little from it, of one picture (after SugarCrepe)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .captions import apart
from .chance import pick, shuffled, stable_hash
from .colours import COLOURS
from .concepts import STYLES, TONES, Concept
from .facts import PictureFacts
from .phrases import join_words, phrase, with_article

MOST = 120
"""Items a kind."""

_NEAR = {
    "black": ("grey", "brown", "blue"),
    "grey": ("black", "white", "light blue", "beige"),
    "white": ("grey", "beige"),
    "red": ("orange", "pink", "brown", "purple"),
    "orange": ("red", "yellow", "brown", "beige"),
    "yellow": ("orange", "beige", "green", "brown"),
    "green": ("yellow", "blue", "light blue"),
    "light blue": ("blue", "grey", "green", "white", "purple"),
    "blue": ("light blue", "purple", "black", "green"),
    "purple": ("pink", "blue", "red", "light blue"),
    "pink": ("red", "purple", "beige", "orange"),
    "brown": ("orange", "red", "black", "beige", "yellow"),
    "beige": ("white", "yellow", "brown", "pink", "orange", "grey"),
}  # colours that people may take for one another: never each other's false colour

_STRANGERS = (
    "banana",
    "penguin",
    "cactus",
    "guitar",
    "snail",
    "anchor",
    "pineapple",
    "candle",
    "turtle",
    "ladder",
    "teapot",
    "pumpkin",
    "bicycle",
    "rocket",
    "carrot",
    "trumpet",
    "kangaroo",
    "microscope",
    "strawberry",
    "sailboat",
    "octopus",
    "toothbrush",
    "drum",
    "snowman",
)
"""Things that no other picture contains: put beside the subject they make a caption false."""

Item = tuple[str, str]


def false_colours(facts: PictureFacts) -> list[str]:
    """Returns the colours that the drawing clearly does not have: none of it, nor of one easily taken for it."""
    some = {word for word, share in facts.shares.items() if share >= 0.02}
    return [w for w in COLOURS if w != "white" and w not in some and not some.intersection(_NEAR[w])]


def _difference(one: PictureFacts, other: PictureFacts) -> float:
    """Returns half the L1 distance between the colours of two pictures, in [0, 1]."""
    words = sorted({*one.shares, *other.shares})
    return sum(abs(one.shares.get(w, 0.0) - other.shares.get(w, 0.0)) for w in words) / 2


def _coloured(facts: PictureFacts, least: float = 0.1) -> list[str]:
    """Returns the colours of the drawing that the eye is sure of (white may be canvas), largest first."""
    return [w for w, share in facts.shares.items() if share >= least and w != "white"]


class _Maker:
    """Makes one item of each kind for a picture, or "" where the picture does not allow one."""

    def __init__(self, everyone: Sequence[Concept], facts: Mapping[str, PictureFacts], style: str) -> None:
        self.facts, self.style = facts, style
        self.peers: dict[tuple[str, ...], list[Concept]] = defaultdict(list)
        for concept in everyone:
            self.peers[self._peer_group(concept)].append(concept)
        self.by_variant = {(c.role, c.gender, c.tones): c for c in everyone if c.is_figure}

    @staticmethod
    def _peer_group(concept: Concept) -> tuple[str, ...]:
        if concept.is_figure:
            return (concept.subcategory, concept.gender, *concept.tones)
        return (concept.subcategory,)

    def _seen(self, concept: Concept) -> PictureFacts:
        return self.facts[f"{self.style}/{concept.key}"]

    def replace_object(self, concept: Concept) -> Item | None:
        """Another thing of the same kind; people keep gender and skin."""
        if concept.role == "adult":  # "a woman" is true of every woman
            return None
        words, seen = set(concept.role.split()), self._seen(concept)
        names = {}
        for peer in self.peers[self._peer_group(concept)]:
            other = self._seen(peer)
            if (
                peer.role != "adult"
                and not words.intersection(peer.role.split())
                and _difference(seen, other) > 0.2
                and seen.digest != other.digest
            ):
                names[peer.key] = peer
        if not names:
            return None
        peer = names[shuffled(names, "object", concept.key, self.style)[0]]
        template = pick(("a drawing of {}", "a picture that shows {}", "{} on a white canvas"), "object t", concept.key)
        return template.format(phrase(concept)), template.format(phrase(peer))

    def replace_attribute(self, concept: Concept) -> Item | None:
        """Another skin tone, another gender, or another main colour."""
        what = phrase(concept)
        if concept.is_figure and len(concept.tones) == 1 and stable_hash("tone?", concept.key, self.style) % 2:
            place = TONES.index(concept.tones[0])
            tone = pick([t for i, t in enumerate(TONES) if abs(i - place) >= 2], "tone", concept.key, self.style)
            old, new = (with_article(f"{t} skin tone") for t in (concept.tones[0], tone))
            return f"a drawing of {what}", f"a drawing of {what.replace(old, new)}"
        if concept.is_figure and concept.gender:
            other = "man" if concept.gender == "woman" else "woman"
            twin = self.by_variant.get((concept.role, other, concept.tones))
            if twin is not None and self._seen(twin).digest != self._seen(concept).digest:
                return f"a drawing of {what}", f"a drawing of {phrase(twin)}"
        seen = self._seen(concept)
        colours, wrong = _coloured(seen, 0.3), false_colours(seen)
        if not colours or not wrong or any(re.search(rf"\b{w}\b", what) for w in COLOURS):
            return None
        false = pick(wrong, "colour", concept.key, self.style)
        template = "{} drawn mainly in {}" if seen.shares[colours[0]] >= 0.5 else "{}, to a large part {}"
        return template.format(what, colours[0]), template.format(what, false)

    def replace_relation(self, concept: Concept) -> Item | None:
        """A colour on the wrong side of another."""
        found = [(a, b, axis) for a, b, axis in apart(self._seen(concept), 0.12, 0.12) if "white" not in (a, b)]
        if not found:
            return None
        first, second, axis = pick(found, "relation", concept.key, self.style)
        words = ["to the left of", "to the right of"] if axis == 0 else ["above", "below"]
        if stable_hash("turn", concept.key, self.style) % 2:  # so that either word is as often true as false
            first, second, words = second, first, words[::-1]
        text = f"a drawing of {phrase(concept)} with {first} mostly {{}} {second}"
        return text.format(words[0]), text.format(words[1])

    def swap_attribute(self, concept: Concept) -> Item | None:
        """The main colour and a lesser one change places."""
        seen, what = self._seen(concept), phrase(concept)
        colours = _coloured(seen)
        if len(colours) < 2 or any(re.search(rf"\b{w}\b", what) for w in colours):
            return None
        much = colours[0]
        less = [w for w in colours[1:] if seen.shares[w] * 1.8 <= seen.shares[much] and w not in _NEAR[much]]
        if not less:
            return None
        template = pick(("{}, more {} than {}", "{} with much {} and less {}"), "swap t", concept.key)
        pair = (much, less[0])
        if stable_hash("swap", concept.key, self.style) % 2:
            template, pair = "{}, less {} than {}", pair[::-1]
        return template.format(what, *pair), template.format(what, *pair[::-1])

    def add_object(self, concept: Concept) -> Item | None:
        """Something else beside the subject; the true caption says as much with true words."""
        words = set(re.findall(r"[a-z]+", phrase(concept).lower()))
        strangers = [s for s in _STRANGERS if s not in words]
        stranger = pick(strangers, "stranger", concept.key, self.style)
        negative = f"{phrase(concept)} {pick(('beside', 'next to'), 'beside', concept.key)} {with_article(stranger)}"
        colour = next(iter(self._seen(concept).shares))
        fillers = [
            "and nothing else",
            "with nothing beside it",
            "alone on a white canvas",
            f"with some {colour} colour",
            "with nothing else near it",
            "on an empty canvas",
            "on plain white ground",
        ]
        return _closest(phrase(concept), fillers, negative, concept.key), negative

    def add_attribute(self, concept: Concept) -> Item | None:
        """A colour that the drawing does not have, beside its main colour."""
        seen, what = self._seen(concept), phrase(concept)
        wrong, colours = false_colours(seen), _coloured(seen, 0.2)
        if not wrong or not colours or any(re.search(rf"\b{w}\b", what) for w in COLOURS):
            return None
        false = pick(wrong, "added", concept.key, self.style)
        listed = join_words(colours[:2])
        negative = f"{what}, in {join_words([*colours[:2], false])}"
        fillers = [
            f"in {listed} on white",
            f"in {listed} on a white canvas",
            f"drawn in {listed}",
            f"drawn with {listed}",
            f"to some part {listed}",
        ]
        return _closest(f"{what},", fillers, negative, concept.key), negative


def _closest(what: str, fillers: Sequence[str], negative: str, seed: str) -> str:
    """Returns ``what`` with the filler that makes it as long as ``negative``, so that length tells nothing."""
    options = [f"{what} {filler}" for filler in fillers]
    return min(options, key=lambda o: (abs(len(o) - len(negative)), stable_hash("filler", seed, o)))


KINDS = ("replace_object", "replace_attribute", "replace_relation", "swap_attribute", "add_object", "add_attribute")
"""Kinds of change."""


def negative_items(
    concepts: Sequence[Concept], everyone: Sequence[Concept], facts: Mapping[str, PictureFacts]
) -> list[dict[str, Any]]:
    """Returns up to :data:`MOST` items of each kind over ``concepts``, as many of people as of things where possible.

    Args:
        concepts: whose pictures are asked about.
        everyone: whose names may stand in a false caption.
        facts: of all pictures, by key.
    """
    makers = {style: _Maker(everyone, facts, style) for style in STYLES}
    by_key = {c.key: c for c in concepts}
    items = []
    for kind in KINDS:
        made: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for key in shuffled(by_key, "negatives", kind):
            concept = by_key[key]
            style = pick(STYLES, "style", kind, key)
            make: Callable[[Concept], Item | None] = getattr(makers[style], kind)
            texts = make(concept)
            if texts is not None and texts[0] != texts[1]:
                made[concept.is_figure].append(
                    {"kind": kind, "key": f"{style}/{key}", "caption": texts[0], "negative": texts[1]}
                )
        figures = made[True][: max(MOST // 3, MOST - len(made[False]))]
        items += figures + made[False][: MOST - len(figures)]
    return items
