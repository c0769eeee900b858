"""Searching: the arithmetic of a query against a slow loop, filters, order, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import drawn, save, touch
from PIL import Image

from proclip.errors import ProclipError
from proclip.models.proclip import ProCLIP
from proclip.search import Hit, Index, update_index
from proclip.search.pictures import read
from proclip.search.query import filter_of, parts_of, query_vector


def names(hits: list[Hit]) -> list[str]:
    return [hit.path.name for hit in hits]


def slow(model: ProCLIP, folder: Path, query: np.ndarray) -> list[tuple[str, float]]:
    """Every picture with its cosine, the best first, one by one."""
    found = []
    for path in sorted(folder.rglob("*.*")):
        vector = model.encode_image([read(path).image])[0].numpy().astype(float)
        found.append((path.name, float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query))))
    return sorted(found, key=lambda pair: -pair[1])


def unit(vector: object) -> np.ndarray:
    values = np.asarray(vector, dtype=float)
    return values / np.linalg.norm(values)


def test_a_query_is_the_weighted_sum_of_its_parts(pictures: Path, model: ProCLIP, index: Path) -> None:
    text, minus = model.encode_text(["a red square", "a long column"]), model.encode_text("a bar")
    picture = model.encode_image([read(pictures / "c.jpg").image])[0]
    query = 2 * unit(text[0]) + 0.5 * unit(text[1]) + 1.5 * unit(picture) - 0.25 * unit(minus)
    with Index.open(index, model) as opened:
        hits = opened.search(
            ["a red square", "a long column"], image=pictures / "c.jpg", minus="a bar", weights=[2, 0.5, 1.5, 0.25]
        )
    wanted = slow(model, pictures, query)
    assert names(hits) == [name for name, _ in wanted]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted], abs=2e-6)


@given(
    vectors=st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.1, 5), min_size=5, max_size=5),
    wanted=st.integers(1, 5),
)
def test_the_arithmetic(vectors: list[list[float]], weights: list[float], wanted: int) -> None:
    rows = np.array(vectors, dtype=np.float32) + np.float32(1e-3)
    texts, minus = [str(n) for n in range(len(rows))][:wanted], [str(n) for n in range(len(rows))][wanted:]
    parts = parts_of(texts, None, minus, weights[: len(rows)])
    total = [0.0, 0.0, 0.0]
    for number, row in enumerate(rows.tolist()):
        length = sum(value * value for value in row) ** 0.5 or 1.0
        sign = 1 if number < wanted else -1
        total = [t + sign * weights[number] * value / length for t, value in zip(total, row, strict=True)]
    length = sum(value * value for value in total) ** 0.5

    def ask() -> np.ndarray:
        return query_vector(parts, lambda asked: rows[[int(text) for text in asked]], lambda _: rows[0])

    length /= sum(weights[: len(rows)])
    if length < 1e-4:
        with pytest.raises(ProclipError, match="cancel each other out"):
            ask()
    elif length > 1.01e-4:
        assert ask().tolist() == pytest.approx(unit(total).tolist(), abs=1e-5)


def test_texts_of_any_length(model: ProCLIP, index: Path) -> None:
    with Index.open(index, model) as opened:
        assert (
            len(opened.search("The canvas around it is white, and there is a square in the middle of it. " * 12)) == 4
        )


def test_pictures_of_the_index_need_no_model(
    pictures: Path, index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("proclip.search.index.open_encoder", lambda *_: pytest.fail("the model is loaded"))
    with Index.open(index) as opened:
        hits = opened.search(image=pictures / "c.jpg")
        assert names(hits)[0] == "c.jpg" and hits[0].score == 1
        assert names(opened.neighbours(hits[0])) == names(hits)[1:]
        assert opened.search(near=pictures / "c.jpg") == hits


def test_a_picture_from_elsewhere_as_file_and_in_memory(
    pictures: Path, model: ProCLIP, index: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(pictures / "c.jpg", tmp_path / "elsewhere.jpg")
    turned = save(drawn(3, (20, 30)), tmp_path / "turned.png", orientation=8)
    with Index.open(index, model) as opened:
        assert names(opened.search(image=copy, k=1)) == ["c.jpg"]
        assert names(opened.search(image=Image.open(copy), k=1)) == ["c.jpg"]
        by_file, upright = opened.search(image=turned), opened.search(image=read(turned).image)
        assert by_file == upright


def test_what_a_hit_says(pictures: Path, index: Path) -> None:
    with Index.open(index) as opened:
        found = {hit.path.name: hit for hit in opened.search(image=pictures / "a.png")}
    assert found["a.png"].path == pictures / "a.png"
    assert (found["a.png"].width, found["a.png"].height) == (30, 20)
    assert found["a.png"].taken == datetime(2021, 5, 1, 10)  # EXIF
    assert found["b.png"].taken == datetime(2022, 6, 1, 11)  # the file's time
    small = Image.open(__import__("io").BytesIO(found["c.jpg"].thumbnail(15)))
    assert small.format == "PNG" and small.size == (15, 10)
    copied = replace(found["c.jpg"], path=pictures / "gone.jpg", copies=(pictures / "too.jpg", pictures / "c.jpg"))
    assert copied.thumbnail(15) == found["c.jpg"].thumbnail(15)
    with pytest.raises(ProclipError, match=r"gone\.jpg: No such file"):
        replace(copied, copies=()).thumbnail()
    save(drawn(3, (800, 600)), pictures / "large.jpg")
    assert read(pictures / "large.jpg", at_least=256).image.size == (400, 300)


@pytest.mark.parametrize(
    ("after", "before", "found"),
    [
        ("2022", None, {"b.png", "c.jpg", "d.webp"}),
        (None, "2022", {"a.png"}),
        ("2022-06-01", "2022-06-02", {"b.png"}),
        ("2022-06-01 11:00", None, {"b.png", "c.jpg", "d.webp"}),
        ("2022-06-01T11:00:01", None, {"c.jpg", "d.webp"}),
        (date(2023, 7, 1), date(2023, 7, 2), {"c.jpg"}),
        (datetime(2023, 7, 1, 12, 0, 0), datetime(2023, 7, 1, 12, 0, 1), {"c.jpg"}),
        ("2024", None, set()),
        ("0001", "9999", {"a.png", "b.png", "c.jpg", "d.webp"}),
        (date.max, None, set()),
        (None, date.min, set()),
    ],
)
def test_dates(
    after: str | date | None, before: str | date | None, found: set[str], pictures: Path, index: Path
) -> None:
    with Index.open(index) as opened:
        assert set(names(opened.search(image=pictures / "a.png", after=after, before=before))) == found


@pytest.mark.parametrize("wrong", ["24", "2024-13", "2024-02-30", "yesterday", "2024-05-31 25:00", "2024-5-1", ""])
def test_dates_that_are_none(wrong: str) -> None:
    with pytest.raises(ProclipError, match=r"after: .* is not a date"):
        filter_of(wrong, None, None)
    with pytest.raises(ProclipError, match="no picture is taken at or after 2024 and before 2023"):
        filter_of("2024", "2023", None)


def test_folders_and_near(pictures: Path, model: ProCLIP, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(pictures / "a.png", pictures / "below" / "copy.png")
    update_index(index, model=model)
    with Index.open(index, model) as opened:
        hits = opened.search(image=pictures / "a.png", folder=pictures / "below")
        assert names(hits) == ["copy.png", "d.webp"] and not hits[0].copies
        (pictures / "bel").mkdir()
        assert opened.search(image=pictures / "a.png", folder=pictures / "bel") == []
        (pictures / "below").rename(pictures / "not mounted")  # what the index has is found all the same
        assert names(opened.search(image=pictures / "a.png", folder=pictures / "below")) == ["copy.png", "d.webp"]
        monkeypatch.setattr("proclip.search.index.NEAR", 2)
        closest = set(names(opened.search(near=pictures / "a.png", k=2)))
        assert len(closest) == 2
        ranked = opened.search("a red square", near=pictures / "a.png", k=2)
        everything = [name for name in names(opened.search("a red square")) if name in closest]
        assert names(ranked) == everything


def test_equal_scores_are_in_the_order_of_their_paths(model: ProCLIP, tmp_path: Path) -> None:
    folder = tmp_path / "same"
    for name in ("z.png", "m.bmp", "a.tiff", "q.png"):
        save(drawn(7), folder / name, taken="2020:01:01 00:00:00" if name == "q.png" else None)
    save(drawn(8), folder / "0.png")
    update_index(tmp_path / "index", [folder], model)
    with Index.open(tmp_path / "index", model) as opened:
        hits = opened.search(image=folder / "m.bmp")
        assert names(hits) == ["a.tiff", "m.bmp", "q.png", "z.png", "0.png"]
        assert names(opened.search(image=folder / "m.bmp", k=2)) == ["a.tiff", "m.bmp"]


def test_an_open_index_sees_what_changes(pictures: Path, model: ProCLIP, index: Path) -> None:
    with Index.open(index, model) as opened:
        assert len(opened) == 4
        save(drawn(70), pictures / "new.png")
        update_index(index)
        assert len(opened) == 5 and names(opened.search(image=pictures / "new.png", k=1)) == ["new.png"]


def test_what_is_refused(pictures: Path, model: ProCLIP, index: Path, tiny_clip_path: Path, tmp_path: Path) -> None:
    with Index.open(index, model) as opened:
        for message, arguments in {
            "nothing is asked: give a text, a picture, or near": {},
            "only what is not wanted is asked": {"minus": "a bar"},
            "text 1 of 2 is empty": {"text": ["a", " "]},
            "minus: a text of it is empty": {"text": "a", "minus": " "},
            "2 weights for 3 parts: .* texts .1., pictures .1., minus .1.": {
                "text": "a", "image": pictures / "a.png", "minus": "b", "weights": [1, 2],
            },
            "weights .--weights.: numbers from 0 to 10 are wanted, not int .-1.: what is not wanted goes into minus": {
                "text": "a", "weights": [-1],
            },
            "from 0 to 10 are wanted, not float .nan.": {"text": "a", "weights": [float("nan")]},
            "from 0 to 10 are wanted, not float .10.5.": {"text": "a", "weights": [10.5]},
            "from 0 to 10 are wanted, not str .'x'.": {"text": "a", "weights": ["x"]},
            "weights: numbers from 0 to 10 are wanted, not int .5.": {"text": "a", "weights": 5},
            "give a text or a picture with a weight above 0": {"text": "a", "weights": [0]},
            "texts: a string or a list of strings is wanted, not int .5.": {"text": 5},
            "text 1 of 2 is not a string but int .5.": {"text": ["a", 5]},
            "image: paths and Pillow images are wanted, not int .5.": {"image": 5},
            "image: paths and Pillow images are wanted, not float .1.0.": {"image": ["a", 1.0]},
            "picture: a path is wanted, not str": {"image": "a\0b"},
            "minus: texts, paths .as Path. and Pillow images are wanted, not int .5.": {"text": "a", "minus": 5},
            "after: 5 is not a date": {"text": "a", "after": 5},
            "near: one path or Pillow image is wanted, not list": {"text": "a", "near": [pictures / "a.png"]},
            "folder: a path is wanted, not str": {"text": "a", "folder": "a\0b"},
            "folder: a path is wanted, not int .5.": {"text": "a", "folder": 5},
            "folder: there is no folder .*nowhere, and the index has no picture below it": {
                "text": "a", "folder": tmp_path / "nowhere",
            },
            "k is True": {"text": "a", "k": True},
            "cancel each other out": {"text": "a bar", "minus": "a bar"},
            "k is 0": {"text": "a", "k": 0},
            "nowhere.png: No such file": {"image": tmp_path / "nowhere.png"},
        }.items():  # fmt: skip
            with pytest.raises(ProclipError, match=message):
                opened.search(**arguments)  # type: ignore[arg-type]
        with pytest.raises(ProclipError, match=r"the vector has shape \[3\], wanted \[16\]"):
            opened.search_vector(np.ones(3, dtype=np.float32))
        with pytest.raises(ProclipError, match="zero, or a number of it is not finite"):
            opened.search_vector(np.zeros(16, dtype=np.float32))
    with Index.open(index, str(tiny_clip_path)) as opened, pytest.raises(ProclipError, match="vectors of two models"):
        opened.search("a red square")


def test_a_model_with_the_same_image_side_may_ask(pictures: Path, model: ProCLIP, index: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    model.save_pretrained(moved)
    with Index.open(index, str(moved)) as opened:
        assert len(opened.search("a red square")) == 4


def test_an_index_whose_first_run_failed_has_no_pictures_yet(model: ProCLIP, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="nowhere"):
        update_index(tmp_path / "index", [pictures], str(tmp_path / "nowhere"))
    with Index.open(tmp_path / "index") as opened, pytest.raises(ProclipError, match="has no pictures yet: proclip"):
        opened.search("a red square")
    with pytest.raises(ProclipError, match="has no pictures yet: proclip index FOLDER --model MODEL"):
        Index.open(tmp_path / "index", model)


def test_an_empty_index_finds_nothing(model: ProCLIP, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    update_index(tmp_path / "index", [tmp_path / "none"], model)
    with Index.open(tmp_path / "index", model) as opened:
        assert opened.search("a red square") == [] and opened.search("a", after="2020", k=3) == []
        assert opened.stats["pictures"] == 0 and opened.stats["search"] == "exact"


def test_a_folder_that_cannot_be_written_is_searched(pictures: Path, index: Path, tmp_path: Path) -> None:
    touch(index / "catalogue.sqlite", "2020-01-01T00:00:00")
    for path in (*index.iterdir(), index):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with Index.open(index) as opened:
            assert len(opened.search(image=pictures / "a.png")) == 4
    finally:
        index.chmod(0o755)
