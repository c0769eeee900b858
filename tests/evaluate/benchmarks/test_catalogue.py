"""Several benchmarks at once: all data are checked before any model runs, and all that is wrong is said together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import published_files as files
import pytest

from proclip.errors import ProclipError
from proclip.evaluate.benchmarks import ENTRIES, SUITES, counts, find_entry, load_suite

MAKERS = {
    "coco": files.make_coco,
    "flickr30k": files.make_flickr,
    "sharegpt4v-1k": files.make_sharegpt4v,
    "urban-1k": files.make_urban,
    "docci": files.make_docci,
    "dci": files.make_dci,
    "xm3600": files.make_xm3600,
}
COUNTS = {
    "coco": (4, 23), "flickr30k": (3, 15), "sharegpt4v-1k": (1000, 1000), "urban-1k": (3, 3), "docci": (3, 3),
    "dci": (4, 4), "xm3600": (3, 108), "xm3600-all": (3, 218),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every set; not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    for make in MAKERS.values():
        make(folder)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Every set but the large one, to be spoilt."""
    for name, make in MAKERS.items():
        if name != "sharegpt4v-1k":
            make(tmp_path)
    return tmp_path


def test_entries_agree_with_their_names() -> None:
    assert all(name == entry.name and "/" not in name for name, entry in ENTRIES.items())
    for names in SUITES.values():
        assert set(names) <= set(ENTRIES) and len(set(names)) == len(names)
    assert not set(SUITES) & set(ENTRIES)
    assert {"flickr30k", "coco", "sharegpt4v-1k", "urban-1k", "docci", "dci", "xm3600"} <= set(SUITES["paper"])


def test_the_counts_that_authors_give() -> None:
    expected = {name: dict(ENTRIES[name].expected) for name in COUNTS}
    assert expected == {
        "flickr30k": {"images": 1000, "texts": 5000},
        "coco": {"images": 5000, "texts": 25010},
        "sharegpt4v-1k": {"images": 1000, "texts": 1000},
        "urban-1k": {"images": 1000, "texts": 1000},
        "docci": {"images": 5000, "texts": 5000},
        "dci": {"images": 7805, "texts": 7805},
        "xm3600": {"images": 3600, "texts": 129600},
        "xm3600-all": {"images": 3600, "texts": 261_375},
    }


def test_unknown_names_have_the_nearest(tmp_path: Path) -> None:
    for wrong, right in [("flickr", "flickr30k"), ("urban1k", "urban-1k"), ("XM3600", "xm3600"), ("papers", "paper")]:
        with pytest.raises(ProclipError, match=f"no benchmark '{wrong}': did you mean '{right}'"):
            find_entry(wrong)
    with pytest.raises(ProclipError, match="no benchmark 'qqqqqq': there are: paper, "):
        load_suite(["qqqqqq"], tmp_path)


def test_parts_are_measured_as_parts(whole: Path) -> None:
    loaded = load_suite(list(COUNTS), whole, partial=True)
    assert loaded.problems == () and not loaded.absent
    assert [b.name for b in loaded.benchmarks] == list(COUNTS)
    for benchmark in loaded.benchmarks:
        images, texts = COUNTS[benchmark.name]
        assert counts(benchmark.tasks) == {"images": images, "texts": texts}
        assert benchmark.complete == (benchmark.name == "sharegpt4v-1k")
    loaded.raise_problems()


def test_the_full_count_is_complete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = dataclasses.replace(ENTRIES["coco"], expected={"images": 4, "texts": 23})
    monkeypatch.setitem(ENTRIES, "coco", full)
    (benchmark,) = load_suite(["coco"], root).benchmarks
    assert benchmark.complete


def test_one_of_several_counts_is_complete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENTRIES, "coco", dataclasses.replace(ENTRIES["coco"], expected={"images": (5, 4)}))
    (benchmark,) = load_suite(["coco"], root).benchmarks
    assert benchmark.complete
    monkeypatch.setitem(ENTRIES, "coco", dataclasses.replace(ENTRIES["coco"], expected={"images": (5, 6000)}))
    assert "coco: 4 images instead of 5 or 6,000: --partial" in load_suite(["coco"], root).problems[0]


def test_a_folder_under_another_of_its_names(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "coco").rename(root / "mscoco_captions")
    assert "coco is missing" in load_suite(["coco"], root, partial=True).problems[0]
    entry = dataclasses.replace(ENTRIES["coco"], aliases=("mscoco", "mscoco_captions"))
    monkeypatch.setitem(ENTRIES, "coco", entry)
    assert len(load_suite(["coco"], root, partial=True).benchmarks) == 1


def test_wrong_counts_are_problems(whole: Path) -> None:
    loaded = load_suite(["coco", "xm3600-all", "sharegpt4v-1k"], whole)
    assert [b.name for b in loaded.benchmarks] == ["sharegpt4v-1k"]
    assert loaded.problems == (
        "coco: 4 images instead of 5,000 and 23 texts instead of 25,010: --partial measures what is there",
        "xm3600-all: 3 images instead of 3,600 and 218 texts instead of 261,375: --partial measures what is there",
    )


def test_all_problems_are_said_together(root: Path) -> None:
    files.make_sharegpt4v(root)
    for path in list((root / "coco" / "val2014").iterdir())[:2]:
        path.unlink()
    for path in (root / "sharegpt4v" / "sam" / "images").glob("sa_1*.jpg"):
        path.unlink()
    (root / "urban").mkdir()
    (root / "dci").mkdir()
    (root / "densely_captioned_images" / "annotations" / "sa_3.json").unlink()
    (root / "Urban1k").rename(root / "elsewhere")
    loaded = load_suite(["coco", "sharegpt4v-1k", "urban-1k", "dci", "docci"], root, partial=True)
    assert [b.name for b in loaded.benchmarks] == ["docci"]
    with pytest.raises(ProclipError) as caught:
        loaded.raise_problems()
    message = str(caught.value)
    assert "4 problems with the data, no model was run" in message
    assert "coco: 2 of 4 pictures are missing or no pictures: 'COCO_val2014_" in message
    assert "sharegpt4v-1k: 111 of 1,000 pictures are missing or no pictures: 'sam/images/sa_1.jpg', " in message
    assert "... (111 in all)" in message
    assert f"urban-1k: {root / 'Urban1k'} is missing; it must hold caption/1.txt" in message
    assert "lacks: 'sa_3.json'" in message and "dci: " in message


def test_counts_and_pictures_of_one_set_are_both_said(root: Path) -> None:
    next((root / "coco" / "val2014").iterdir()).unlink()
    problems = load_suite(["coco"], root).problems
    assert len(problems) == 2 and "instead of" in problems[0] and "1 of 4 pictures" in problems[1]


def test_a_suite_skips_what_is_absent(tmp_path: Path) -> None:
    files.make_docci(tmp_path)
    loaded = load_suite(["paper"], tmp_path, partial=True)
    assert [b.name for b in loaded.benchmarks] == ["docci"] and not loaded.problems
    assert set(loaded.absent) == set(SUITES["paper"]) - {"docci"}
    assert "val2014" in loaded.absent["coco"]
    both = load_suite(["paper", "coco"], tmp_path, partial=True)
    assert "coco" not in both.absent and len(both.problems) == 1 and "coco_karpathy_test.json" in both.problems[0]
    assert len(load_suite(["docci", "docci", "paper"], tmp_path, partial=True).benchmarks) == 1


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    assert "is not a folder" in load_suite(["paper"], tmp_path / "nowhere").problems[0]
