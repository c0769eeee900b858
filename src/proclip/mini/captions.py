"""Captions of one picture: web alt text, one short sentence, and a long text that describes what is to be seen."""

from __future__ import annotations

from .chance import pick, shuffled
from .classes import CATEGORY_WORDS
from .concepts import Concept
from .facts import PictureFacts
from .phrases import base_phrase, capital, join_words, phrase, with_article

_LEAST = 0.05  # a colour with a smaller share of the drawing is not mentioned
_LONG_NAME = 15  # words: after a name so long a short caption mentions one colour only
_LEAST_WORDS = 90  # of a long caption


def main_colours(facts: PictureFacts) -> list[str]:
    """Returns the one to three colours that a short caption mentions."""
    named = [word for word, share in facts.shares.items() if share >= 0.12][:3]
    return named or [next(iter(facts.shares))]


def raw_caption(concept: Concept, style: str) -> str:
    """Returns text as found around pictures on the web: the name, the class, other names."""
    name = phrase(concept) if concept.category == "Flags" else concept.names["en"]
    also = pick(["", *concept.aliases], "alias", concept.key, style) if concept.aliases else ""
    extra = f", {also}" if also else ""
    templates = (
        f"{name}{extra}, {concept.class_name}",
        f"{concept.class_name}: {name}{extra}",
        f"drawing of {with_article(concept.class_name)}, {name}{extra}",
        f"{name}{extra} emoji, {concept.class_name}",
        f"{with_article(concept.class_name)}: {name}{extra}",
    )
    return pick(templates, "raw", concept.key, style)


def kind_caption(concept: Concept, style: str) -> str:
    """Returns text that names the class alone, as many a picture's on the web does; no prompt of the tasks is used."""
    what = with_article(concept.class_name)
    templates = (
        f"this is {what}",
        f"{what}, drawn as an icon",
        f"clip art, {concept.class_name}",
        f"{concept.class_name} sticker",
        f"an image that shows {what}",
        f"see also {concept.class_name}",
    )
    return pick(templates, "kind", concept.key, style)


def short_caption(concept: Concept, style: str, facts: PictureFacts, tones_visible: bool = True) -> str:
    """Returns one sentence with the name and the main colours."""
    what, colours = phrase(concept) if tones_visible else base_phrase(concept), main_colours(facts)
    if len(what.split()) > _LONG_NAME:
        return f"{what}, with much {colours[0]}"
    listed = join_words(colours)
    share = facts.shares[colours[0]]
    if len(colours) == 1 and share < 0.5:
        templates = [f"{what}, with much {listed}", f"a drawing of {what} with much {listed}"]
    elif len(colours) == 1:
        templates = [
            f"{what}, mostly {listed}",
            f"{what} drawn mainly in {listed}",
            f"a mainly {listed} drawing of {what}",
        ]
    else:
        templates = [
            f"{what} in {listed}",
            f"a drawing of {what} in {listed}",
            f"{what}, coloured {listed}",
            f"{what} drawn in {listed}",
        ]
        if share >= 0.5:
            rest = join_words(colours[1:])
            templates = [
                f"{what}, mostly {colours[0]} with some {rest}",
                f"a mostly {colours[0]} drawing of {what} with some {rest}",
                f"{what}, mainly {colours[0]} and also {rest}",
                *templates[1:3],
            ]
    return pick(templates, "short", concept.key, style)


def _amount(share: float) -> str:
    if share >= 0.9:
        return "nearly all"
    if share >= 0.7:
        return "most"
    if share >= 0.55:
        return "more than half"
    if share >= 0.45:
        return "about half"
    if share >= 0.38:
        return "less than half"
    if share >= 0.29:
        return "about a third"
    if share >= 0.2:
        return "about a quarter"
    return "a small part" if share >= 0.1 else "a little"


def _colours(facts: PictureFacts, seed: tuple[str, ...]) -> str:
    named = [(w, s) for w, s in facts.shares.items() if s >= _LEAST][:5] or list(facts.shares.items())[:1]
    first, share = named[0]
    parts = [f"{_amount(s)} is {w}" for w, s in named[1:]]
    start = pick(
        (
            f"{_amount(share)} of the drawing is {first}",
            f"of the coloured area, {_amount(share)} is {first}",
            f"{first} is the most common colour and fills {_amount(share)} of the drawing",
        ),
        "colours",
        *seed,
    )
    return capital(f"{start}, {join_words(parts)}." if parts else f"{start}, and no other colour counts for much.")


def _halves(facts: PictureFacts, one: str, other: str, seed: tuple[str, ...]) -> str:
    first, second = facts.halves[one], facts.halves[other]
    if first == second:
        return pick(
            (
                f"The most common colour is {first} in the {one} half as well as in the {other} half.",
                f"Both the {one} and the {other} half have more {first} than any other colour.",
            ),
            one,
            *seed,
        )
    return pick(
        (
            f"The {one} half has more {first} than any other colour, the {other} half more {second}.",
            f"In the {one} half the main colour is {first}, in the {other} half it is {second}.",
            f"The leading colour is {first} in the {one} half and {second} in the {other} half.",
        ),
        one,
        *seed,
    )


def _all_halves(facts: PictureFacts, seed: tuple[str, ...]) -> dict[str, str]:
    """Says which colour leads above, below, left and right; in one sentence where it is the same everywhere."""
    if len(set(facts.halves.values())) == 1:
        colour = facts.halves["upper"]
        return {
            "halves": pick(
                (
                    f"Above and below, left and right, {colour} leads over every other colour.",
                    f"{capital(colour)} is the leading colour in every half: upper, lower, left and right.",
                ),
                "halves",
                *seed,
            )
        }
    return {"upper": _halves(facts, "upper", "lower", seed), "left": _halves(facts, "left", "right", seed)}


def _relation(facts: PictureFacts, seed: tuple[str, ...]) -> str:
    """Says which of two colours lies higher or further left, if two of some size lie clearly apart."""
    found = []
    for first, second, axis in apart(facts, least_share=0.08, least_gap=0.08):
        found.append(f"on average {first} lies {('further to the left', 'higher up')[axis]} than {second}")
    return capital(pick(found, "relation", *seed)) + "." if found else ""


def apart(facts: PictureFacts, least_share: float, least_gap: float) -> list[tuple[str, str, int]]:
    """Returns (first colour, second colour, axis): the first lies further left (axis 0) or higher up (axis 1).

    Args:
        facts: of the picture.
        least_share: of the drawing, of either colour.
        least_gap: between the mean places of their pixels, as a share of the canvas.
    """
    words = [w for w, share in facts.shares.items() if share >= least_share]
    found = []
    for i, one in enumerate(words):
        for other in words[i + 1 :]:
            for axis in (0, 1):
                gap = facts.centres[other][axis] - facts.centres[one][axis]
                if abs(gap) >= least_gap:
                    found.append((one, other, axis) if gap > 0 else (other, one, axis))
    return found


def _size(facts: PictureFacts, seed: tuple[str, ...]) -> str:
    percent = max(5, 5 * round(facts.coverage * 20))
    shape = (
        "wider than tall"
        if facts.aspect > 1.12
        else "taller than wide"
        if facts.aspect < 0.89
        else "about as wide as tall"
    )
    return pick(
        (
            f"The drawing is {shape} and covers about {percent} percent of the white canvas.",
            f"It fills about {percent} percent of the white canvas and is {shape}.",
            f"Its shape is {shape}; about {percent} percent of the canvas is drawn on.",
        ),
        "size",
        *seed,
    )


def _place(facts: PictureFacts, seed: tuple[str, ...]) -> str:
    across, down = facts.centre[0] - 0.5, facts.centre[1] - 0.5
    sides = []
    if abs(down) >= 0.02:
        sides.append("above" if down < 0 else "below")
    if abs(across) >= 0.02:
        sides.append("to the left of" if across < 0 else "to the right of")
    much = "well" if max(abs(across), abs(down)) >= 0.08 else "a little"
    where = f"{much} {' and '.join(sides)} the middle" if sides else "close to the middle"
    return pick(
        (f"Its weight lies {where} of the canvas.", f"The centre of the drawn area is {where} of the canvas."),
        "place",
        *seed,
    )


def _form(facts: PictureFacts, seed: tuple[str, ...]) -> str:
    if facts.symmetry >= 0.975:
        mirror = "the left side mirrors the right side almost exactly"
    elif facts.symmetry >= 0.9:
        mirror = "the left side roughly mirrors the right side"
    elif facts.symmetry >= 0.75:
        mirror = "the left and the right side differ in places"
    else:
        mirror = "the left and the right side are clearly different"
    numbers = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    parts = (
        "it is all one connected piece"
        if facts.parts == 1
        else f"it is made of {numbers[facts.parts]} separate pieces"
        if facts.parts <= 12
        else "it is made of more than twelve separate pieces"
    )
    both = (mirror, parts)
    order = pick((both, both[::-1]), "form", *seed)
    return capital(f"{order[0]}, and {order[1]}.")


def _light(facts: PictureFacts, seed: tuple[str, ...]) -> str:
    tone = "bright" if facts.brightness >= 0.65 else "dark" if facts.brightness < 0.38 else "of medium brightness"
    strength = "strong" if facts.contrast >= 0.3 else "weak" if facts.contrast < 0.12 else "moderate"
    return pick(
        (
            f"Taken together the drawing is {tone}, with {strength} contrast between light and dark.",
            f"The contrast between light and dark is {strength}, and the drawing as a whole is {tone}.",
        ),
        "light",
        *seed,
    )


def _edge(facts: PictureFacts, seed: tuple[str, ...]) -> str:
    if facts.outlined >= 0.7:
        options = ("Nearly all of its outer edge is black.", "A black edge runs round nearly all of the drawing.")
    elif facts.outlined >= 0.3:
        options = ("Black runs along a part of its outer edge.", "Its outer edge is black in part.")
    else:
        options = (
            "There is little or no black along its outer edge.",
            "No black line runs round it; the areas of colour meet the canvas directly.",
        )
    return pick(options, "edge", *seed)


def _kind(concept: Concept, seed: tuple[str, ...]) -> str:
    group, kind = CATEGORY_WORDS[concept.category], concept.class_name
    return pick(
        (
            f"Its subject is filed under {group}, as a kind of {kind}.",
            f"It belongs to the group of {group}, in the class {kind}.",
            f"Among {group} it counts as {with_article(kind)}.",
        ),
        "kind",
        *seed,
    )


def _figure(concept: Concept, tones_visible: bool) -> str:
    """What the name says of the figure's gender and skin, if it says anything."""
    tones = concept.tones if tones_visible else ()
    several = base_phrase(concept).startswith("two ") or concept.subcategory == "family"
    skin = ""
    if len(tones) == 2:
        skin = f"one has {tones[0]} skin, the other {tones[1]} skin"
    elif tones:
        skin = f"the skin has {with_article(tones[0])} tone"
    who = ""
    if concept.gender:
        who = (
            f"the figures are {'men' if concept.gender == 'man' else 'women'}"
            if several
            else f"the figure is a {concept.gender}"
        )
    return capital("; ".join(part for part in (who, skin) if part)) + "." if who or skin else ""


def long_caption(concept: Concept, style: str, facts: PictureFacts, tones_visible: bool = True) -> str:
    """Returns seven to ten sentences, in an order that varies, on what the picture shows.

    Args:
        concept: what is drawn.
        style: drawing style.
        facts: of the picture.
        tones_visible: whether the drawing does show the skin tone that the name states.
    """
    seed = (concept.key, style)
    what = phrase(concept) if tones_visible else base_phrase(concept)
    name = pick(
        (
            f"This is a drawing of {what}.",
            f"The picture shows {what}.",
            f"What is drawn here is {what}.",
            f"The subject of this picture is {what}.",
        ),
        "name",
        *seed,
    )
    sentences = {
        "name": name,
        "kind": _kind(concept, seed),
        "figure": _figure(concept, tones_visible),
        "edge": _edge(facts, seed),
        "colours": _colours(facts, seed),
        "relation": _relation(facts, seed),
        **_all_halves(facts, seed),
    }
    extra = {
        "size": _size(facts, seed),
        "place": _place(facts, seed),
        "form": _form(facts, seed),
        "light": _light(facts, seed),
    }
    keep = shuffled(extra, "extra", *seed)
    sentences.update({name: extra.pop(name) for name in keep[:2]})
    chosen = [k for k, text in sentences.items() if text]
    for name in keep[2:]:  # a plain picture leaves room for what a busy one does not
        if sum(len(sentences[k].split()) for k in chosen) < _LEAST_WORDS:
            sentences[name] = extra[name]
            chosen.append(name)
    return " ".join(sentences[k] for k in shuffled(chosen, "order", *seed))
