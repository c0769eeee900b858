"""One's own data: captioned pictures, folders of classes, folders of tasks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import published_files as files
import pytest

from proclip.errors import ProclipError
from proclip.evaluate.benchmark import Benchmark
from proclip.evaluate.benchmarks import class_folder, open_own, retrieval_folder, tasks_folder
from proclip.evaluate.tasks import ClassificationTask, RetrievalTask


def items(benchmark: Benchmark, prefix: str = "") -> dict[str, list[str]]:
    task = benchmark.tasks[prefix]
    assert isinstance(task, RetrievalTask)
    return {key: list(texts) for key, texts in task.items}


def captioned(folder: Path, rows: list[dict[str, Any]]) -> Path:
    for row in rows:
        files.picture(folder / row["file_name"])
    files.write(folder / "metadata.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder


def test_one_caption_column(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "text": f"number {n % 2}"} for n in range(3)]
    benchmark = open_own(captioned(tmp_path / "kites", rows))
    assert benchmark.name == "kites" and benchmark.headline == ("i2t_r@1", "t2i_r@1") and not benchmark.means
    assert items(benchmark) == {"0.png": ["number 0"], "1.png": ["number 1"], "2.png": ["number 0"]}
    assert benchmark.images.open("1.png").size == (4, 3)


def test_lists_and_holes(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.png", "captions": ["one", "two", "one"], "long": "a long text", "width": 640},
        {"file_name": "b.png", "captions": ["three"], "long": "", "tags": []},
        {"file_name": "c.png", "long": "another"},
    ]
    benchmark = open_own(captioned(tmp_path, rows))
    assert items(benchmark, "captions") == {"a.png": ["one", "two", "one"], "b.png": ["three"]}
    assert items(benchmark, "long") == {"a.png": ["a long text"], "c.png": ["another"]}
    assert list(benchmark.tasks) == ["long", "captions"]
    assert "long/t2i_r@1" in benchmark.headline
    only = retrieval_folder(tmp_path, columns=["captions"])
    assert list(only.tasks) == [""]
    with pytest.raises(ProclipError, match="no captions in column 'tags'; columns: long, captions"):
        retrieval_folder(tmp_path, columns=["tags"])


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    rows = [
        {
            "file_name": "a.png",
            "key": "01",
            "split": "test",
            "text": ["one, two", "[three"],
            "title": 'a "kite"\nflies',
        },
        {"file_name": "b.png", "key": "02", "split": "dev", "text": ["four"], "title": "[not a list"},
    ]
    wanted = open_own(captioned(tmp_path / "a" / "kites", rows), "test")
    for name in ("b", "c"):
        captioned(tmp_path / name / "kites", rows)
        (tmp_path / name / "kites" / "metadata.jsonl").unlink()
    with (tmp_path / "b" / "kites" / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "text": json.dumps(row["text"])} for row in rows)
    parquet.write_table(Table.from_pylist(rows), tmp_path / "c" / "kites" / "metadata.parquet")
    for name in ("b", "c"):
        found = open_own(tmp_path / name / "kites", "test")
        assert found.checksum() == wanted.checksum() and found.notes == {"split": "test"}
        assert items(open_own(tmp_path / name / "kites"), "title")["02"] == ["[not a list"]
    assert items(wanted, "text") == {"01": ["one, two", "[three"]}


def test_languages_alone_have_their_codes_as_prefixes(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "captions.de": f"Bild {n}", "captions.zh-Hans": f"图 {n}"} for n in range(2)]
    benchmark = open_own(captioned(tmp_path, rows))
    assert list(benchmark.tasks) == ["de", "zh-Hans"]
    assert benchmark.means["mean/t2i_r@1"] == ("de/t2i_r@1", "zh-Hans/t2i_r@1")
    assert benchmark.headline == ("mean/i2t_r@1", "mean/t2i_r@1")


def test_languages_beside_other_columns(tmp_path: Path) -> None:
    row = {
        "file_name": "a.png",
        "name_en": "kite",
        "name_de": "Drachen",
        "short": "a kite",
        "image_id": "x7",
        "alt.de": "D",
    }
    benchmark = open_own(captioned(tmp_path, [row]))
    assert set(benchmark.tasks) == {"name/en", "name/de", "short", "image_id", "alt/de"}
    assert items(benchmark, "name/de") == {"a.png": ["Drachen"]}
    assert benchmark.means["name/mean/i2t_r@10"] == ("name/de/i2t_r@10", "name/en/i2t_r@10")
    assert benchmark.means["alt/mean/i2t_r@10"] == ("alt/de/i2t_r@10",)
    assert {"short/i2t_r@1", "name/mean/t2i_r@1"} <= set(benchmark.headline)
    assert "name/de/i2t_r@1" not in benchmark.headline


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file_name": "a.png", "split": "dev"}], "no row has a caption"),
        ([{"file_name": "a.png", "text": "a", "split": "dev"}], "no rows of split 'test'; splits: dev"),
        (
            [{"file_name": "a.png", "text": "a"}, {"file_name": "a.png", "text": "b"}],
            "line 2: key 'a.png' is there twice",
        ),
    ],
)
def test_captions_that_are_not_right(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ProclipError, match=message):
        open_own(captioned(tmp_path, rows), "test" if "splits" in message else None)


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "text": f"{n}"} for n in range(9)]
    captioned(tmp_path, rows)
    for n in range(7):
        (tmp_path / f"{n}.png").unlink()
    with pytest.raises(ProclipError, match=r"7 of 9 pictures are missing or no pictures: '0\.png', .*'4\.png', \.\.\."):
        open_own(tmp_path)


def test_bad_tables(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one,two\n")
    with pytest.raises(ProclipError, match="line 2: another number of cells than the 2 columns"):
        open_own(tmp_path)
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"one\n')
    with pytest.raises(ProclipError, match="not CSV"):
        open_own(tmp_path)
    (tmp_path / "metadata.parquet").write_bytes(b"no parquet")
    with pytest.raises(ProclipError, match=r"metadata\.csv and metadata\.parquet: one of them must go"):
        open_own(tmp_path)
    (tmp_path / "metadata.csv").unlink()
    with pytest.raises(ProclipError, match="is not parquet"):
        open_own(tmp_path)


def classes(folder: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        for n in range(i + 1):
            files.picture(folder / name / f"{n}.{'JPG' if n % 2 else 'png'}")
    return folder


def classification(benchmark: Benchmark) -> ClassificationTask:
    task = benchmark.tasks[""]
    assert isinstance(task, ClassificationTask)
    return task


def test_folders_of_classes(tmp_path: Path) -> None:
    classes(tmp_path / "pets", ["tabby_cat", "bird", "old dog"])
    (tmp_path / "pets" / ".cache").mkdir()
    files.write(tmp_path / "pets" / "bird" / "notes.txt", "no picture")
    benchmark = open_own(tmp_path / "pets")
    task = classification(benchmark)
    assert task.classnames == ("bird", "old dog", "tabby cat") and task.templates == ("a photo of a {}.",)
    assert task.items == (
        ("bird/0.png", 0), ("bird/1.JPG", 0), ("old dog/0.png", 1), ("old dog/1.JPG", 1), ("old dog/2.png", 1),
        ("tabby_cat/0.png", 2),
    )  # fmt: skip
    assert benchmark.images.missing([key for key, _ in task.items]) == [] and task.chance == 1 / 3
    assert benchmark.name == "pets" and benchmark.headline == ("acc1", "mean_per_class")


def test_numbered_classes_need_names(tmp_path: Path) -> None:
    classes(tmp_path, [str(n) for n in range(11)])
    with pytest.raises(ProclipError, match=r"'0', '1', .* is no name of a class .* write classnames\.txt"):
        open_own(tmp_path)
    files.write(tmp_path / "classnames.txt", "\n".join(f"class {n}" for n in range(11)) + "\n")
    files.write(tmp_path / "templates.txt", "a photo of {c}.\nart of {}\n")
    task = classification(open_own(tmp_path))
    assert task.classnames[10] == "class 10" and task.templates == ("a photo of {}.", "art of {}")
    assert [label for key, label in task.items if key.startswith("10/")] == [10] * 11
    assert [label for key, label in task.items if key.startswith("2/")] == [2] * 3
    files.write(tmp_path / "templates.txt", "a photo\n")
    with pytest.raises(ProclipError, match=r"templates\.txt: every line must have one"):
        open_own(tmp_path)
    files.write(tmp_path / "classnames.txt", "a\nb\n")
    with pytest.raises(ProclipError, match="has 2 names, there are 11 class folders"):
        class_folder(tmp_path)


def test_class_folders_that_are_not_right(tmp_path: Path) -> None:
    classes(tmp_path / "wordnet", ["n01440764", "n01443537"])
    with pytest.raises(ProclipError, match="'n01440764', 'n01443537' is no name"):
        open_own(tmp_path / "wordnet")
    classes(tmp_path / "a", ["cat", "dog"])
    (tmp_path / "a" / "bird").mkdir()
    with pytest.raises(ProclipError, match="class folders without pictures: 'bird'"):
        open_own(tmp_path / "a")
    with pytest.raises(ProclipError, match="has no splits"):
        open_own(tmp_path / "a", "test")
    with pytest.raises(ProclipError, match="two folders of pictures or more"):
        class_folder(tmp_path)


def test_what_is_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="no folder"):
        open_own(tmp_path / "nowhere")
    with pytest.raises(ProclipError, match=r"captioned pictures: metadata\.jsonl or(.|\n)*classes: (.|\n)*tasks: "):
        open_own(tmp_path)
    classes(tmp_path / "train", ["cat", "dog"])
    classes(tmp_path / "test", ["cat", "dog"])
    with pytest.raises(ProclipError, match=r"its folder 'test', 'train' is one of classes"):
        open_own(tmp_path)


def retrieval(name: str, keys: list[str]) -> dict[str, Any]:
    chance = {"r@1": 0.5, "r@5": 1.0, "r@10": 1.0}
    return {"task": "retrieval", "name": name, "items": [[k, [f"{name} {k}"]] for k in keys], "chance": chance}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    rows = [{"file_name": f"images/{n}.png", "key": f"a/{n}", "short": "x"} for n in range(4)]
    folder = captioned(tmp_path / "world", rows)
    probe = {"task": "probe", "name": "linear_probe_openmoji", "chance": 0.5, "classnames": ["c", "d"],
             "train": [["a/2", 0], ["a/3", 1]], "test": [["a/0", 0], ["a/1", 1]]}  # fmt: skip
    tasks = [
        {"task": "classification", "name": "zero_shot_openmoji", "items": [["a/0", 0], ["a/1", 1]],
         "classnames": ["c", "d"], "templates": ["a {}"], "chance": 0.5},
        {"task": "pairs", "name": "pairs", "chance": 0.25,
         "items": [{"pattern": "count", "keys": ["a/0", "a/1"], "captions": ["one", "two"]}]},
        {"task": "hard_negatives", "name": "hard_negatives", "chance": 0.5,
         "items": [{"kind": "swap", "key": "a/1", "caption": "one", "negative": "two"}]},
        probe, *(retrieval(name, ["a/0", "a/1"]) for name in
                 ("retrieval_short", "multilingual_en", "multilingual_de", "multilingual_ja")),
    ]  # fmt: skip
    for split in ("test", "dev"):
        for task in tasks:
            files.write(folder / "tasks" / split / f"{task['name']}.json", task)
    files.write(folder / "manifest.json", {"benchmark": {"name": "tiny", "version": "3", "checksum": "abc"}})
    return folder


def test_a_folder_of_tasks(world: Path) -> None:
    benchmark = open_own(world)
    assert benchmark.name == "tiny" and open_own(world, "dev").name == "tiny-dev"
    assert set(benchmark.tasks) == {
        "zero_shot/openmoji", "pairs", "hard_negatives", "linear_probe/openmoji", "retrieval_short",
        "multilingual/en", "multilingual/de", "multilingual/ja",
    }  # fmt: skip
    assert benchmark.means["multilingual/mean/t2i_r@1"] == ("multilingual/de/t2i_r@1", "multilingual/ja/t2i_r@1")
    assert benchmark.notes == {"name": "tiny", "version": "3", "checksum": "abc", "split": "test"}
    assert set(benchmark.headline) == {
        "zero_shot/openmoji/mean_per_class", "pairs/mean", "hard_negatives/mean", "linear_probe/openmoji/acc1",
        "retrieval_short/i2t_r@1", "retrieval_short/t2i_r@1", "multilingual/mean/i2t_r@1", "multilingual/mean/t2i_r@1",
    }  # fmt: skip


def test_a_folder_of_tasks_that_is_not_right(world: Path) -> None:
    with pytest.raises(ProclipError, match="no tasks of split 'train'; splits: dev, test"):
        tasks_folder(world, "train")
    (world / "images" / "3.png").unlink()  # only the probe is fitted on it
    with pytest.raises(ProclipError, match="1 of 4 pictures are missing or no pictures: 'a/3'"):
        open_own(world)
    (world / "manifest.json").unlink()
    files.picture(world / "images" / "3.png")
    assert open_own(world).name == "world"
