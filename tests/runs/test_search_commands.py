"""``proclip index`` and ``proclip search`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from proclip.cli import main


@pytest.fixture()
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number, name in enumerate(["a.png", "b.png", "below/c.jpg"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture()
def index(pictures: Path, tiny_proclip_path: Path, tmp_path: Path) -> Path:
    assert main(["index", str(pictures), "--model", str(tiny_proclip_path), "--index", str(tmp_path / "index")]) == 0
    return tmp_path / "index"


def found(capsys: pytest.CaptureFixture[str], index: Path, *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["search", *arguments, "--index", str(index), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("proclip: error: ") and error.count("\n") == 1
    return error


def test_index_says_what_it_did(
    pictures: Path, tiny_proclip_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "index"
    assert main(["index", str(pictures), "--model", str(tiny_proclip_path), "--index", str(index)]) == 0
    assert capsys.readouterr().out.startswith("3 pictures in 3 files: 3 encoded now, ")
    (pictures / "a.png").unlink()
    for number in range(12):
        (pictures / f"broken{number:02d}.jpg").write_text(f"no picture {number}")
    assert main(["index", "--index", str(index)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["2 pictures in 2 files: 0 encoded now, 1 left", "12 cannot be read:"]
    assert lines[2] == f"  {pictures / 'broken00.jpg'}: broken00.jpg is not a picture" and len(lines) == 13
    assert lines[-1] == "  and 2 more"


def test_stats(pictures: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("a red square\n\na bar\n")
    capsys.readouterr()
    stats = ["index", "--stats", "--index", str(index)]
    assert main([*stats, "--json", "--texts", str(tmp_path / "texts.txt")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pictures"], found["files"], found["unreadable"], found["width"]) == (3, 3, 0, 16)
    assert found["folders"] == [str(pictures)] and found["search"] == "exact"
    assert found["recall_of_texts"] == {"at_10": 1.0, "queries": 2, "of": "texts"}
    assert main(stats) == 0
    assert "exact" in capsys.readouterr().out
    assert "--stats only reads" in refused(capsys, *stats, str(pictures))
    (tmp_path / "latin.txt").write_bytes("Füchse".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n")
    for name, said in {"latin": "it is not UTF-8", "empty": "it has no text", "none": "No such file"}.items():
        wanted = f"--texts {tmp_path / name}.txt: {said}"
        line = refused(capsys, *stats, "--texts", str(tmp_path / f"{name}.txt"))
        assert wanted in line and "texts in UTF-8, one a line, are wanted" in line
    assert "go with --stats" in refused(capsys, "index", "--json", "--index", str(index))


def test_search_by_everything(pictures: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_picture = found(capsys, index, "--image", str(pictures / "b.png"))
    assert by_picture[0]["path"] == str(pictures / "b.png") and by_picture[0]["score"] == 1
    assert set(by_picture[0]) == {"path", "score", "width", "height", "taken", "copies"}
    everything = found(
        capsys, index, "a red square", "a bar", "--image", str(pictures / "b.png"), "--minus", "a column",
        "--minus-image", str(pictures / "a.png"), "--weights", "1,0.5,1,0.3,0.2", "--near", str(pictures / "b.png"),
        "--after", "2020", "--before", "2100", "--folder", str(pictures / "below"), "-k", "2",
    )  # fmt: skip
    assert [hit["path"] for hit in everything] == [str(pictures / "below" / "c.jpg")]
    alone = found(capsys, index, "--minus-image", str(pictures / "a.png"), "--near", str(pictures / "b.png"))
    assert alone[0]["path"] == str(pictures / "b.png")


def test_search_prints_paths_or_a_table_or_pictures(
    pictures: Path, index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ["search", "--image", str(pictures / "a.png"), "--index", str(index)]
    capsys.readouterr()
    assert main([*ask, "--paths", "-k", "1"]) == 0
    assert capsys.readouterr().out == f"{pictures / 'a.png'}\n"
    monkeypatch.setenv("COLUMNS", "200")
    assert main(ask) == 0
    out = capsys.readouterr().out
    assert "1.0000" in out and "30 x 20" in out and str(pictures / "below" / "c.jpg") in out and "\x1b" not in out
    monkeypatch.setattr("proclip.runs.search.picture_protocol", lambda out, environment: "kitty")
    (pictures / "b.png").unlink()
    assert main(ask) == 0
    assert capsys.readouterr().out.count("\x1b_Ga=T") == 2  # the third is gone, its line is not
    assert main([*ask, "--after", "2100"]) == 0
    assert capsys.readouterr().out == "nothing found\n"


def test_search_opens_the_best(
    pictures: Path, index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    monkeypatch.setattr("proclip.runs.search.open_in_viewer", opened.append)
    found(capsys, index, "--image", str(pictures / "a.png"), "--open")
    found(capsys, index, "--image", str(pictures / "a.png"), "--open", "--after", "2100")
    assert opened == [pictures / "a.png"]


def test_mistakes_are_one_line(
    pictures: Path, index: Path, tiny_clip_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["search", "--index", str(index)]
    assert "nothing is asked" in refused(capsys, *search)
    assert "--weights 'a,b': numbers with commas between" in refused(capsys, *search, "x", "--weights", "a,b")
    assert "weights (--weights): numbers from 0 to 10" in refused(capsys, *search, "x", "--weights", "11")
    assert "there is no folder" in refused(capsys, *search, "x", "--folder", str(tmp_path / "nowhere"))
    assert "k is 0" in refused(capsys, *search, "x", "-k", "0")
    assert "is not a date" in refused(capsys, *search, "x", "--after", "may")
    assert "make one: proclip index" in refused(capsys, "search", "x", "--index", str(tmp_path / "none"))
    assert "vectors of two models" in refused(capsys, *search, "x", "--model", str(tiny_clip_path))
    assert "is missing" in refused(capsys, "index", str(tmp_path / "none"), "--index", str(index))
    assert "say which model" in refused(capsys, "index", str(pictures), "--index", str(tmp_path / "new"))
    file = tmp_path / "a file"
    file.write_text("")
    assert "an index is a folder" in refused(capsys, "index", str(pictures), "--model", "x", "--index", str(file))
