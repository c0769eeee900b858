"""Tar shards: indexed once, read anywhere; whatever is wrong with one is counted, and a changed one is refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from shard_files import Member, picture, sample, write_shard, write_shards

from proclip.data import tar_index
from proclip.data.dataset import ImageCaptions, check_captions
from proclip.data.tar_index import index_folder, index_path, read_about
from proclip.errors import ProclipError


def test_a_sample_is_read_where_it_lies(tmp_path: Path) -> None:
    shards = index_folder(write_shards(tmp_path), fields=["alt"], workers=1)
    assert [(shard.samples, shard.faults) for shard in shards] == [(5, 0), (5, 0)]
    data = ImageCaptions(tmp_path)
    assert len(data.samples) == 10 and data.splits == []
    for number, one in enumerate(data.select("any")):
        assert one.key == f"{number // 5:05d}/{number // 5:05d}{number % 5:04d}"
        assert one.captions == {"caption": f"caption {number}", "alt": f"alt {number}"}
        assert one.picture.content() == picture(number)
        assert one.picture.open().tobytes() == Image.open(io.BytesIO(picture(number))).tobytes()
    assert data["00001/000010003"].picture.content() == picture(8)
    assert [one.key for one in data.samples[7:9]] == ["00001/000010002", "00001/000010003"]
    assert str(data.samples[-1].picture) == f"{tmp_path / '00001.tar'}, 000010004.jpg"


def test_indexing_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path, shards=3)
    scan, scanned = tar_index.scan, []

    def once(shard: Path, fields: tuple[str, ...]) -> object:
        if len(scanned) == 2:
            raise KeyboardInterrupt
        scanned.append(shard.name)
        return scan(shard, fields)

    monkeypatch.setattr(tar_index, "scan", once)
    with pytest.raises(KeyboardInterrupt):
        index_folder(tmp_path, workers=1)
    with pytest.raises(ProclipError, match=r"1 of 3 shards are not indexed \(00002.tar .*run  proclip data index"):
        ImageCaptions(tmp_path)
    monkeypatch.setattr(tar_index, "scan", scan)
    told: list[tuple[int, int]] = []
    index_folder(tmp_path, workers=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 3), (3, 3)]  # the two that were done are not read again
    assert len(ImageCaptions(tmp_path).samples) == 15
    one_process = [index_path(tmp_path / f"0000{n}.tar").read_bytes() for n in range(3)]
    index_folder(tmp_path, fields=["alt"], workers=1)
    assert [read_about(shard).fields for shard in sorted(tmp_path.glob("*.tar"))] == [("alt",)] * 3
    index_folder(tmp_path, fields=[], workers=2)  # other fields: all of them again
    assert [index_path(tmp_path / f"0000{n}.tar").read_bytes() for n in range(3)] == one_process


def test_a_shard_that_changed_is_refused(tmp_path: Path) -> None:
    index_folder(write_shards(tmp_path), workers=1)
    data, shard = ImageCaptions(tmp_path), tmp_path / "00001.tar"
    status = shard.stat()
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(ProclipError, match=r"00001.tar has changed since it was indexed .*: run  proclip data index"):
        ImageCaptions(tmp_path)
    write_shard(shard, sample("x", 1, "x"))
    with pytest.raises(ProclipError, match="is cut short: the archive has changed"):
        data.samples[9].picture.open()
    index_folder(tmp_path, workers=1)
    assert [one.key for one in ImageCaptions(tmp_path).samples][5:] == ["00001/x"]
    shard.unlink()
    for use in (ImageCaptions, index_folder):
        with pytest.raises(ProclipError, match=r"00001\.tar is indexed but gone"):
            use(tmp_path)


def test_fields_stay_until_others_are_chosen_and_must_be_there(tmp_path: Path) -> None:
    folder = write_shards(tmp_path)
    with pytest.raises(
        ProclipError, match=r"no sample of .*00000\.tar has a text in 'nope', but in caption, url, key, stat"
    ):
        index_folder(folder, ["alt", "nope"], workers=1)
    with pytest.raises(ProclipError, match="--fields: 'key' is no caption"):
        index_folder(folder, ["key"], workers=1)
    assert not list(folder.glob(".proclip-index/*"))
    index_folder(folder, ["alt"], workers=1)
    write_shard(folder / "00001.tar", sample("x", 1, "x", alt="y"))
    index_folder(folder, workers=1)
    assert dict(ImageCaptions(folder)["00001/x"].captions) == {"caption": "x", "alt": "y"}
    (folder / "00001.tar.incomplete").touch()  # fetched again: left out, not gone
    assert [about.samples for about in index_folder(folder, workers=1)] == [5]


def _cut(content: bytes) -> bytes:
    """Without the last member's last block, and the archive's end."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        last = archive.getmembers()[-1]
    return content[: last.offset_data + last.size // 2]


GOOD = sample("good", 1, "a good one")
QUIRKS: dict[str, tuple[list[Member], str, str, list[str]]] = {
    "no txt": ([*GOOD, ("b.jpg", picture(2)), ("b.json", b'{"caption": "from json"}')], "", "", ["good", "b"]),
    "no text at all": ([*GOOD, ("b.png", picture(2, "PNG"))], "", "", ["good", "b"]),
    "twice": ([*GOOD, *sample("good", 2, "another")], "duplicate key", "shard/good: a second good.jpg", ["good"]),
    "no picture": ([("a.txt", b"left over"), *GOOD], "no picture", "shard/a: only txt", ["good"]),
    "picture of the next shard": ([*GOOD, ("z.jpg", picture(3))], "", "", ["good", "z"]),
    "bad json": ([*GOOD, ("b.jpg", picture(2)), ("b.json", b"{")], "bad json", "shard/b: ", ["good", "b"]),
    "nested": (
        [*GOOD, ("b.jpg", picture(2)), ("b.json", b"[" * 100_000)],
        "bad json",
        "shard/b: nested",
        ["good", "b"],
    ),
    "half a letter": (
        [*GOOD, ("b.jpg", picture(2)), ("b.json", b'{"caption": "a \\ud800"}')],
        "bad json",
        "shard/b: ",
        ["good", "b"],
    ),
    "bad name": ([*GOOD, ("b\udcff.jpg", picture(2))], "bad name", "shard.tar: b\\udcff.jpg is not UTF-8", ["good"]),
    "bad text": ([*GOOD, ("b.jpg", picture(2)), ("b.txt", b"\xff\xfe")], "bad text", "shard/b: ", ["good", "b"]),
    "other members": ([*GOOD, ("b.npy", b"1"), ("b.jpg", picture(2)), ("readme", b"x")], "", "", ["good", "b"]),
    "not ascii": ([*GOOD, *sample("grün/äpfel" * 20, 2, "Äpfel")], "", "", ["good", "grün/äpfel" * 20]),
    "folders": (
        [*sample("./part/one", 1, "1"), ("part/two.v2.jpg", b"")],
        "no picture",
        "shard/part/two: only v2.jpg",
        ["part/one"],
    ),
}


@pytest.mark.parametrize("quirk", QUIRKS)
def test_quirks(tmp_path: Path, quirk: str) -> None:
    members, kind, why, keys = QUIRKS[quirk]
    (about,) = index_folder(write_shard(tmp_path / "shard.tar", members).parent, workers=1)
    assert [(fault.kind, f"{fault.key}: {fault.why}".startswith(why)) for fault in about.first_faults][:1] == (
        [(kind, True)] if kind else []
    )
    assert [one.key for one in ImageCaptions(tmp_path).samples] == [f"shard/{key}" for key in keys]


def test_the_texts_of_quirks(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard.tar", QUIRKS["no txt"][0])
    index_folder(tmp_path, workers=1)
    assert ImageCaptions(tmp_path)["shard/b"].captions["caption"] == "from json"
    write_shard(tmp_path / "shard.tar", QUIRKS["no text at all"][0])
    index_folder(tmp_path, workers=1)
    data = ImageCaptions(tmp_path)
    with pytest.raises(ProclipError, match="sample 'shard/b' has no caption column 'caption'; columns: none"):
        check_captions(data.select("x"), ["caption"])
    kept = ImageCaptions(tmp_path, incomplete="leave_out").select("x", ["caption"])
    assert [one.key for one in kept] == ["shard/good"]


def test_what_is_whole_of_a_truncated_shard_is_used(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.tar", [*GOOD, *sample("b", 2, "b"), ("c.jpg", picture(3, size=(400, 300)))])
    shard.write_bytes(_cut(shard.read_bytes()))
    (about,) = index_folder(tmp_path, workers=1)
    assert [fault.kind for fault in about.first_faults] == ["truncated"] and "c.jpg" in about.first_faults[0].why
    assert [one.key for one in ImageCaptions(tmp_path).samples] == ["shard/good", "shard/b"]
    content = bytearray(shard.read_bytes())
    content[1024 + 257 : 1024 + 262] = b"wrong"  # a header's magic
    content[1024 * 4 : 1024 * 4 + 600] = bytes(range(250)) * 2 + bytes(100)
    shard.write_bytes(bytes(content))
    (about,) = index_folder(tmp_path, workers=1)
    assert {fault.kind for fault in about.first_faults} & {"damaged", "truncated"}


def test_unfinished_shards_and_other_files(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "00002.tar.incomplete").write_bytes(b"half")
    write_shard(tmp_path / "00003.tar", sample("c", 3, "c"))  # no _stats.json yet
    assert tar_index.unfinished(tmp_path) == ["00002.tar.incomplete", "00003.tar"]
    index_folder(tmp_path, workers=1)
    assert len(ImageCaptions(tmp_path).samples) == 11
    with pytest.raises(ProclipError, match="no folder"):
        index_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ProclipError, match=r"holds no tar archives .*a\.tar\.gz cannot be read at any place"):
        index_folder(tmp_path / "empty")


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    index_folder(write_shards(tmp_path), workers=1)
    index = index_path(tmp_path / "00000.tar")
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(ProclipError, match=r"00000\.arrow is damaged"):
        ImageCaptions(tmp_path)
    index_folder(tmp_path, workers=1)
    assert read_about(tmp_path / "00000.tar").samples == 5
    assert json.dumps([one.key for one in ImageCaptions(tmp_path).samples])
