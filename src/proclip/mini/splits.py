"""Which concept is for what: pretraining, alignment, development, test. By concept, so that no style leaks another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from .chance import pick, shuffled
from .concepts import TONES, Concept

TEST, DEV, ALIGN = 789, 300, 1000
"""Concepts of each split; the rest is pretraining (the align concepts are pretraining concepts too)."""

ALIGN_LEAVES_OUT = ("Activities", "Symbols", "Travel & Places")
"""Categories that the align split never sees."""

_TEST_SHARE, _DEV_SHARE = 0.20, 0.08
_ALIGN_FIGURES = 450
TEST_STATES = (
    ("locked", "unlocked"),
    ("closed mailbox with lowered flag", "open mailbox with raised flag"),
    ("hourglass done", "hourglass not done"),
    ("battery", "low battery"),
    ("closed umbrella", "umbrella with rain drops"),
    ("file folder", "open file folder"),
    ("new moon", "full moon"),
    ("empty nest", "nest with eggs"),
    ("slightly smiling face", "slightly frowning face"),
    ("bright button", "dim button"),
    ("muted speaker", "speaker high volume"),
    ("deciduous tree", "leafless tree"),
)
DEV_STATES = (
    ("closed book", "open book"),
    ("bell", "bell with slash"),
    ("chart increasing", "chart decreasing"),
    ("rose", "wilted flower"),
    ("waxing crescent moon", "waning crescent moon"),
    ("smiling face", "frowning face"),
)
"""Names of the same thing in two states."""

_TEST_MINIMAL: tuple[tuple[str, ...], ...] = (
    # English names of concepts that differ in one attribute and so are held out together
    ("blue heart", "green heart", "purple heart", "black heart", "orange heart"),
    ("red circle", "green circle", "brown circle"),
    ("blue square", "yellow square", "purple square"),
    ("blue book", "orange book"),
    ("small blue diamond", "small orange diamond"),
    ("red exclamation mark", "white exclamation mark"),
    ("left arrow", "right arrow"),
    ("up-left arrow", "up-right arrow"),
    ("magnifying glass tilted left", "magnifying glass tilted right"),
    *TEST_STATES,
    ("eye", "eyes"),
    ("musical note", "musical notes"),
    ("beer mug", "clinking beer mugs"),
    ("bust in silhouette", "busts in silhouette"),
    ("house", "houses"),
    ("curly loop", "double curly loop"),
    ("camel", "two-hump camel"),
    ("wine glass", "clinking glasses"),
)
_DEV_MINIMAL: tuple[tuple[str, ...], ...] = (
    ("yellow heart", "brown heart", "pink heart"),
    ("blue circle", "orange circle"),
    ("large blue diamond", "large orange diamond"),
    ("red question mark", "white question mark"),
    ("down-left arrow", "down-right arrow"),
    ("left-facing fist", "right-facing fist"),
    *DEV_STATES,
    ("notebook", "books"),
    ("two hearts", "revolving hearts"),
)


def _place(concepts: Iterable[Concept], split: str, of: dict[str, str]) -> None:
    for concept in concepts:
        of.setdefault(concept.key, split)


def _things(concepts: Sequence[Concept], of: dict[str, str]) -> None:
    """Holds out a fifth and a twelfth of each subcategory of things, the minimal pairs counted in."""
    groups: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        groups[concept.subcategory].append(concept)
    for name in sorted(groups):
        group = {c.key: c for c in groups[name]}
        taken = Counter(of.get(key) for key in group)
        free = [key for key in shuffled(group, "things") if key not in of]
        test = max(round(_TEST_SHARE * len(group)), 1 if len(group) >= 4 else 0) - taken["test"]
        dev = round(_DEV_SHARE * len(group)) - taken["dev"]
        keep_some = len(free) - 1
        test = max(0, min(test, keep_some))
        dev = max(0, min(dev, keep_some - test))
        for split, keys in (("test", free[:test]), ("dev", free[test : test + dev])):
            of.update(dict.fromkeys(keys, split))


def _whole_figures(figures: Sequence[Concept], of: dict[str, str]) -> None:
    """Holds out a few (role, gender) pairs with every skin tone; another gender of the role stays in pretraining."""
    variants: dict[tuple[str, str], list[Concept]] = defaultdict(list)
    for concept in figures:
        if len(concept.tones) <= 1:
            variants[concept.role, concept.gender].append(concept)
    by_role: dict[str, list[str]] = defaultdict(list)
    for (role, gender), group in variants.items():
        if len({c.tones for c in group}) >= len(TONES) and "facing" not in role:
            by_role[role].append(gender)
    roles = [role for role in shuffled(by_role, "whole") if len(by_role[role]) >= 2]
    for split, chosen in (("test", roles[:16]), ("dev", roles[16:22])):
        for role in chosen:
            _place(variants[role, pick(sorted(by_role[role]), "whole gender", role)], split, of)


def _cells(figures: Sequence[Concept], of: dict[str, str], held: Mapping[str, int], seed: str, wanted: str) -> None:
    """Holds out, of some roles, one skin tone in man and woman (``wanted="gender"``) or both directions."""
    cells: dict[str, list[Concept]] = defaultdict(list)
    for concept in figures:
        if len(concept.tones) > 1 or concept.key in of:
            continue
        tone = concept.tones[0] if concept.tones else "none"
        if wanted == "gender" and concept.gender and "facing" not in concept.role:
            cells[f"{concept.role}|{tone}"].append(concept)
        elif wanted == "direction":
            cells[f"{direction_stem(concept)}|{tone}"].append(concept)
    whole = {
        name
        for name, group in cells.items()
        if len(group) == 2
        and (len({c.gender for c in group}) == 2 if wanted == "gender" else direction_stem(group[0]) != "")
    }
    order = shuffled(whole, seed)
    used: set[str] = set()
    for split, number in held.items():
        placed = 0
        for name in order:
            stem = name.split("|")[0]
            if placed < number and stem not in used and all(c.key not in of for c in cells[name]):
                _place(cells[name], split, of)
                used.add(stem)
                placed += 1


def direction_stem(concept: Concept) -> str:
    """Returns what two figures that face opposite ways share, or "" if the name is not of such a pair."""
    base = concept.base
    for left, right in (
        ("leftwards ", "rightwards "),
        ("left-facing ", "right-facing "),
        ("pointing left", "pointing right"),
    ):
        if left in base or right in base:
            return base.replace(left, "*").replace(right, "*")
    turning = ("walking", "running", "kneeling", "in manual wheelchair", "in motorized wheelchair", "with white cane")
    stem = base.removesuffix(" facing right")
    return stem if stem.endswith(turning) else ""


def _single_figures(figures: Sequence[Concept], of: dict[str, str], quotas: Mapping[str, int]) -> None:
    """Holds out single combinations up to the quotas; at least half of each role stays in pretraining."""
    left = Counter((c.role, c.gender) for c in figures if c.key not in of)
    total = Counter((c.role, c.gender) for c in figures)
    role_of = {c.key: (c.role, c.gender) for c in figures}
    order = shuffled((c.key for c in figures if c.key not in of), "single")
    for split, quota in quotas.items():
        missing = quota - sum(1 for s in of.values() if s == split)
        for key in order:
            if missing <= 0:
                break
            role = role_of[key]
            if key in of or total[role] < 2 or left[role] - 1 < total[role] / 2:
                continue
            of[key] = split
            left[role] -= 1
            missing -= 1


def _align(concepts: Sequence[Concept], of: Mapping[str, str]) -> set[str]:
    """Chooses the align concepts among those of pretraining: some categories, not too many people."""
    free = [c for c in concepts if c.key not in of and c.category not in ALIGN_LEAVES_OUT]
    figures = shuffled((c.key for c in free if c.is_figure), "align")[:_ALIGN_FIGURES]
    things = shuffled((c.key for c in free if not c.is_figure), "align")
    return {*figures, *things[: ALIGN - len(figures)]}


def make_splits(concepts: Sequence[Concept], unfit: frozenset[str] = frozenset()) -> dict[str, tuple[str, ...]]:
    """Returns the splits of every concept by key; ``align`` comes beside ``pretrain``.

    Args:
        concepts: the inventory.
        unfit: keys that must stay in pretraining, since their picture equals another concept's or contradicts the name.
    """
    of: dict[str, str] = {}
    by_name = {c.names["en"]: c for c in concepts if c.key not in unfit}
    for split, groups in (("test", _TEST_MINIMAL), ("dev", _DEV_MINIMAL)):
        for names in groups:
            _place((by_name[name] for name in names if name in by_name), split, of)
    fit = [c for c in concepts if c.key not in unfit]
    figures = [c for c in fit if c.is_figure]
    _things([c for c in fit if not c.is_figure], of)
    _whole_figures(figures, of)
    _cells(figures, of, {"test": 20, "dev": 8}, "gender cells", "gender")
    _cells(figures, of, {"test": 9, "dev": 4}, "direction cells", "direction")
    _single_figures(figures, of, {"test": TEST, "dev": DEV})
    align = _align(concepts, of)
    return {
        c.key: (of[c.key],) if c.key in of else ("pretrain", "align") if c.key in align else ("pretrain",)
        for c in concepts
    }
