"""The dataset folder: what it reads, and one clear line for what it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from proclip.data.dataset import ImageCaptions, caption_of, check_captions
from proclip.errors import ProclipError
from proclip.models.image_files import read_image


def dataset(folder: Path, text: str) -> ImageCaptions:
    (folder / "metadata.jsonl").write_text(text)
    return ImageCaptions(folder)


def test_splits_and_columns(tiny_world: Path) -> None:
    data = ImageCaptions(tiny_world)
    assert len(data.select("align")) == 9
    assert {s.key for s in data.select("test")} == {"red-square", "green-bar", "blue-column"}
    sample = data["red-square"]
    assert sorted(sample.captions) == ["long", "name_de", "name_en", "short"]
    assert caption_of(sample, "name_de") == "rot square"


def test_without_splits_every_row_is_in_every_split(tmp_path: Path) -> None:
    data = dataset(tmp_path, '{"file_name": "a.png", "text": "a"}\n{"file_name": "b.png", "split": "test"}\n')
    assert [s.key for s in data.select("test")] == ["a.png", "b.png"]
    assert [s.key for s in data.select("align")] == ["a.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json}\n", "line 1: not JSON"),
        ('{"key": "a"}\n', "line 1: no text in 'file_name', which names the picture; it has key"),
        ("[1]\n", "line 1: no text in 'file_name', which names the picture; it has nothing"),
        ('{"file_name": "a.png", "key": {"a": 1}}\n', "line 1: 'key' is a text or a number, not {'a': 1}"),
        ('{"file_name": "a.png", "text": "half \\ud83d"}\n', "line 1: not JSON: 'utf-8' codec can't encode"),
        ('{"file_name": "a.png"}\n{"file_name": "a.png"}\n', "line 2: key 'a.png' is there twice"),
        ("", "has no rows"),
    ],
)
def test_bad_rows(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProclipError, match=message):
        dataset(tmp_path, text)


def test_a_key_may_be_a_number_or_left_out(tmp_path: Path) -> None:
    rows = ['{"file_name": "a.png", "key": null}', '{"file_name": "b.png", "key": 7, "text": "\\ud83d\\ude00 \\u00e4"}']
    data = dataset(tmp_path, "\n".join(rows)).select("any")
    assert [(one.key, dict(one.captions)) for one in data] == [("a.png", {}), ("7", {"text": "😀 ä"})]


def test_missing_things_are_named(tmp_path: Path, tiny_world: Path) -> None:
    with pytest.raises(ProclipError, match=r"it must be a folder of images with metadata\.jsonl"):
        ImageCaptions(tmp_path)
    data = ImageCaptions(tiny_world)
    assert [s.key for s in data.select("not test")] == [s.key for s in data.select("align")]
    with pytest.raises(ProclipError, match="no rows of split 'train'; splits: align, pretrain, test"):
        data.select("train")
    with pytest.raises(ProclipError, match="no sample with key 'x'"):
        data["x"]
    with pytest.raises(ProclipError, match=r"'red-bar' has no caption column 'name_fr'; columns: long, name_de"):
        check_captions(data.select("align"), ["short", "name_fr"])


def test_empty_caption(tmp_path: Path) -> None:
    data = dataset(tmp_path, '{"file_name": "a.png", "text": "  "}\n')
    with pytest.raises(ProclipError, match=r"sample 'a\.png': caption 'text' is empty"):
        caption_of(data["a.png"], "text")


def test_images(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match=r"a\.png is missing"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ProclipError, match=r"b\.png cannot be read"):
        read_image(tmp_path / "b.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "c.png")
    assert read_image(tmp_path / "c.png").getpixel((1, 1)) == (255, 255, 255)


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    sample = dataset(tmp_path, '{"file_name": "a\\u0000.png", "text": "a"}\n').select("any")[0]
    assert sample.picture.size == 0
    for read in (sample.picture.open, sample.picture.content, sample.picture.stamp):
        with pytest.raises(ProclipError, match="image"):
            read()
