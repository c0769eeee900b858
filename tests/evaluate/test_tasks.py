from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proclip.errors import ProclipError
from proclip.evaluate.tasks import (
    ClassificationTask,
    PairsTask,
    RetrievalTask,
    WinogroundTask,
    load_task,
    load_tasks,
)

CLASSIFICATION: dict[str, Any] = {
    "task": "classification", "name": "zero_shot_a", "items": [["a/1", 0], ["a/2", 1]],
    "classnames": ["cat", "dog"], "templates": ["a drawing of {}"], "chance": 0.5,
}  # fmt: skip
RETRIEVAL: dict[str, Any] = {
    "task": "retrieval", "name": "retrieval_short", "items": [["a/1", ["x", "y"]], ["a/2", ["z"]]],
    "chance": {"r@1": 0.5, "r@5": 1.0, "r@10": 1.0},
}  # fmt: skip
PAIRS: dict[str, Any] = {
    "task": "pairs", "name": "pairs", "chance": 0.25,
    "items": [{"pattern": "colour", "keys": ["a/1", "a/2"], "captions": ["red", "blue"]}],
}  # fmt: skip
WINOGROUND: dict[str, Any] = {
    "task": "winoground", "name": "winoground",
    "items": [{"pattern": "Object", "keys": ["a/1", "a/2"], "captions": ["a dog on a cat", "a cat on a dog"]}],
}  # fmt: skip
HARD: dict[str, Any] = {
    "task": "hard_negatives", "name": "hard_negatives", "chance": 0.5,
    "items": [{"kind": "swap", "key": "a/1", "caption": "x", "negative": "y"}],
}  # fmt: skip
PROBE: dict[str, Any] = {
    "task": "probe", "name": "linear_probe_a", "train": [["a/1", 0], ["a/2", 1]], "test": [["a/3", 0]],
    "classnames": ["cat", "dog"], "chance": 0.5,
}  # fmt: skip


def write(folder: Path, values: Any, name: str = "task.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_reads_every_kind(tmp_path: Path) -> None:
    for i, values in enumerate((CLASSIFICATION, RETRIEVAL, PAIRS, HARD, WINOGROUND, PROBE)):
        write(tmp_path, values, f"{i}.json")
    tasks = load_tasks(tmp_path)
    assert list(tasks) == ["hard_negatives", "linear_probe_a", "pairs", "retrieval_short", "winoground", "zero_shot_a"]
    classification, retrieval = tasks["zero_shot_a"], tasks["retrieval_short"]
    assert isinstance(classification, ClassificationTask) and classification.items == (("a/1", 0), ("a/2", 1))
    assert isinstance(retrieval, RetrievalTask) and retrieval.items[0] == ("a/1", ("x", "y"))
    assert retrieval.chance == {1: 0.5, 5: 1.0, 10: 1.0}
    winoground = tasks["winoground"]
    assert isinstance(winoground, WinogroundTask) and winoground.items[0].captions[1] == "a cat on a dog"


def test_pairs_compare_statements_unless_they_say_images(tmp_path: Path) -> None:
    plain = load_task(write(tmp_path, PAIRS))
    images = load_task(write(tmp_path, {**PAIRS, "compare": "images"}))
    assert isinstance(plain, PairsTask) and plain.compare == "statements"
    assert isinstance(images, PairsTask) and images.compare == "images" and images.items == plain.items


def change(values: dict[str, Any], edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(values))
    edit(copy)
    return copy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "must be a JSON object"),
        ({"name": "x"}, "lacks the key 'task'"),
        ({"task": "quiz", "name": "x"}, "task must be one of classification, retrieval"),
        (change(CLASSIFICATION, lambda v: v.pop("chance")), "lacks the key 'chance'"),
        (change(CLASSIFICATION, lambda v: v["items"].clear()), "items must be a list that is not empty"),
        (change(CLASSIFICATION, lambda v: v["items"][1].__setitem__(1, 2)), r"items\[1\]\[1\] must be a class index"),
        (
            change(CLASSIFICATION, lambda v: v["items"][1].__setitem__(1, True)),
            r"items\[1\]\[1\] must be a class index",
        ),
        (change(CLASSIFICATION, lambda v: v["templates"].append("none")), r"templates\[1\] must be a text with one {}"),
        (change(CLASSIFICATION, lambda v: v.update(chance=1.5)), "chance must be a number from 0 to 1"),
        (change(RETRIEVAL, lambda v: v["items"][1].__setitem__(0, "a/1")), r"items\[1\]\[0\] must be an image that is"),
        (change(RETRIEVAL, lambda v: v["items"][0][1].append(" ")), r"items\[0\]\[1\]\[2\] must be a text"),
        (change(RETRIEVAL, lambda v: v["chance"].pop("r@5")), "chance lacks the key 'r@5'"),
        (change(PAIRS, lambda v: v["items"][0]["keys"].pop()), r"items\[0\].keys must be a list of 2"),
        (change(PAIRS, lambda v: v["items"][0].update(captions=["x", "x"])), "two different texts"),
        (change(PAIRS, lambda v: v.update(compare="texts")), 'compare must be "statements" or "images", not "texts"'),
        (change(WINOGROUND, lambda v: v["items"][0].update(keys=["a/1", "a/1"])), "two different images"),
        (change(HARD, lambda v: v["items"][0].update(negative="x")), "another text than caption"),
        (
            change(PROBE, lambda v: v["test"].append(["a/1", 0])),
            r"test\[1\]\[0\] must be an image that is not in train",
        ),
    ],
)
def test_says_what_is_wrong_and_where(tmp_path: Path, values: Any, message: str) -> None:
    path = write(tmp_path, values)
    with pytest.raises(ProclipError, match=message) as error:
        load_task(path)
    assert str(path) in str(error.value)


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="no task files"):
        load_tasks(tmp_path)
    with pytest.raises(ProclipError, match="no task file at"):
        load_task(tmp_path / "x.json")
    write(tmp_path, PAIRS, "a.json")
    with pytest.raises(ProclipError, match="did you mean 'pairs'"):
        load_tasks(tmp_path, ["pair"])
    write(tmp_path, PAIRS, "b.json")
    with pytest.raises(ProclipError, match=r"b\.json: another file .*'pairs'"):
        load_tasks(tmp_path)
    (tmp_path / "b.json").write_text("{", encoding="utf-8")
    with pytest.raises(ProclipError, match="not valid JSON"):
        load_tasks(tmp_path)
