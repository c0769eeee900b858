"""Lists, saved data sets, mixtures and joined captions: one form, one clear line for what cannot be read."""

from __future__ import annotations

import csv
import json
import shutil
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from shard_files import picture, sample, write_shard, write_shards

from proclip.cli import main
from proclip.data import columns
from proclip.data.checking import inspect
from proclip.data.columns import write_table
from proclip.data.dataset import ImageCaptions, check_captions, check_images
from proclip.data.pictures import FilePicture
from proclip.data.tar_index import index_folder
from proclip.errors import ProclipError

ROWS = [
    {"filepath": "a.png", "title": 'Grün, tab\tand "quotes"', "split": "train"},
    {"filepath": "sub/b.png", "title": "two\nlines", "split": "test"},
]


def write_list(path: Path, rows: list[dict[str, Any]]) -> Path:
    (path.parent / "sub").mkdir(parents=True, exist_ok=True)
    for row in rows:
        Image.new("RGB", (8, 8)).save(path.parent / row["filepath"])
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_a_list_of_pictures(tmp_path: Path, ending: str) -> None:
    path = write_list(tmp_path / f"list.{ending}", ROWS)
    data = ImageCaptions(path)
    assert [(one.key, dict(one.captions), one.splits) for one in data.samples] == [
        (row["filepath"], {"title": row["title"]}, {row["split"]}) for row in ROWS
    ]
    assert data["sub/b.png"].picture.open().size == (8, 8) and data.splits == ["test", "train"]
    assert [one.key for one in data.select("not test")] == ["a.png"]
    check_images(data.samples)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ProclipError, match=r"sample 'a\.png': image .*a\.png is missing"):
        check_images(data.samples)
    write_list(path, [ROWS[0], ROWS[1], ROWS[1] | {"key": "a.png"}] if ending == "jsonl" else [ROWS[0], ROWS[0]])
    where = {"jsonl": "line 5", "parquet": "row 2"}.get(ending, "line 3")
    with pytest.raises(ProclipError, match=f"list.{ending}, {where}: key 'a.png' is there twice"):
        ImageCaptions(path)


def test_the_digest_is_of_keys_names_and_captions_however_they_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [ImageCaptions(write_list(tmp_path / f"x.{kind}", ROWS)).samples for kind in ("csv", "parquet", "jsonl")]
    assert len({samples.digest(["title"]) for samples in kinds}) == 1
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet", row_group_size=1)
    assert ImageCaptions(tmp_path / "x.parquet").samples.digest(["title"]) == kinds[0].digest(["title"])
    others = [kinds[0].digest([]), kinds[0][:1].digest(["title"]), kinds[0][1:].digest(["title"])]
    changed = write_list(tmp_path / "y.csv", [ROWS[0], ROWS[1] | {"title": "two\nline"}])
    digest = kinds[0].digest(["title"])
    assert len({digest, *others, ImageCaptions(changed).samples.digest(["title"])}) == 5
    monkeypatch.setattr(columns, "ROWS_A_BATCH", 1)
    assert kinds[0].digest(["title"]) == digest


def test_many_rows_are_columns_and_slices(tmp_path: Path) -> None:
    rows = [
        {"file_name": f"{n}.png", "text": f"text {n}", **({"more": "x"} if n > 15_000 else {})} for n in range(20_000)
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = ImageCaptions(tmp_path).select("any")
    assert len(samples) == 20_000 and samples[-1].captions == {"text": "text 19999", "more": "x"}
    assert samples.complete_columns() == ["text"] and samples.first_incomplete(["more"]) == 0
    assert [one.key for one in samples[15_001::2000]] == ["15001.png", "17001.png", "19001.png"]
    assert list(samples[3:5].captions(["text", "more"])) == [
        ("3.png", "text", "text 3"), ("3.png", "more", None), ("4.png", "text", "text 4"), ("4.png", "more", None),
    ]  # fmt: skip
    with pytest.raises(ProclipError, match=r"sample '0\.png' has no caption column 'more'"):
        check_captions(samples, ["text", "more"])
    kept = ImageCaptions(tmp_path, incomplete="leave_out").select("any", ["text", "more"])
    assert [len(kept), kept[0].key] == [4_999, "15001.png"]


def test_of_a_list_of_texts_little_is_in_memory(tmp_path: Path) -> None:
    """What Arrow holds, which is not what is mapped; without the mapping it is the texts' own bytes."""
    rows = ({"file_name": f"{n}.png", "text": f"{n} " + "a long caption " * 20} for n in range(10_000))
    path = tmp_path / "metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = pa.total_allocated_bytes()
    samples = ImageCaptions(tmp_path).select("any")
    assert len(samples) == 10_000 and samples[9_999].captions["text"].startswith("9999 ")
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full is Linux's /dev/full")
def test_no_room_for_columns_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n')
    monkeypatch.setattr(columns, "TemporaryFile", partial(Path("/dev/full").open, "wb"))
    monkeypatch.setattr(columns, "gettempdir", lambda: "/full")
    with pytest.raises(ProclipError, match=r"metadata\.jsonl: /full has no room for its columns: let TMPDIR name"):
        ImageCaptions(tmp_path).select("any")


@pytest.mark.parametrize("several", [True, False])
def test_a_saved_data_set(tmp_path: Path, several: bool) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "n": datasets.Value("int8")}
    )
    rows = {"image": [{"bytes": picture(n), "path": None} for n in range(4)], "text": [f"t{n}" for n in range(4)]}
    one = datasets.Dataset.from_dict({**rows, "n": [0, 1, 2, 3]}, features=features)
    whole = datasets.DatasetDict({"train": one.select([3, 0, 1]), "test": one.select([2])}) if several else one
    whole.save_to_disk(tmp_path / "saved")
    data = ImageCaptions(tmp_path / "saved")
    assert data.splits == (["test", "train"] if several else [])
    first = data.select("train")[0]
    number = 3 if several else 0
    assert (first.key, first.captions) == ("train/0" if several else "0", {"text": f"t{number}"})
    assert first.picture.content() == picture(number) and first.picture.open().size == (40, 32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere",
            r"no dataset at .*nowhere: it must be a folder of images with metadata\.jsonl or",
        ),
        ("notes.txt", r"notes\.txt is no dataset, which is a folder of images"),
        (
            "list.csv",
            r"list\.csv, line 2: no text in 'file_name' or .* 'path', which names the picture; it has picture, text",
        ),
        ("twice.csv", r"twice\.csv: the column 'text' is there twice"),
        ("open.csv", r"open\.csv, after line 2: not CSV: unexpected end"),
        (
            "cells.parquet",
            r"cells\.parquet: no text in .*; it has image \(struct<bytes: binary, path: string>\), text \(string\)",
        ),
        ("shards", r"1 of 1 shards are not indexed \(0\.tar \.\.\.\): run  proclip data index"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "list.csv").write_text("picture,text\na.png,b\n")
    (tmp_path / "twice.csv").write_text("file_name,text,text\na.png,b,c\n")
    (tmp_path / "open.csv").write_text('file_name,text\na.png,b\nb.png,"c\nd\n')
    cell = pa.array([{"bytes": b"x", "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    parquet.write_table(pa.table({"image": cell, "text": ["a"]}), tmp_path / "cells.parquet")
    write_shard(tmp_path / "shards" / "0.tar", sample("a", 1, "a"))
    with pytest.raises(ProclipError, match=message):
        ImageCaptions(tmp_path / name)


def run(*command: str | Path) -> int:
    return main(["data", *map(str, command)])


def test_dreamlips_table_is_joined_by_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_shards(tmp_path / "cc3m", samples=4)
    assert run("index", folder, "--workers", "1") == 0
    table = tmp_path / "captions.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Image Path", "raw_caption", "shortSV_captions", "longSV_captions"])
        for n in (6, 0, 99, 3, 2, 7, 3):  # not the shards' order; a dead link; the same row twice
            writer.writerow([f"https://pictures.org/{n}.jpg", f"raw, {n}", f"short {n}", f"long {n}.\nTwo lines, é."])
    columns = "raw=raw_caption,short=shortSV_captions,long=longSV_captions"
    assert run("join", folder, table, "--on", "url=Image Path", "--columns", columns) == 0
    said = capsys.readouterr().err
    assert "5 of 8 samples have a row" in said and "3 samples have none, such as 00000/000000001" in said
    assert "1 of 7 rows belong to no sample; 1 repeat another" in said
    data = ImageCaptions(folder, incomplete="leave_out")
    found = {one.key[-1:] + one.key[:5]: dict(one.captions) for one in data.select("x", ["short"])}
    assert found == {
        f"{n % 4}{n // 4:05d}": {"caption": f"caption {n}", "raw": f"raw, {n}", "short": f"short {n}",
                                 "long": f"long {n}.\nTwo lines, é."} for n in (0, 2, 3, 6, 7)
    }  # fmt: skip
    assert run("join", folder, table, "--on", "url=Image Path", "--columns", columns) == 0  # again, in its own place
    assert run("join", folder, table, "--on", "url=Image Path", "--columns", "short=raw_caption") == 2
    assert "has a caption column 'short'" in capsys.readouterr().err
    write_shard(folder / "00002.tar", sample("new", 50, "new"))
    index_folder(folder, workers=1)
    with pytest.raises(ProclipError, match=r"has other samples than when .* was joined: delete it and join again"):
        ImageCaptions(folder)


def test_joining_by_key_and_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, table = write_shards(tmp_path / "shards", samples=2), tmp_path / "t.jsonl"
    write_shard(folder / "00002.tar", [*sample("000000000", 8, "x"), *sample("only", 9, "y")])
    index_folder(folder, workers=1)
    rows = [{"key": "000010001", "de": "drei"}, {"key": "only", "de": "neun"}, {"key": "00002/000000000", "de": "acht"}]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("join", folder, table, "--on", "key", "--columns", "de") == 0
    data = ImageCaptions(folder)
    texts = {one.key: one.captions["de"] for one in data.samples if "de" in one.captions}
    assert texts == {"00001/000010001": "drei", "00002/only": "neun", "00002/000000000": "acht"}
    for extra, message in (
        ({"key": "000000000", "de": "?"}, "'000000000' is in several shards"),
        ({"key": "only", "de": "another"}, "1 values of 'key' have rows with different captions: 'only'"),
    ):
        table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, extra]))
        assert run("join", folder, table, "--on", "key", "--columns", "fr=de") == 2
        assert message in capsys.readouterr().err
    table.write_text('{"key": "elsewhere", "de": "?"}\n')
    assert run("join", folder, table, "--on", "key", "--columns", "fr=de") == 2
    assert "such as 'elsewhere', the samples' key such as '00000/000000000'" in capsys.readouterr().err
    assert run("join", folder, table, "--on", "key", "--columns", "fr") == 2
    assert "has no column 'fr'; columns: key, de" in capsys.readouterr().err


def test_joining_many_columns_with_long_names(tmp_path: Path) -> None:
    folder, table = write_shards(tmp_path / "shards", samples=2), tmp_path / "t.jsonl"
    index_folder(folder, workers=1)
    names = [f"{n:02d}{'x' * 30}" for n in range(12)]
    table.write_text(json.dumps({"key": "00000/000000000", **{name: f"text of {name}" for name in names}}) + "\n")
    for _ in range(2):  # the second time into the same file
        assert run("join", folder, table, "--on", "key", "--columns", ",".join(names)) == 0
    first = next(one for one in ImageCaptions(folder).samples if one.key == "00000/000000000")
    assert {name: first.captions[name] for name in names} == {name: f"text of {name}" for name in names}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (",", "--columns is NEW[=OLD],..., names of columns, not ','"),
        ("=de", "--columns is NEW[=OLD],..., names of columns, not '=de'"),
        ("fr=", "--columns is NEW[=OLD],..., names of columns, not 'fr='"),
        ("fr=de,", "--columns is NEW[=OLD],..., names of columns, not 'fr=de,'"),
        ("fr=de,fr=key", "--columns names 'fr' twice"),
        ("a/b=de", "a name of letters, digits, _, . and -, not 'a/b': give it one, NEW=OLD"),
        (".=de", "not '.'"),
        (" fr=de", "not ' fr'"),
        *((f"{name}=de", f"{name!r} is no name for captions") for name in ("key", "url", "split", "splits", "image")),
    ],
)
def test_names_of_joined_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: str, message: str
) -> None:
    folder, table = write_shards(tmp_path / "shards", samples=1), tmp_path / "t.jsonl"
    index_folder(folder, workers=1)
    table.write_text('{"key": "000000000", "de": "null"}\n')
    assert run("join", folder, table, "--on", "key", "--columns", columns) == 2
    assert message in capsys.readouterr().err
    assert not (folder / ".proclip-index" / "joined").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("t.csv", "key,de\n", "t.csv has no rows"),
        ("t.jsonl", "", "t.jsonl has no rows"),
        ("t.parquet", "", "t.parquet has no rows"),
        ("t.csv", None, "there is no file "),
        ("t.parquet", None, "there is no file "),
        ("t.csv", b"key,de\n1,\xff\n", "t.csv is not UTF-8"),
        ("t.jsonl", '{"key": 1, "de": ["a", "b"]}\n', "t.jsonl, line 1: 'de' is a text or a number, not ['a', 'b']"),
        ("t.jsonl", '{"key": true, "de": "a"}\n', "t.jsonl, line 1: 'key' is a text or a number, not True"),
        ("t.jsonl", '{"key": 1, "de": "\\ud800"}\n', "t.jsonl, line 1: not JSON: 'utf-8' codec can't encode"),
        ("t.jsonl", "[" * 100_000, "t.jsonl, line 1: not JSON: nested too deeply"),
    ],
)
def test_tables_that_cannot_be_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: str | bytes | None, message: str
) -> None:
    folder, table = write_shards(tmp_path / "shards", samples=1), tmp_path / file
    index_folder(folder, workers=1)
    if content == "" and table.suffix == ".parquet":
        parquet.write_table(pa.table({"key": pa.array([], pa.string()), "de": pa.array([], pa.string())}), table)
    elif content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run("join", folder, table, "--on", "key", "--columns", "de") == 2
    said = capsys.readouterr().err
    assert message in said and str(table) in said


def test_a_joined_file_whose_columns_clash_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", samples=1)
    index_folder(folder, workers=1)
    keys = pa.array([one.key for one in ImageCaptions(folder).samples])
    path = folder / ".proclip-index" / "joined" / "key.arrow"
    path.parent.mkdir()
    write_table(path, (clashing := pa.table([keys, keys], names=["key", "key"])).schema, clashing.to_batches())
    with pytest.raises(ProclipError, match=r"key\.arrow has columns key, key; 'key' and then captions, each once, are"):
        ImageCaptions(folder)


def test_joining_to_a_folder_with_metadata(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = Path(shutil.copytree(tiny_world, tmp_path / "world"))
    parquet.write_table(
        pa.table({"id": ["red-bar", "grey-ring", "x"], "fr": ["barre", "anneau", "-"]}), tmp_path / "t.parquet"
    )
    before = (world / "metadata.jsonl").read_bytes()
    assert run("join", world, tmp_path / "t.parquet", "--on", "key=id", "--columns", "name_fr=fr") == 0
    assert (world / "metadata.jsonl").read_bytes() == before
    assert ImageCaptions(world)["red-bar"].captions["name_fr"] == "barre"
    assert run("join", world, tmp_path / "t.parquet", "--on", "url=id", "--columns", "fr") == 2
    assert "has no URLs" in capsys.readouterr().err


def test_check_finds_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = sample("good", 1, "good")
    large = picture(5, size=(300, 300))
    write_shard(
        tmp_path / "0.tar",
        [
            *good, *sample("good", 2, "again"),
            ("twin.jpg", picture(1)), ("twin.txt", b"  "),
            ("cut.jpg", large[:-600]), ("cut.txt", b"cut"),
            ("text.jpg", b"<html>404</html>"), ("text.txt", b"text"),
            ("none.jpg", b""), ("none.txt", b"none"),
            ("tiny.jpg", picture(6, size=(3, 50))), ("tiny.txt", b"tiny"),
            ("strip.png", picture(7, "PNG", (4000, 20))), ("strip.txt", b"strip"),
            ("bomb.png", _bomb()), ("bomb.txt", b"bomb"),
            ("alone.txt", b"alone"),
        ],
    )  # fmt: skip
    (tmp_path / "1.tar.incomplete").write_bytes(b"")
    assert run("index", tmp_path, "--workers", "1") == 0
    assert "faults in the shards" in capsys.readouterr().err
    assert run("check", tmp_path, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 8
    assert {kind: (one["count"], one["first"][0].split(":")[0]) for kind, one in report["found"].items()} == {
        "duplicate key": (3, "0/good"),  # picture, text and json
        "no picture": (1, "0/alone"),
        "unfinished shard": (1, "1.tar.incomplete"),
        "no caption: caption": (1, "0/twin"),
        "truncated": (1, "0/cut"),
        "no image": (2, "0/text"),
        "tiny": (1, "0/tiny"),
        "odd shape": (1, "0/strip"),
        "huge": (1, "0/bomb"),
        "duplicate picture": (1, "0/good = 0/twin"),
    }
    assert run("check", tmp_path) == 1
    assert "truncated: 1\n    0/cut: image file is truncated" in capsys.readouterr().out
    write_shard(tmp_path / "whole" / "0.tar", good)
    run("index", tmp_path / "whole", "--workers", "1")
    assert run("check", tmp_path / "whole") == 0 and "nothing found" in capsys.readouterr().out


@pytest.mark.parametrize("bytes_left", [40, 200, 300, 700, -600, -1])
def test_a_picture_that_is_cut_anywhere_is_truncated(tmp_path: Path, bytes_left: int) -> None:
    Image.effect_noise((90, 90), 80).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:bytes_left])
    assert inspect(FilePicture(tmp_path / "whole.jpg")).fault == ""
    assert inspect(FilePicture(tmp_path / "cut.jpg")).fault == "truncated"


def test_counts_below_one_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["index", tmp_path, "--workers", "0"], "--workers is 0: 1 or more is right"),
        (["index", tmp_path, "--workers", "-3"], "--workers is -3"),
        (["check", tmp_path, "--min-side", "-5"], "--min-side is -5"),
    ):
        assert run(*words) == 2
        assert message in capsys.readouterr().err


def _bomb() -> bytes:
    """A PNG whose header says 60,000 x 60,000 pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"0"), b"IEND"]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_bombs_and_strips_are_refused_everywhere(tmp_path: Path) -> None:
    members = [("a.png", _bomb()), ("b.png", picture(7, "PNG", (4000, 20))), ("c.jpg", picture(1, size=(100, 90)))]
    index_folder(write_shard(tmp_path / "0.tar", members).parent, workers=1)
    bomb, strip, third = ImageCaptions(tmp_path).samples
    with pytest.raises(ProclipError, match=r"0\.tar, a\.png is refused: "):
        bomb.picture.open()
    with pytest.raises(ProclipError, match=r"b\.png is refused: it has 4,000 x 20 pixels: one side is more than 100"):
        strip.picture.open()
    assert third.picture.open().size == (100, 90)
    small = ImageCaptions(tmp_path, max_pixels=8999).samples[2]
    with pytest.raises(ProclipError, match=r"100 x 90 pixels, more than 8,999 \(data\.max_pixels\)"):
        small.picture.open()


def test_stats(tiny_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stats", tiny_world, "--json") == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["samples"] == 12 and stats["splits"] == ["align", "pretrain", "test"]
    assert stats["pictures"]["formats"] == {"PNG": 12} and stats["pictures"]["looked_at"] == 12
    captions = stats["captions"][str(tiny_world)]
    assert captions["short"]["words"] == {"min": 5, "p5": 5, "median": 5, "p95": 5, "max": 5, "mean": 5.0}
    assert captions["name_de"]["without"] == 0 and stats["languages"] == {"name": {"en": "name_en", "de": "name_de"}}
    texts = [one.captions["short"] for one in ImageCaptions(tiny_world).samples]
    assert captions["short"]["characters"]["max"] == max(map(len, texts))
    assert run("stats", tiny_world) == 0
    assert "languages of name: en, de" in capsys.readouterr().out
