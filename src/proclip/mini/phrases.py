"""Turns an emoji's name into a noun phrase that can stand in a sentence."""

from __future__ import annotations

import re

from .concepts import Concept

_SPECIAL = {
    "multiply": "a multiplication sign",
    "divide": "a division sign",
    "plus": "a plus sign",
    "minus": "a minus sign",
    "infinity": "an infinity sign",
    "foggy": "a foggy scene",
    "cooking": "an egg in a frying pan",
    "rolling on the floor laughing": "a face rolling on the floor laughing",
    "star-struck": "a star-struck face",
    "kiss": "a kiss between two people",
    "kiss man man": "a kiss between two men",
    "kiss woman man": "a kiss between a woman and a man",
    "kiss woman woman": "a kiss between two women",
    "couple with heart": "a couple with a heart",
    "couple with heart man man": "a couple of two men with a heart",
    "couple with heart woman man": "a couple of a woman and a man with a heart",
    "couple with heart woman woman": "a couple of two women with a heart",
    "woman and man holding hands": "a woman and a man holding hands",
    "breast-feeding": "a person breast-feeding a baby",
    "horse racing": "a jockey on a racing horse",
    "love-you gesture": "a love-you gesture of the hand",
    "heart hands": "two hands forming a heart",
    "performing arts": "performing arts masks",
    "hundred points": "the sign for a hundred points",
    "person white hair": "a person with white hair",
    "children crossing": "a sign for children crossing",
    "input numbers": "a button for the input of numbers",
    "input symbols": "a button for the input of symbols",
    "input latin letters": "a button for the input of latin letters",
    "input latin lowercase": "a button for the input of latin lowercase letters",
    "input latin uppercase": "a button for the input of latin uppercase letters",
    "ON! arrow": "an ON! arrow",
    "hole": "a hole in the ground",
    "dizzy": "a dizzy symbol",
    "Mrs. Claus": "Mrs. Claus",
    "Mx Claus": "Mx Claus",
    "Santa Claus": "Santa Claus",
    "om": "the om symbol",
    "no one under eighteen": "a sign that says no one under eighteen",
    "moon viewing ceremony": "a moon viewing ceremony",
    "map of Japan": "a map of Japan",
    "Statue of Liberty": "the Statue of Liberty",
    "kaaba": "the Kaaba",
    "mount fuji": "Mount Fuji",
    "Tokyo tower": "the Tokyo tower",
    "milky way": "the Milky Way",
    "hand with index finger and thumb crossed": "a hand with index finger and thumb crossed",
    "person in suit levitating": "a levitating person in a suit",
    "person taking bath": "a person taking a bath",
    "locked": "a closed padlock",
    "unlocked": "an open padlock",
    "locked with pen": "a closed padlock with a pen",
    "locked with key": "a closed padlock with a key",
    "vibration mode": "a sign for vibration mode",
    "mobile phone off": "a sign for mobile phone off",
    "dashing away": "a puff of air from dashing away",
    "thumbs up": "a hand with its thumb up",
    "thumbs down": "a hand with its thumb down",
    "palms up together": "two hands with palms up together",
    "crossed fingers": "a hand with crossed fingers",
    "peanuts": "peanuts",
    "biohazard": "a biohazard sign",
    "radioactive": "a sign for radioactive material",
    "warning": "a warning sign",
    "no entry": "a no entry sign",
    "prohibited": "a sign for prohibited",
    "clockwise vertical arrows": "two clockwise vertical arrows",
    "meat on bone": "meat on a bone",
    "canned food": "canned food",
    "headphone": "headphones",
    "flower playing cards": "flower playing cards",
    "bookmark tabs": "a page with bookmark tabs",
    "copyright": "the copyright sign",
    "registered": "the registered sign",
    "trade mark": "the trade mark sign",
    "cinema": "a cinema sign",
    "information": "an information sign",
    "wireless": "a wireless sign",
    "kiss person person": "a kiss between two people",
    "couple with heart person person": "a couple with a heart",
    "men’s room": "a men’s room sign",
    "women’s room": "a women’s room sign",
    "customs": "a customs sign",
    "restroom": "a restroom sign",
    "baggage claim": "a baggage claim sign",
    "left luggage": "a left luggage sign",
    "passport control": "a passport control sign",
    "potable water": "a sign for potable water",
    "non-potable water": "a sign for non-potable water",
    "currency exchange": "a currency exchange sign",
    "construction": "a construction barrier",
}
_NO_ARTICLE = {
    "bacon",
    "butter",
    "bread",
    "popcorn",
    "salt",
    "cooked rice",
    "curry rice",
    "garlic",
    "ginger root",
    "leafy green",
    "spaghetti",
    "oden",
    "sushi",
    "ice",
    "mate",
    "sake",
    "fried shrimp",
    "shaved ice",
    "fire",
    "fish cake with swirl",
    "dna",
    "yarn",
    "thread",
    "soap",
    "camping",
    "money with wings",
    "fondue",
    "broccoli",
    "pouring liquid",
    "badminton",
    "baseball",
    "ice hockey",
    "field hockey",
    "lacrosse",
    "tennis",
    "ping pong",
    "bowling",
    "nail polish",
    "building construction",
    "wood",
    "coral",
    "high voltage",
    "luggage",
    "custard",
    "dango",
    "ZZZ",
    "fork and knife",
    "fork and knife with plate",
    "hammer and pick",
    "hammer and wrench",
    "bow and arrow",
    "nut and bolt",
    "couch and lamp",
    "star and crescent",
    "yin yang",
    "fog",
}
_PLURAL_HEADS = re.compile(
    r"\b(men|women|people|hands|eyes|lungs|grapes|cherries|blueberries|beans|peanuts|glasses|goggles|gloves|shorts|"
    r"jeans|socks|briefs|shoes|bags|swords|flags|skis|scissors|chopsticks|books|notes|dolls|beads|maracas|fireworks|"
    r"sparkles|leaves|droplets|prints|footprints|houses|knobs|cards|tickets|springs|bubbles|chains|tabs|dividers|frames|"
    r"paperclips|fries|pancakes|hearts|busts|arrows|bars|mugs|clothes|sunglasses|fingers|masks|points|tracks|"
    r"dishware|mobile phones|bicycles|pedestrians)\b"
)
_PLURAL_WITH_ARTICLE = re.compile(
    r"(^no |button|^clockwise|flower playing|bellhop|pair of|^face |^hand |^cat |face with|^smiling|bookmark tabs|"
    r"^crossed fingers|^shuffle|index|eye in|^woman’s clothes|sign$|with .*hands?$|^card |^man |^woman |^person )"
)
_VOWEL_SOUND = re.compile(r"^(?:[aeiou]|hour|honest|x-ray|ATM|SOS|NG |ID |MVP|A button|O button|8)", re.IGNORECASE)
_CONSONANT_SOUND = re.compile(r"^(?:uni(?!n)|one|ewe|euro|UP!)")
_HAIR = {
    "bald": "who is bald",
    "beard": "with a beard",
    "blond hair": "with blond hair",
    "curly hair": "with curly hair",
    "red hair": "with red hair",
    "white hair": "with white hair",
}
_MEMBERS = {
    "man": "a man",
    "woman": "a woman",
    "boy": "a boy",
    "girl": "a girl",
    "adult": "an adult",
    "child": "a child",
}
_MISSING_ARTICLE = re.compile(
    r"\b(with|in|wearing|feeding|getting|tipping|raising|bouncing|rowing) (?=(veil|crown|skullcap|headscarf|white cane|"
    r"tuxedo|steamy room|manual wheelchair|motorized wheelchair|turban|baby|haircut|massage|hand|ball|boat)\b)"
)


def with_article(words: str) -> str:
    """Puts "a" or "an" before a singular noun phrase."""
    vowel = _VOWEL_SOUND.match(words) and not _CONSONANT_SOUND.match(words)
    return f"{'an' if vowel else 'a'} {words}"


def join_words(words: list[str]) -> str:
    """Joins as English does: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _family(base: str) -> str:
    members = base.split()[1:]
    counted = []
    for member in dict.fromkeys(members):
        n = members.count(member)
        plural = {"man": "men", "woman": "women", "child": "children"}.get(member, member + "s")
        counted.append(_MEMBERS[member] if n == 1 else f"two {plural}")
    return f"a family of {join_words(counted)}" if counted else "a family"


def _figure(base: str) -> str | None:
    first, _, rest = base.partition(" ")
    if first == "family":
        return _family(base)
    if first in ("man", "woman", "person") and rest in _HAIR:
        return f"a {first} {_HAIR[rest]}"
    if first in ("men", "women", "people") and rest:
        return f"two {base}"
    if first in ("man", "woman", "person"):
        return _MISSING_ARTICLE.sub(r"\1 a ", with_article(base))
    return None


def base_phrase(concept: Concept) -> str:
    """Returns the noun phrase of the name without skin tones, with its article."""
    base, place = concept.base, concept.subcategory
    if place == "country-flag" or place == "subdivision-flag":
        return f"the flag of {base}"
    if place == "zodiac":
        return f"the zodiac sign {base}"
    if place == "keycap":
        return f"a keypad key with the sign {base.removeprefix('keycap ')}"
    if place == "time" and (base.endswith("o’clock") or base.endswith("-thirty")):
        return f"a clock face at {base}"
    if base in _SPECIAL:
        return _SPECIAL[base]
    if base.startswith("no ") and place == "warning":
        return f"a sign for {base}"
    figure = _figure(base) if concept.is_figure else None
    if figure is not None:
        return figure
    if base in _NO_ARTICLE:
        return base
    if _PLURAL_HEADS.search(base) and not _PLURAL_WITH_ARTICLE.search(base):
        return base
    return with_article(base)


def tone_phrase(concept: Concept) -> str:
    """Returns what the name says of the skin: "" or e.g. "a dark skin tone"."""
    if not concept.tones:
        return ""
    if len(concept.tones) == 2:
        return f"one with {with_article(concept.tones[0])} and one with {with_article(concept.tones[1])} skin tone"
    return with_article(f"{concept.tones[0]} skin tone")


def phrase(concept: Concept) -> str:
    """Returns the whole name as a noun phrase, e.g. "a man with a beard and a medium skin tone"."""
    base = base_phrase(concept)
    tone = tone_phrase(concept)
    if not tone:
        return base
    if len(concept.tones) == 2:
        return f"{base}, {tone}"
    if base.startswith("two ") or base.startswith(("a couple", "a kiss", "a woman and a man")):
        return f"{base}, both with {tone}"
    return f"{base} and {tone}" if " with " in base and "facing" not in base else f"{base} with {tone}"


def capital(sentence: str) -> str:
    """Makes the first letter a capital."""
    return sentence[:1].upper() + sentence[1:]
