"""Task files: what is asked of a model, as JSON that names images by key.

A tasks folder holds one JSON file for each task. Six kinds are known; the shape of each is the dataclass below, and
users' own tasks are written the same way (docs/mini_world.md shows those of the mini world).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from ..errors import ProclipError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClassificationTask:
    """Zero-shot classification: ``{"items": [[key, class index], ...], "classnames", "templates", "chance"}``."""

    name: str
    """Name of the task."""
    items: tuple[tuple[str, int], ...]
    """Image keys and their class."""
    classnames: tuple[str, ...]
    """Name of each class, put into the templates."""
    templates: tuple[str, ...]
    """Prompt templates with ``{}`` for the class name."""
    chance: float
    """Accuracy of a guess, top 1 and mean per class alike."""


@dataclass(frozen=True, kw_only=True)
class RetrievalTask:
    """Image-text retrieval: ``{"items": [[key, [caption, ...]], ...], "chance": {"r@1": ...}}``, ragged."""

    name: str
    """Name of the task."""
    items: tuple[tuple[str, tuple[str, ...]], ...]
    """Image keys and the captions of each."""
    chance: Mapping[int, float]
    """Recall@k of a guess, by k."""


@dataclass(frozen=True, kw_only=True)
class PairItem:
    """Two images that differ in one attribute, and a statement true of each."""

    pattern: str
    """What they differ in."""
    keys: tuple[str, str]
    """Image keys."""
    captions: tuple[str, str]
    """Statements, in the order of the keys."""


@dataclass(frozen=True, kw_only=True)
class PairsTask:
    """MMVP-style pairs: ``{"items": [{"pattern", "keys": [k1, k2], "captions": [c1, c2]}, ...], "chance"}``.

    ``"compare"`` may be added.
    """

    name: str
    """Name of the task."""
    items: tuple[PairItem, ...]
    """The pairs."""
    chance: float
    """Share of pairs that a guess gets right."""
    compare: Literal["statements", "images"] = "statements"
    """What is compared: for each image the two statements, or for each statement the two images (MMVP-VLM's script)."""


@dataclass(frozen=True, kw_only=True)
class HardNegativeItem:
    """An image, its caption, and the caption changed in one thing so that it is false."""

    kind: str
    """How the caption was changed."""
    key: str
    """Image key."""
    caption: str
    """The true caption."""
    negative: str
    """The false one."""


@dataclass(frozen=True, kw_only=True)
class HardNegativesTask:
    """SugarCrepe-style: ``{"items": [{"kind", "key", "caption", "negative"}, ...], "chance"}``."""

    name: str
    """Name of the task."""
    items: tuple[HardNegativeItem, ...]
    """The images with their two captions."""
    chance: float
    """Share that a guess gets right."""


@dataclass(frozen=True, kw_only=True)
class WinogroundTask:
    """Winoground-style: pairs as in `PairsTask`, of which both statements use the same words.

    ``{"items": [{"pattern", "keys", "captions"}, ...]}``; scored for text, image and group (1/4, 1/4, 1/6 by chance).
    """

    name: str
    """Name of the task."""
    items: tuple[PairItem, ...]
    """The pairs; ``pattern`` is the tag that figures are also given for."""


@dataclass(frozen=True, kw_only=True)
class ProbeTask:
    """Linear probe: ``{"train": [[key, label], ...], "test": [...], "classnames", "chance"}``."""

    name: str
    """Name of the task."""
    train: tuple[tuple[str, int], ...]
    """Image keys and labels that the classifier is fitted on."""
    test: tuple[tuple[str, int], ...]
    """Image keys and labels that it is measured on."""
    classnames: tuple[str, ...]
    """Name of each label."""
    chance: float
    """Accuracy of a guess: the share of the most frequent label."""


Task: TypeAlias = ClassificationTask | RetrievalTask | PairsTask | HardNegativesTask | WinogroundTask | ProbeTask


def _require(condition: bool, where: str, wanted: str, value: object) -> None:
    if not condition:
        raise ProclipError(f"{where} must be {wanted}, not {json.dumps(value, ensure_ascii=False)[:120]}")


def _text(value: Any, where: str) -> str:
    _require(isinstance(value, str) and bool(value.strip()), where, "a text that is not empty", value)
    return str(value)


def _share(value: Any, where: str) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    _require(good, where, "a number from 0 to 1", value)
    return float(value)


def _list(value: Any, where: str, read: Callable[[Any, str], T], *, size: int | None = None) -> tuple[T, ...]:
    """A JSON list of one type, never empty; of `size` entries if given."""
    good = isinstance(value, list) and len(value) > 0 and size in (None, len(value))
    _require(good, where, f"a list of {size}" if size else "a list that is not empty", value)
    return tuple(read(v, f"{where}[{i}]") for i, v in enumerate(value))


def _labelled(value: Any, where: str, num_classes: int) -> tuple[tuple[str, int], ...]:
    def read(pair: Any, here: str) -> tuple[str, int]:
        _require(isinstance(pair, list) and len(pair) == 2, here, "[key, class index]", pair)
        label = pair[1]
        good = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < num_classes
        _require(good, f"{here}[1]", f"a class index from 0 to {num_classes - 1}", label)
        return _text(pair[0], f"{here}[0]"), label

    return _list(value, where, read)


def _field(values: Any, key: str, where: str) -> Any:
    _require(isinstance(values, dict), where, "a JSON object", values)
    if key not in values:
        raise ProclipError(f"{where} lacks the key {key!r}")
    return values[key]


def _classification(values: dict[str, Any], name: str, path: Path) -> ClassificationTask:
    classnames = _list(_field(values, "classnames", f"{path}"), f"{path}: classnames", _text)
    templates = _list(_field(values, "templates", f"{path}"), f"{path}: templates", _text)
    for i, template in enumerate(templates):
        _require(template.count("{}") == 1, f"{path}: templates[{i}]", "a text with one {} for the class", template)
    return ClassificationTask(
        name=name,
        items=_labelled(_field(values, "items", f"{path}"), f"{path}: items", len(classnames)),
        classnames=classnames,
        templates=templates,
        chance=_share(_field(values, "chance", f"{path}"), f"{path}: chance"),
    )


def _retrieval(values: dict[str, Any], name: str, path: Path) -> RetrievalTask:
    def read(pair: Any, here: str) -> tuple[str, tuple[str, ...]]:
        _require(isinstance(pair, list) and len(pair) == 2, here, "[key, [caption, ...]]", pair)
        return _text(pair[0], f"{here}[0]"), _list(pair[1], f"{here}[1]", _text)

    items = _list(_field(values, "items", f"{path}"), f"{path}: items", read)
    seen: set[str] = set()
    for i, (key, _) in enumerate(items):
        _require(key not in seen, f"{path}: items[{i}][0]", "an image that is listed once", key)
        seen.add(key)
    chance = _field(values, "chance", f"{path}")
    levels = {k: _share(_field(chance, f"r@{k}", f"{path}: chance"), f"{path}: chance.r@{k}") for k in (1, 5, 10)}
    return RetrievalTask(name=name, items=items, chance=levels)


def _pair_items(values: dict[str, Any], path: Path) -> tuple[PairItem, ...]:
    def read(item: Any, here: str) -> PairItem:
        first, second = _list(_field(item, "keys", here), f"{here}.keys", _text, size=2)
        true_of_first, true_of_second = _list(_field(item, "captions", here), f"{here}.captions", _text, size=2)
        _require(first != second, f"{here}.keys", "two different images", first)
        _require(true_of_first != true_of_second, f"{here}.captions", "two different texts", true_of_first)
        pattern = _text(_field(item, "pattern", here), f"{here}.pattern")
        return PairItem(pattern=pattern, keys=(first, second), captions=(true_of_first, true_of_second))

    return _list(_field(values, "items", f"{path}"), f"{path}: items", read)


def _pairs(values: dict[str, Any], name: str, path: Path) -> PairsTask:
    compare = values.get("compare", "statements")
    _require(compare in ("statements", "images"), f"{path}: compare", '"statements" or "images"', compare)
    chance = _share(_field(values, "chance", f"{path}"), f"{path}: chance")
    return PairsTask(name=name, items=_pair_items(values, path), chance=chance, compare=compare)


def _winoground(values: dict[str, Any], name: str, path: Path) -> WinogroundTask:
    return WinogroundTask(name=name, items=_pair_items(values, path))


def _hard_negatives(values: dict[str, Any], name: str, path: Path) -> HardNegativesTask:
    def read(item: Any, here: str) -> HardNegativeItem:
        texts = {k: _text(_field(item, k, here), f"{here}.{k}") for k in ("kind", "key", "caption", "negative")}
        _require(texts["negative"] != texts["caption"], f"{here}.negative", "another text than caption", item)
        return HardNegativeItem(**texts)

    items = _list(_field(values, "items", f"{path}"), f"{path}: items", read)
    chance = _share(_field(values, "chance", f"{path}"), f"{path}: chance")
    return HardNegativesTask(name=name, items=items, chance=chance)


def _probe(values: dict[str, Any], name: str, path: Path) -> ProbeTask:
    classnames = _list(_field(values, "classnames", f"{path}"), f"{path}: classnames", _text)
    train = _labelled(_field(values, "train", f"{path}"), f"{path}: train", len(classnames))
    test = _labelled(_field(values, "test", f"{path}"), f"{path}: test", len(classnames))
    known = {key for key, _ in train}
    for i, (key, _) in enumerate(test):
        _require(key not in known, f"{path}: test[{i}][0]", "an image that is not in train", key)
    chance = _share(_field(values, "chance", f"{path}"), f"{path}: chance")
    return ProbeTask(name=name, train=train, test=test, classnames=classnames, chance=chance)


_READERS: dict[str, Callable[[dict[str, Any], str, Path], Task]] = {
    "classification": _classification,
    "retrieval": _retrieval,
    "pairs": _pairs,
    "hard_negatives": _hard_negatives,
    "winoground": _winoground,
    "probe": _probe,
}


def load_task(path: Path) -> Task:
    """Read and check one task file.

    Raises:
        ProclipError: the file is missing, is not JSON, or an entry is not what its kind of task asks for; the message
            names the file and the entry.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ProclipError(f"no task file at {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ProclipError(f"{path} is not valid JSON: {error}") from None
    kind = _field(values, "task", f"{path}")
    _require(isinstance(kind, str) and kind in _READERS, f"{path}: task", f"one of {', '.join(_READERS)}", kind)
    return _READERS[kind](values, _text(_field(values, "name", f"{path}"), f"{path}: name"), path)


def load_tasks(folder: Path, names: Sequence[str] | None = None) -> dict[str, Task]:
    """Read every task of a folder, or those in `names`, by name and in the order of their names.

    Raises:
        ProclipError: there is no such folder or no task in it, a file is not valid, two files share a name, or a name
            is asked for that is not there.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ProclipError(f"no task files (*.json) in {folder}")
    tasks: dict[str, Task] = {}
    for path in paths:
        task = load_task(path)
        if task.name in tasks:
            raise ProclipError(f"{path}: another file of the folder has the task name {task.name!r} too")
        tasks[task.name] = task
    for name in names or ():
        if name not in tasks:
            close = difflib.get_close_matches(name, tasks, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(tasks))}"
            raise ProclipError(f"no task {name!r} in {folder}: {hint}")
    return {name: tasks[name] for name in sorted(tasks) if names is None or name in names}
