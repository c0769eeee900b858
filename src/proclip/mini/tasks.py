"""Every task of the benchmark, as the JSON objects of the task files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .classes import CLASS_NAMES
from .concepts import LANGUAGES, STYLES, Concept
from .facts import PictureFacts
from .negatives import negative_items
from .pairs import pair_items

TEMPLATES = (
    "{}",
    "a drawing: {}",
    "an emoji of the kind {}",
    "a picture of a {}",
    "drawing of a {}",
    "{} emoji",
    "a small drawing of the class {}",
)
"""Prompts of zero-shot classification."""

_LEAST_PROBE = 5  # pictures of a class to train a probe on

Task = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def _classification(name: str, rows: Rows) -> Task:
    places = sorted({row["subcategory"] for row in rows})
    return {
        "task": "classification",
        "name": name,
        "items": [[row["key"], places.index(row["subcategory"])] for row in rows],
        "classnames": [CLASS_NAMES[place] for place in places],
        "templates": list(TEMPLATES),
        "chance": 1 / len(places),
    }


def _retrieval(name: str, rows: Rows, column: str) -> Task:
    """One caption a picture; of pictures with the same caption only the first is kept."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row[column], row)
    items = [[row["key"], [caption]] for caption, row in first.items()]
    chance = {f"r@{k}": min(1.0, k / len(items)) for k in (1, 5, 10)}
    return {"task": "retrieval", "name": name, "items": items, "chance": chance}


def _named_apart(rows: Rows) -> Rows:
    """Keeps the pictures whose name is theirs alone in every language, so that all languages ask for the same ones."""
    uses = {lang: Counter(row[f"name_{lang}"] for row in rows) for lang in LANGUAGES}
    return [row for row in rows if all(uses[lang][row[f"name_{lang}"]] == 1 for lang in LANGUAGES)]


def _probe(name: str, train: Rows, test: Rows) -> Task:
    enough = Counter(row["subcategory"] for row in train)
    asked = {row["subcategory"] for row in test}
    places = sorted(place for place, n in enough.items() if n >= _LEAST_PROBE and place in asked)
    items = {
        part: [[row["key"], places.index(row["subcategory"])] for row in rows if row["subcategory"] in places]
        for part, rows in (("train", train), ("test", test))
    }
    commonest = min(Counter(label for _, label in items["train"]).items(), key=lambda pair: (-pair[1], pair[0]))[0]
    share = sum(1 for _, label in items["test"] if label == commonest) / len(items["test"])
    return {"task": "probe", "name": name, **items, "classnames": [CLASS_NAMES[p] for p in places], "chance": share}


def make_tasks(concepts: Sequence[Concept], facts: Mapping[str, PictureFacts], rows: Rows) -> dict[str, Task]:
    """Returns the tasks of the development and of the test split by name, e.g. ``test/retrieval_long``.

    Args:
        concepts: the inventory.
        facts: of every picture, by key.
        rows: of the metadata.
    """
    tasks: dict[str, Task] = {}
    for split in ("dev", "test"):
        held = {style: [r for r in rows if split in r["splits"] and r["style"] == style] for style in STYLES}
        keys = {row["concept"] for row in held["openmoji"]}
        own = [concept for concept in concepts if concept.key in keys]
        made = []
        for style in STYLES:
            suffix = "" if style == "openmoji" else f"_{style}"
            made.append(_classification(f"zero_shot_{style}", held[style]))
            made.append(_retrieval(f"retrieval_short{suffix}", held[style], "short"))
            made.append(_retrieval(f"retrieval_long{suffix}", held[style], "long"))
        named = _named_apart(held["openmoji"])
        made += [_retrieval(f"multilingual_{lang}", named, f"name_{lang}") for lang in LANGUAGES]
        made.append({"task": "pairs", "name": "pairs", "items": pair_items(own, facts), "chance": 0.25})
        made.append(
            {
                "task": "hard_negatives",
                "name": "hard_negatives",
                "chance": 0.5,
                "items": negative_items(own, concepts, facts),
            }
        )
        train = [r for r in rows if "pretrain" in r["splits"] and r["style"] == "openmoji"]
        made.append(_probe("linear_probe_openmoji", train, held["openmoji"]))
        tasks.update({f"{split}/{task['name']}": task for task in made})
    return tasks
