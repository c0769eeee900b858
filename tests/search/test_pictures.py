"""Picture files: which are found, and that each is read upright, its first frame, with its date."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from picture_files import drawn, save
from PIL import Image

from proclip.errors import ProclipError
from proclip.search.pictures import HEIC_EXTRA, decode, read, walk

HALVES = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)).resize(
    (40, 20), Image.Resampling.NEAREST
)
"""Red on the left, blue on the right."""


def seen(folder: Path, leave_out: Path | None = None) -> tuple[list[str], list[tuple[str, str]]]:
    faults: list[tuple[str, str]] = []
    found = walk(str(folder), str(leave_out), lambda path, reason: faults.append((path, reason)))
    return sorted(str(Path(file.path).relative_to(folder)) for file in found), faults


def test_walk_finds_pictures_by_their_extension_and_leaves_hidden_ones_out(tmp_path: Path) -> None:
    names = ["a.jpg", "b.JPEG", "c.png", "d.webp", "e.gif", "f.bmp", "g.tif", "h.TIFF", "i.heic", "below/j.jpg"]
    others = ["k.txt", ".l.jpg", ".thumbnails/m.jpg", "index/n.jpg", "o.jpg.part"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert seen(tmp_path, tmp_path / "index") == (sorted(names), [])


def test_walk_says_what_it_cannot_read(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.jpg"
    Path(os.fsdecode(name)).write_bytes(b"x")
    (tmp_path / "a.jpg").write_bytes(b"x")
    found, faults = seen(tmp_path)
    assert found == ["a.jpg"]
    assert [reason for _, reason in faults] == ["its name is not valid UTF-8"]


@pytest.mark.parametrize(
    ("orientation", "size", "first", "last"),
    [
        (1, (40, 20), "red", "blue"),
        (3, (40, 20), "blue", "red"),
        (6, (20, 40), "red", "blue"),
        (8, (20, 40), "blue", "red"),
    ],
)
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff"])
def test_exif_turns_a_picture(
    orientation: int, size: tuple[int, int], first: str, last: str, extension: str, tmp_path: Path
) -> None:
    image = read(save(HALVES, tmp_path / f"a.{extension}", orientation=orientation)).image
    ends = [image.getpixel((2, 2)), image.getpixel((size[0] - 3, size[1] - 3))]
    assert image.size == size and image.mode == "RGB"
    assert [("red" if pixel[0] > 128 else "blue") for pixel in ends] == [first, last]


def test_a_gif_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    assert read(tmp_path / "a.gif").image.getpixel((4, 4)) == (255, 0, 0)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (10, 20, 30, 0)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").image.getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("2024:05:31 18:20:05", "2024-05-31T18:20:05"),
        (None, None),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("2024:02:31 18:20:05", None),
    ],
)
def test_the_date_is_when_it_was_taken(written: str | None, taken: str | None, tmp_path: Path) -> None:
    assert read(save(drawn(0), tmp_path / "a.jpg", taken=written)).taken == taken


@pytest.mark.parametrize("kind", ["text", "cut", "empty", "missing", "bomb"])
def test_what_is_no_picture_is_an_error_of_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(drawn(0, (200, 200)), tmp_path / "a.jpg")
    if kind == "text":
        path.write_text("no picture")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:900])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        path.unlink()
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ProclipError, match=r"a\.jpg") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_damaged_exif_does_no_harm(tmp_path: Path) -> None:
    damaged = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + b"\xff" * 30
    drawn(0).save(tmp_path / "a.jpg", exif=damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = read(tmp_path / "a.jpg")
    assert picture.image.size == (30, 20) and picture.taken is None


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="the extra heic is not installed")
def test_heic_is_read(tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    HALVES.resize((80, 64)).save(tmp_path / "a.heic", quality=90)
    image = read(tmp_path / "a.heic").image
    red, blue = image.getpixel((4, 4)), image.getpixel((75, 60))
    assert image.size == (80, 64) and red[0] > 200 and blue[2] > 200


def test_heic_without_the_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proclip.search.pictures._heic", lambda: False)
    with pytest.raises(ProclipError) as caught:
        decode(b"x", "a.heic")
    assert HEIC_EXTRA in str(caught.value)
