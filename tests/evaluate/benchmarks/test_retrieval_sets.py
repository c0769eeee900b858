"""Retrieval sets in their authors' files: what was loaded is what a reader of a few lines finds in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import published_files as files
import pytest

from proclip.errors import ProclipError
from proclip.evaluate.benchmark import Benchmark
from proclip.evaluate.benchmarks import find_entry
from proclip.evaluate.benchmarks import retrieval as sets
from proclip.evaluate.benchmarks.reading import first_items
from proclip.evaluate.tasks import RetrievalTask


def load(name: str, root: Path) -> Benchmark:
    entry = find_entry(name)
    return entry.load(root / entry.folder)


def captions(benchmark: Benchmark) -> dict[str, list[str]]:
    task = benchmark.tasks[""]
    assert isinstance(task, RetrievalTask) and list(benchmark.tasks) == [""]
    assert benchmark.headline == ("i2t_r@1", "t2i_r@1")
    assert task.chance == {k: min(1.0, k / len(task.items)) for k in (1, 5, 10)}
    assert benchmark.images.missing([key for key, _ in task.items]) == []
    return {key: list(texts) for key, texts in task.items}


def test_coco_keeps_every_caption(tmp_path: Path) -> None:
    files.make_coco(tmp_path)
    benchmark = load("coco", tmp_path)
    raw = json.loads((tmp_path / "coco" / "coco_karpathy_test.json").read_text())
    assert captions(benchmark) == {row["image"].split("/")[1]: row["caption"] for row in raw}
    assert sorted(len(texts) for texts in captions(benchmark).values()) == [5, 5, 6, 7]
    first = raw[0]["image"].split("/")[1]
    assert benchmark.images.open(first).getpixel((0, 0))[0] == pytest.approx(391895 * 37 % 256, abs=3)


@pytest.mark.parametrize(
    ("annotation", "pictures"),
    [("annotations/coco_karpathy_test.json", "val2014"), ("coco_karpathy_test.json", "images/val2014"),
     ("coco_karpathy_test.json", "images"), ("coco_karpathy_test.json", "")],
)  # fmt: skip
def test_coco_in_every_layout(tmp_path: Path, annotation: str, pictures: str) -> None:
    files.make_coco(tmp_path / "one")
    files.make_coco(tmp_path / "other", annotation, pictures)
    one, other = load("coco", tmp_path / "one"), load("coco", tmp_path / "other")
    assert captions(one) == captions(other) and one.checksum() == other.checksum()


def test_coco_in_its_own_format_is_the_same_benchmark(tmp_path: Path) -> None:
    files.make_coco(tmp_path / "one")
    files.make_coco_of_clip_benchmark(tmp_path / "other")
    one, other = load("coco", tmp_path / "one"), load("coco", tmp_path / "other")
    assert captions(one) == captions(other) and one.checksum() == other.checksum()


@pytest.mark.parametrize(
    "annotation", ["test.json", "flickr30k_test.json", "annotations/test.json", "annotations/flickr30k_test.json"]
)
def test_flickr_in_every_layout(tmp_path: Path, annotation: str) -> None:
    files.make_flickr(tmp_path / "one", annotation)
    files.make_flickr_of_clip_benchmark(tmp_path / "other")
    one, other = load("flickr30k", tmp_path / "one"), load("flickr30k", tmp_path / "other")
    assert captions(one) == {name: files.flickr_captions(name) for name in files.FLICKR} == captions(other)
    assert one.checksum() == other.checksum()


def test_a_bare_file_name_finds_its_picture(tmp_path: Path) -> None:
    files.make_flickr(tmp_path)
    path = tmp_path / "flickr30k" / "test.json"
    path.write_text(path.read_text().replace("flickr30k-images/", ""))
    assert list(captions(load("flickr30k", tmp_path))) == list(files.FLICKR)


def test_sharegpt4v_is_the_first_thousand(tmp_path: Path) -> None:
    files.make_sharegpt4v(tmp_path)
    benchmark = load("sharegpt4v-1k", tmp_path)
    raw = json.loads(next((tmp_path / "sharegpt4v").glob("*.json")).read_text())
    assert captions(benchmark) == {row["image"]: [row["conversations"][1]["value"]] for row in raw[:1000]}
    assert "\n" in captions(benchmark)["sam/images/sa_0.jpg"][0]  # kept, as the protocol says
    assert "line breaks kept" in benchmark.protocol


@pytest.mark.parametrize("characters", [40, 64, 300, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_start_of_a_list_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, characters: int, indent: int | None
) -> None:
    monkeypatch.setattr("proclip.evaluate.benchmarks.reading.CHARACTERS", characters)
    rows = [{"text": f"][,{{ é {n}"} for n in range(20)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    for count in (1, 5, 20, 30):
        assert first_items(tmp_path / "a.json", count) == rows[:count]
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=indent)[:100], encoding="utf-8")
    with pytest.raises(ProclipError, match=r"b\.json: entry \d+ is not JSON"):
        first_items(tmp_path / "b.json", 20)


def test_damage_at_the_start_of_a_large_file_is_found_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proclip.evaluate.benchmarks.reading.CHARACTERS", 100)
    (tmp_path / "a.json").write_text('[{"a": 1}, {"b" 2}, ' + '{"c": 3}, ' * 1000 + "{}]")
    with pytest.raises(ProclipError, match="entry 1 is not JSON"):
        first_items(tmp_path / "a.json", 1000)


def test_urban_takes_the_first_line(tmp_path: Path) -> None:
    files.make_urban(tmp_path)
    found = captions(load("urban-1k", tmp_path))
    raw = {
        path.stem: [path.read_bytes().decode().splitlines()[0]] for path in (tmp_path / "Urban1k" / "caption").iterdir()
    }
    assert found == raw and list(found) == ["1", "2", "10"]


def test_docci_takes_the_split_test(tmp_path: Path) -> None:
    files.make_docci(tmp_path)
    text = (tmp_path / "docci" / "docci_descriptions.jsonlines").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    wanted = {row["example_id"]: [row["description"]] for row in rows if row["split"] == "test"}
    found = captions(load("docci", tmp_path))
    assert found == wanted and list(found) == ["test_00000", "test_00002", "test_00007"]
    assert "\n" in found["test_00002"][0] and "\u2028" in found["test_00002"][0]


def test_dci_joins_sentences_as_flame_does(tmp_path: Path) -> None:
    files.make_dci(tmp_path)
    found = captions(load("dci", tmp_path))
    assert found == {
        "sa_1": ["A house sa_1. It is old. Its door is  shut. Very"],
        "sa_20": ["A house sa_20"],
        "sa_3": ["A house sa_3. No stop"],
        "sa_4": ["A house sa_4. v1. 5 a"],
    }
    for key, (text,) in found.items():  # FLAME's rule, step by step
        row = json.loads((tmp_path / "densely_captioned_images" / "annotations" / f"{key}.json").read_text())
        pieces = []
        for piece in re.split("\n|</s>|[.]", row["short_caption"] + "\n" + row["extra_caption"]):
            if piece.strip():
                pieces.append(piece.strip())
        assert text == ". ".join(pieces)


def test_dci_of_its_first_release(tmp_path: Path) -> None:
    files.make_dci(tmp_path)
    folder = tmp_path / "densely_captioned_images"
    (folder / "annotations").rename(folder / "complete")
    assert len(captions(load("dci", tmp_path))) == 4


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def drop(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("name", "make", "spoil", "message"),
    [
        ("coco", files.make_coco, lambda f: drop(f / "coco_karpathy_test.json"),
         r"coco: the captions are missing: coco_karpathy_test\.json or"),
        ("coco", files.make_coco, lambda f: edit(f / "coco_karpathy_test.json", '"caption": [', '"captions": ['),
         r"coco_karpathy_test\.json\[0\]: 'caption' must be a list of texts"),
        ("coco", files.make_coco, lambda f: edit(f / "coco_karpathy_test.json", "000000060623", "000000391895"),
         r"coco: images are listed more than once: 'COCO_val2014_000000391895\.jpg'"),
        ("coco", files.make_coco_of_clip_benchmark,
         lambda f: edit(f / "coco_test_karpathy.json", '"image_id": 42', '"image_id": 43'),
         r"captions do not match the images; not among them: '43'"),
        ("coco", files.make_coco_of_clip_benchmark,
         lambda f: edit(f / "coco_test_karpathy.json", '"images": [', '"images": [{"id": 5, "file_name": "5.jpg"}, '),
         r"images without a caption: '5\.jpg'"),
        ("flickr30k", files.make_flickr, lambda f: edit(f / "test.json", "[{", "{"), r"test\.json is not JSON"),
        ("flickr30k", files.make_flickr, lambda f: (f / "test.json").write_text("{}"),
         "must be a list of JSON objects"),
        ("flickr30k", files.make_flickr_of_clip_benchmark,
         lambda f: edit(f / "flickr30k_test_karpathy.txt", ".jpg,", ".jpg;"), r"line 2: must be NAME\.jpg,caption"),
        ("urban-1k", files.make_urban, lambda f: drop(f / "caption" / "2.txt"),
         "pictures in image/ have no caption: '2'"),
        ("urban-1k", files.make_urban, lambda f: (f / "caption" / "2.txt").write_text("\nlate"),
         r"2\.txt: the first line"),
        ("docci", files.make_docci, lambda f: edit(f / "docci_descriptions.jsonlines", '"split"', '"part"'),
         "entry 0: 'split' must be a text"),
        ("dci", files.make_dci, lambda f: drop(f / "annotations" / "sa_3.json"),
         r"splits\.json names files that annotations/ lacks: 'sa_3\.json'"),
        ("dci", files.make_dci, lambda f: drop(f / "splits.json"), r"splits\.json is missing"),
        ("dci", files.make_dci, lambda f: edit(f / "annotations" / "sa_3.json", "extra_caption", "more"),
         r"sa_3\.json: 'extra_caption' must be a text"),
        ("sharegpt4v-1k", files.make_sharegpt4v, lambda f: edit(f / sets.SHAREGPT4V, "conversations", "turns"),
         r"\[0\]: 'conversations' must hold"),
        ("sharegpt4v-1k", files.make_sharegpt4v, lambda f: (f / sets.SHAREGPT4V).write_text("{}"),
         "must hold a JSON list"),
    ],
)  # fmt: skip
def test_captions_that_are_not_right(
    tmp_path: Path, name: str, make: Callable[[Path], None], spoil: Callable[[Path], object], message: str
) -> None:
    make(tmp_path)
    spoil(tmp_path / find_entry(name).folder)
    with pytest.raises(ProclipError, match=message):
        load(name, tmp_path)
