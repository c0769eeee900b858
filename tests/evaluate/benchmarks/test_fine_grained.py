"""MMVP-VLM, SugarCrepe and Winoground's form as their authors publish them, and what bad data is told."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from proclip.errors import ProclipError
from proclip.evaluate.benchmarks.fine_grained import ENTRIES, SUGARCREPE_COUNTS
from proclip.evaluate.tasks import HardNegativesTask, PairsTask, WinogroundTask

TYPES = [
    "Orientation", "Presence", "State", "Quantity", "Spatial", "Color", "Structural Character", "Text",
    "Camera Perspective",
]  # fmt: skip


def picture(path: Path, number: int = 0, kind: str = "JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (number % 256, 90, 20)).save(path, kind)


def write_questions(folder: Path, rows: list[tuple[Any, ...]]) -> None:
    with (folder / "Questions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Question ID", "Type", "Statement"])
        writer.writerows(rows)


def mmvp_rows(pairs_of_a_type: int) -> list[tuple[int, str, str]]:
    kinds = [kind for kind in TYPES for _ in range(2 * pairs_of_a_type)]
    return [(number, kind, f'Statement {number}, with a comma and a "word"') for number, kind in enumerate(kinds, 1)]


def write_mmvp(folder: Path, pairs_of_a_type: int = 2, images: str = "MLLM_VLM Images") -> list[tuple[int, str, str]]:
    rows = mmvp_rows(pairs_of_a_type)
    for number, kind, _ in rows:
        picture(folder / images / kind / f"{number}.jpg", number)
    write_questions(folder, rows)
    return rows


@pytest.mark.parametrize("images", ["MLLM_VLM Images", "MMVP_VLM_Images"])
def test_mmvp(tmp_path: Path, images: str) -> None:
    rows = write_mmvp(tmp_path / ENTRIES["mmvp_vlm"].folder, 2, images)
    benchmark = ENTRIES["mmvp_vlm"].load(tmp_path / "MMVP_VLM")
    task = benchmark.tasks[""]
    assert isinstance(task, PairsTask)
    assert task.compare == "images" and task.chance == 1 / 4
    flat = [
        (key, caption, item.pattern)
        for item in task.items
        for key, caption in zip(item.keys, item.captions, strict=True)
    ]
    assert flat == [(f"{kind}/{number}", f"a photo of {statement}", kind) for number, kind, statement in rows]
    assert not benchmark.complete
    red = benchmark.images.open("Camera Perspective/36").getpixel((0, 0))
    assert isinstance(red, tuple) and abs(red[0] - 36) < 8


def test_mmvp_whole_and_its_blocks(tmp_path: Path) -> None:
    rows = write_mmvp(tmp_path, 15)
    benchmark = ENTRIES["mmvp_vlm"].load(tmp_path)
    assert benchmark.complete and "pairs_outside_their_block" not in benchmark.notes
    moved = [*rows[30:32], *rows[:30], *rows[32:]]  # a pair of the second type first: the script counts it as the first
    write_questions(tmp_path, moved)
    benchmark = ENTRIES["mmvp_vlm"].load(tmp_path)
    assert not benchmark.complete and benchmark.notes["pairs_outside_their_block"] == 2


def _row_lost(folder: Path, rows: list[tuple[int, str, str]]) -> None:
    write_questions(folder, rows[:4] + rows[5:])


def _rows_lost(folder: Path, rows: list[tuple[int, str, str]]) -> None:
    write_questions(folder, rows[:5] + rows[7:])


def _column_lost(folder: Path, rows: list[tuple[int, str, str]]) -> None:
    write_questions(folder, [(number, statement) for number, _, statement in rows])


def _repeated(folder: Path, rows: list[tuple[int, str, str]]) -> None:
    write_questions(folder, [*rows, *rows[:2]])


def _image_lost(folder: Path, rows: list[tuple[int, str, str]]) -> None:
    for number, kind, _ in rows[:8]:
        (folder / "MLLM_VLM Images" / kind / f"{number}.jpg").unlink()


def _images_lost(folder: Path, rows: list[tuple[int, str, str]]) -> None:
    (folder / "MLLM_VLM Images").rename(folder / "pictures")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_row_lost, r"must have rows in pairs, not 35"),
        (_rows_lost, r"1 of 17 pairs do not: '5 and 8'$"),
        (_column_lost, r"36 are not: 'row 2: 1,Statement 1.*\(36 in all\)"),
        (_repeated, r"ids that are there more than once: '1', '2'"),
        (_image_lost, r"8 of 36 pictures are missing or no pictures: 'Orientation/1', .*\(8 in all\)"),
        (_images_lost, r"no folder of pictures; it is called MMVP_VLM_Images or MLLM_VLM Images"),
    ],
)
def test_bad_mmvp(tmp_path: Path, spoil: Callable[[Path, list[tuple[int, str, str]]], None], message: str) -> None:
    rows = write_mmvp(tmp_path)
    spoil(tmp_path, rows)
    with pytest.raises(ProclipError, match=message):
        ENTRIES["mmvp_vlm"].load(tmp_path)


def sugarcrepe_files() -> dict[str, dict[str, dict[str, str]]]:
    """Seven files; ids leave gaps, and the same picture stands in several."""
    return {
        kind: {
            str(3 * number + place): {
                "filename": f"{number:012d}.jpg",
                "caption": f"A caption of {kind} {number},\nwith a newline.",
                "negative_caption": f"Another of {kind} {number}.",
            }
            for number in range(2 + place)
        }
        for place, kind in enumerate(SUGARCREPE_COUNTS)
    }


def write_sugarcrepe(folder: Path, files: dict[str, Any], pictures: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, entries in files.items():
        (folder / f"{kind}.json").write_text(json.dumps(entries))
    for number in range(8):
        picture(pictures / f"{number:012d}.jpg", number)


@pytest.mark.parametrize("pictures", ["sugarcrepe/val2017", "coco/val2017", "sugarcrepe/data/val2017"])
def test_sugarcrepe(tmp_path: Path, pictures: str) -> None:
    files = sugarcrepe_files()
    texts = tmp_path / "sugarcrepe" / ("data" if "data" in pictures else "")
    write_sugarcrepe(texts, files, tmp_path / pictures)
    benchmark = ENTRIES["sugarcrepe"].load(tmp_path / ENTRIES["sugarcrepe"].folder)
    task = benchmark.tasks[""]
    assert isinstance(task, HardNegativesTask)
    assert [(i.kind, i.key, i.caption, i.negative) for i in task.items] == [
        (kind, entry["filename"], entry["caption"], entry["negative_caption"])
        for kind, entries in files.items()
        for entry in entries.values()
    ]
    assert benchmark.means == {
        "add": ("add_att", "add_obj"),
        "replace": ("replace_att", "replace_obj", "replace_rel"),
        "swap": ("swap_att", "swap_obj"),
    }
    assert benchmark.notes["items"] == {kind: 2 + place for place, kind in enumerate(SUGARCREPE_COUNTS)}
    assert not benchmark.complete
    assert sum(SUGARCREPE_COUNTS.values()) == 7511


def test_bad_sugarcrepe(tmp_path: Path) -> None:
    folder, load = tmp_path / "sugarcrepe", ENTRIES["sugarcrepe"].load
    with pytest.raises(ProclipError, match=r"lacks 7 of SugarCrepe's 7 files: add_att\.json"):
        load(folder)
    files = sugarcrepe_files()
    write_sugarcrepe(folder, files, tmp_path / "elsewhere")
    with pytest.raises(ProclipError, match=r"val2017 pictures are at none of .*sugarcrepe/val2017"):
        load(folder)
    write_sugarcrepe(folder, files, folder / "val2017")
    for number in (1, 5):
        (folder / "val2017" / f"{number:012d}.jpg").unlink()
    with pytest.raises(
        ProclipError, match=r"2 of 8 pictures are missing or no pictures: '000000000001\.jpg', '000000000005\.jpg'$"
    ):
        load(folder)
    write_sugarcrepe(folder, files, folder / "val2017")
    del files["swap_att"]["8"]["negative_caption"]
    write_sugarcrepe(folder, files, folder / "val2017")
    with pytest.raises(ProclipError, match=r"swap_att\.json: 1 of 7 entries lack texts .*: '8'"):
        load(folder)
    files["swap_att"]["8"]["negative_caption"] = files["swap_att"]["8"]["caption"]
    write_sugarcrepe(folder, files, folder / "val2017")
    with pytest.raises(ProclipError, match=r"1 of 7 entries lack a negative_caption other than the caption: '8'"):
        load(folder)
    (folder / "add_obj.json").write_text("[]")
    with pytest.raises(ProclipError, match=r"add_obj\.json must hold a JSON object"):
        load(folder)


def example(number: int, tag: str = "Adjective-Color", **more: Any) -> dict[str, Any]:
    return {
        "id": number, "image_0": f"ex_{number}_img_0", "image_1": f"ex_{number}_img_1",
        "caption_0": f"some plants {number} surrounding a lightbulb", "caption_1": f"a lightbulb {number} surrounding",
        "tag": tag, "secondary_tag": "", **more,
    }  # fmt: skip


def write_winoground(folder: Path, examples: list[dict[str, Any]]) -> None:
    for entry in examples:
        for place in (0, 1):
            picture(folder / "images" / f"ex_{entry['id']}_img_{place}.png", 10 * entry["id"] + place, "PNG")
    (folder / "examples.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in examples))


@pytest.mark.parametrize("place", ["winoground", "winoground/data"])
def test_winoground_files(tmp_path: Path, place: str) -> None:
    write_winoground(tmp_path / place, [example(0, collapsed_tag="Object"), example(7), example(9, tag="")])
    benchmark = ENTRIES["winoground"].load(tmp_path / ENTRIES["winoground"].folder)
    task = benchmark.tasks[""]
    assert isinstance(task, WinogroundTask)
    assert [item.pattern for item in task.items] == ["Object", "Adjective-Color", "untagged"]
    assert task.items[1].keys == ("ex_7_img_0", "ex_7_img_1")
    assert task.items[1].captions == (example(7)["caption_0"], example(7)["caption_1"])
    assert benchmark.images.open("ex_7_img_1").getpixel((0, 0)) == (71, 90, 20)
    assert benchmark.headline == ("text", "image", "group") and not benchmark.complete


def test_winoground_as_the_hub_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def cell(number: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (number, 90, 20)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": f"{number}.png"}

    rows = [{**example(n), "image_0": cell(2 * n), "image_1": cell(2 * n + 1), "num_main_preds": 1} for n in range(3)]
    table = datasets.Dataset.from_list(rows)
    for column in ("image_0", "image_1"):
        table = table.cast_column(column, datasets.Image())
    (tmp_path / "winoground" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "winoground" / "data" / "test-00000-of-00001.parquet")
    benchmark = ENTRIES["winoground"].load(tmp_path / "winoground")
    task = benchmark.tasks[""]
    assert isinstance(task, WinogroundTask)
    assert benchmark.name == "winoground"
    for number, item in enumerate(task.items):
        assert item.captions == (example(number)["caption_0"], example(number)["caption_1"])
        reds = [benchmark.images.open(key).getpixel((0, 0)) for key in item.keys]
        assert reds == [(2 * number, 90, 20), (2 * number + 1, 90, 20)]


def test_bad_winoground(tmp_path: Path) -> None:
    load = ENTRIES["winoground"].load
    with pytest.raises(ProclipError, match=r"neither examples\.jsonl with images/ nor parquet"):
        load(tmp_path)
    write_winoground(tmp_path, [example(0), example(1)])
    (tmp_path / "images" / "ex_1_img_0.png").unlink()
    with pytest.raises(ProclipError, match=r"1 of 4 pictures are missing or no pictures: 'ex_1_img_0'"):
        load(tmp_path)
    write_winoground(tmp_path, [example(0), example(1, caption_1=" "), example(2, caption_0=3)])
    with pytest.raises(ProclipError, match=r"2 of 3 entries lack texts .*: 'line 2', 'line 3'"):
        load(tmp_path)
    write_winoground(tmp_path, [example(0, image_1="ex_0_img_0")])
    with pytest.raises(ProclipError, match=r"1 of 1 entries lack two different images: 'line 1'"):
        load(tmp_path)
    (tmp_path / "examples.jsonl").write_text("{")
    with pytest.raises(ProclipError, match=r"examples\.jsonl is not JSON lines"):
        load(tmp_path)
