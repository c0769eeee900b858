"""Making an index and bringing it up to date: only what is new is encoded, what is gone leaves, nothing stops it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from picture_files import drawn, save, touch

from proclip.errors import ProclipError
from proclip.models.proclip import ProCLIP
from proclip.search import Index, IndexReport, filling, indexing, pictures, update_index
from proclip.search.catalogue import Catalogue
from proclip.search.pictures import read
from proclip.search.vectors import mapped


def content(index: Path) -> dict[str, tuple[int, int, str | None]]:
    """File by its path: size and date of its picture."""
    with Catalogue(index) as catalogue:
        rows = catalogue._db.execute("SELECT path, width, height, taken FROM files JOIN pictures ON picture = id")
        return {path: (width, height, taken) for path, width, height, taken in rows}


def vector(index: Path, path: Path) -> np.ndarray:
    """What the index holds of a file's picture."""
    with Catalogue(index) as catalogue:
        ((row,),) = catalogue._db.execute(
            "SELECT vector FROM files JOIN pictures ON picture = id WHERE path = ?", (str(path),)
        )
        vectors = mapped(index / catalogue.fact("vectors"), catalogue.fact("rows"), catalogue.fact("dim"))
        return np.array(vectors[row])


@pytest.fixture()
def update(model: ProCLIP, tmp_path: Path) -> Callable[..., IndexReport]:
    """Bring ``index`` up to date."""

    def run(*folders: Path, **options: object) -> IndexReport:
        return update_index(tmp_path / "index", folders, model, **options)  # type: ignore[arg-type]

    return run


def test_vectors_are_the_models(
    pictures: Path, model: ProCLIP, update: Callable[..., IndexReport], tmp_path: Path
) -> None:
    turned = save(drawn(9, (40, 20)), pictures / "turned.jpg", orientation=6)
    report = update(pictures)
    assert (report.pictures, report.files, report.encoded, report.removed, report.unreadable) == (5, 5, 5, 0, 0)
    for path in (*pictures.glob("*.*"), pictures / "below" / "d.webp"):
        wanted = model.encode_image([read(path).image])[0]
        torch.testing.assert_close(torch.from_numpy(vector(tmp_path / "index", path)), wanted)
    assert content(tmp_path / "index")[str(turned)] == (20, 40, None)
    assert content(tmp_path / "index")[str(pictures / "a.png")] == (30, 20, "2021-05-01T10:00:00")


def test_only_what_is_new_or_changed_is_read(
    pictures: Path, update: Callable[..., IndexReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(pictures)
    old = vector(tmp_path / "index", pictures / "a.png")
    reads: list[str] = []
    original = filling._read
    monkeypatch.setattr(filling, "_read", lambda file: (reads.append(Path(file.path).name), original(file))[1])
    assert update(pictures).encoded == 0 and not reads
    save(drawn(11), pictures / "a.png")  # another content
    touch(pictures / "b.png", "2022-06-02T11:00:00")  # the same, at another time
    save(drawn(12), pictures / "new.png")
    report = update(pictures)
    assert sorted(reads) == ["a.png", "b.png", "new.png"]
    assert (report.pictures, report.files, report.encoded, report.removed) == (5, 5, 2, 1)
    assert not np.allclose(vector(tmp_path / "index", pictures / "a.png"), old)
    reads.clear()
    assert update(pictures).encoded == 0 and not reads


def test_moved_files_keep_their_vectors(pictures: Path, update: Callable[..., IndexReport], tmp_path: Path) -> None:
    update(pictures)
    old = {name: vector(tmp_path / "index", pictures / name) for name in ("a.png", "below/d.webp")}
    (pictures / "a.png").rename(pictures / "below" / "renamed.png")
    (pictures / "below" / "d.webp").rename(pictures / "d.webp")
    report = update(pictures)
    assert (report.pictures, report.encoded, report.removed) == (4, 0, 0)
    assert (vector(tmp_path / "index", pictures / "below" / "renamed.png") == old["a.png"]).all()
    assert (vector(tmp_path / "index", pictures / "d.webp") == old["below/d.webp"]).all()
    assert str(pictures / "a.png") not in content(tmp_path / "index")


def test_files_with_the_same_content_are_encoded_and_found_once(
    pictures: Path, model: ProCLIP, update: Callable[..., IndexReport], tmp_path: Path
) -> None:
    for name in ("copy.png", "z.png", "below/copy.png"):
        shutil.copy(pictures / "a.png", pictures / name)
    report = update(pictures)
    assert (report.pictures, report.files, report.encoded) == (4, 7, 4)
    with Index.open(tmp_path / "index", model) as index:
        hits = index.search(image=pictures / "a.png")
        assert len(hits) == 4
        assert hits[0].path == pictures / "a.png"
        assert hits[0].copies == (pictures / "below" / "copy.png", pictures / "copy.png", pictures / "z.png")
        (pictures / "a.png").unlink()
        assert update(pictures).removed == 0
        assert index.search(image=pictures / "z.png")[0].path == pictures / "below" / "copy.png"


def test_removed_files_leave_and_the_vectors_are_packed(
    pictures: Path, model: ProCLIP, update: Callable[..., IndexReport], tmp_path: Path
) -> None:
    update(pictures)
    old = vector(tmp_path / "index", pictures / "c.jpg")
    with Index.open(tmp_path / "index", model) as index:
        assert len(index) == 4
        (pictures / "a.png").unlink()
        (pictures / "b.png").unlink()
        report = update(pictures)
        assert (report.pictures, report.files, report.removed) == (2, 2, 2)
        assert len(index) == 2  # an index that is open sees it
        assert [hit.path.name for hit in index.search(image=pictures / "c.jpg")] == ["c.jpg", "d.webp"]
    assert (vector(tmp_path / "index", pictures / "c.jpg") == old).all()
    files = {path.name for path in (tmp_path / "index").glob("vectors-*")}
    assert files == {"vectors-1.f32"}
    assert (tmp_path / "index" / "vectors-1.f32").stat().st_size == 2 * len(old) * 4


def test_what_cannot_be_read_is_listed_and_does_not_stop_the_run(
    pictures: Path, update: Callable[..., IndexReport], tmp_path: Path
) -> None:
    (pictures / "broken.jpg").write_text("no picture")
    shutil.copy(pictures / "broken.jpg", pictures / "broken too.jpg")
    (pictures / "cut.jpg").write_bytes((pictures / "c.jpg").read_bytes()[:700])
    (pictures / "empty.png").write_bytes(b"")
    report = update(pictures)
    assert (report.pictures, report.unreadable) == (4, 4)
    assert {Path(path).name: reason.split(":")[0] for path, reason in report.first_unreadable} == {
        "broken too.jpg": "broken too.jpg is not a picture",
        "broken.jpg": "broken too.jpg is not a picture",
        "cut.jpg": "cut.jpg cannot be read",
        "empty.png": "the file is empty",
    }
    assert update(pictures).unreadable == 4  # still told, not read again
    save(drawn(20), pictures / "broken.jpg")
    (pictures / "cut.jpg").unlink()
    save(drawn(21), pictures / "a.png")
    (pictures / "a.png").write_text("broken now")
    report = update(pictures)
    assert (report.pictures, report.unreadable, report.removed) == (4, 3, 1)


def test_a_folder_that_is_unreadable_in_the_walk_loses_nothing(
    pictures: Path, update: Callable[..., IndexReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    update(pictures)
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = update(pictures)
    assert (report.pictures, report.removed, report.unreadable) == (4, 0, 1)
    assert report.first_unreadable == [(str(pictures / "below"), "the folder cannot be read: Permission denied")]


def test_heic_without_the_extra_waits_for_it(
    pictures: Path, update: Callable[..., IndexReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(pictures / "c.jpg", pictures / "phone.HEIC")
    monkeypatch.setattr("proclip.search.pictures._heic", lambda: False)
    report = update(pictures)
    assert (report.files, report.unreadable, report.left_out) == (4, 0, 1)
    monkeypatch.setattr("proclip.search.pictures._heic", lambda: True)
    report = update(pictures)
    assert (report.files, report.unreadable, report.left_out) == (5, 0, 0)
    monkeypatch.setattr("proclip.search.pictures._heic", lambda: False)
    touch(pictures / "phone.HEIC", "2022-06-02T11:00:00")
    for file in (*pictures.glob("*.*g"), pictures / "below" / "d.webp"):
        file.unlink()
    report = update(pictures)  # what cannot be read for now stays, and its folder is not an empty one
    assert (report.files, report.unreadable, report.left_out) == (1, 0, 1)


def test_folders_are_kept_and_forgotten(pictures: Path, update: Callable[..., IndexReport], tmp_path: Path) -> None:
    other = tmp_path / "other"
    save(drawn(30), other / "e.png")
    update(pictures)
    assert update(other).pictures == 5  # what lies below other folders stays
    save(drawn(31), other / "f.png")
    save(drawn(32), pictures / "g.png")
    assert update().pictures == 7  # all folders
    with pytest.raises(ProclipError, match="is not a folder of the index; those are"):
        update(forget=[tmp_path])
    report = update(forget=[other])
    assert (report.pictures, report.removed) == (5, 2)
    update(pictures / "below")
    assert update(forget=[pictures]).pictures == 1  # what another folder of the index holds stays


def test_nothing_changes_before_all_is_checked(
    pictures: Path, model: ProCLIP, update: Callable[..., IndexReport], tmp_path: Path
) -> None:
    other, third = tmp_path / "other", tmp_path / "third"
    save(drawn(30), other / "e.png")
    save(drawn(30), third / "copy.png")
    update(pictures, other, third)
    shutil.rmtree(third)
    with pytest.raises(ProclipError, match=f"third is missing; .* proclip index --forget {third}"):
        update(forget=[other])
    with pytest.raises(ProclipError, match="mistyped is not a folder of the index"):
        update(forget=[other, tmp_path / "mistyped"])
    with pytest.raises(ProclipError, match=r"mistyped is missing$"):
        update(pictures, tmp_path / "mistyped")
    with pytest.raises(ProclipError, match=r"a\.png is a file, a folder is wanted"):
        update(pictures / "a.png")
    with Index.open(tmp_path / "index", model) as index:
        assert index.stats["folders"] == [str(other), str(pictures), str(third)]
        assert len(index.search(image=other / "e.png")) == 5
    assert update(forget=[other, third]).pictures == 4


def test_a_picture_whose_last_file_left_hides_no_other(
    pictures: Path, model: ProCLIP, update: Callable[..., IndexReport], tmp_path: Path
) -> None:
    """As after a kill between a commit of changed files and the end of the run."""
    update(pictures)
    with Index.open(tmp_path / "index", model) as index:
        nearest = index.search("a red square")
        with Catalogue(tmp_path / "index", write=True) as catalogue, catalogue.changing():
            catalogue.remove_files([str(nearest[0].path)])
        assert index.search("a red square", k=2) == nearest[1:3]
        assert len(index) == index.stats["pictures"] == 3
    assert update(pictures).encoded == 0


def test_what_is_done_is_kept_while_a_batch_is_partly_full(
    pictures: Path, update: Callable[..., IndexReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "COMMIT_SECONDS", 0.0)
    for number in range(9):
        shutil.copy(pictures / "a.png", pictures / f"copy{number}.png")

    def stop(kind: str, done: int, total: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(pictures, progress=stop)
    assert len(content(tmp_path / "index")) == 12
    assert update(pictures).encoded == 0


def test_a_drive_that_is_not_there_empties_nothing(
    pictures: Path, update: Callable[..., IndexReport], tmp_path: Path
) -> None:
    update(pictures)
    pictures.rename(tmp_path / "elsewhere")
    with pytest.raises(ProclipError, match="is missing; if it is gone for good: proclip index --forget"):
        update()
    with pytest.raises(ProclipError, match=r"pictures is missing$"):
        update(pictures)
    pictures.mkdir()
    with pytest.raises(ProclipError, match="has no picture now, and the index has 4 of it: is its drive mounted"):
        update()
    assert len(content(tmp_path / "index")) == 4
    assert update(forget=[pictures]).pictures == 0


def test_the_index_within_the_folder_is_not_walked(pictures: Path, model: ProCLIP) -> None:
    update_index(pictures / "index", [pictures], model)
    save(drawn(40), pictures / "index" / "x.png")
    assert update_index(pictures / "index", [pictures], model).files == 4


def test_another_model_is_refused(
    pictures: Path, index: Path, tiny_clip_path: Path, tiny_proclip_path: Path, tmp_path: Path
) -> None:
    save(drawn(50), pictures / "new.png")
    with pytest.raises(
        ProclipError, match=f"was made with the model {tiny_proclip_path}.*vectors of two models cannot"
    ):
        update_index(index, [pictures], str(tiny_clip_path))
    assert update_index(index).encoded == 1  # by the model that it names
    with pytest.raises(ProclipError, match="is a new index: say which model"):
        update_index(tmp_path / "another", [pictures])


def test_a_clip_without_an_llm_indexes_too(pictures: Path, tiny_clip_path: Path, tmp_path: Path) -> None:
    update_index(tmp_path / "of clip", [pictures], str(tiny_clip_path))
    with Index.open(tmp_path / "of clip") as index:
        assert index.search("a red square")[0].score == max(hit.score for hit in index.search("a red square"))


def test_a_second_process_is_told(pictures: Path, index: Path) -> None:
    with FileLock(index / indexing.LOCK), pytest.raises(ProclipError, match="another process is changing the index"):
        update_index(index)
    assert update_index(index).files == 4


def test_a_damaged_index_is_an_error_of_one_line(index: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ProclipError, match=r"nowhere is no index: catalogue\.sqlite is missing; make one: proclip index"
    ):
        Index.open(tmp_path / "nowhere")
    vectors = index / "vectors-0.f32"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-4])
    with pytest.raises(ProclipError, match=r"holds 3 of 4 vectors: the index is damaged"):
        Index.open(index)
    vectors.write_bytes(whole)
    (index / "catalogue.sqlite").write_bytes(b"not a database, but long enough for a header" * 40)
    for suffix in ("-wal", "-shm"):
        (index / f"catalogue.sqlite{suffix}").unlink(missing_ok=True)
    with pytest.raises(ProclipError, match=r"catalogue\.sqlite: file is not a database"):
        Index.open(index)


def test_files_of_equal_path_prefix_are_not_below(update: Callable[..., IndexReport], tmp_path: Path) -> None:
    save(drawn(60), tmp_path / "trip" / "a.png")
    save(drawn(61), tmp_path / "trip2" / "b.png")
    update(tmp_path / "trip", tmp_path / "trip2")
    assert update(forget=[tmp_path / "trip"]).pictures == 1


def test_pictures_are_read_only_once(
    pictures: Path, update: Callable[..., IndexReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    original = filling.decode
    monkeypatch.setattr(filling, "decode", lambda data, name: (decoded.append(name), original(data, name))[1])
    for number in range(5):
        shutil.copy(pictures / "a.png", pictures / f"copy {number}.png")
    update(pictures)
    assert len(decoded) == 4


def test_module_for_heic_is_not_asked_for_elsewhere() -> None:
    assert pictures.HEIC.isdisjoint(pictures.EXTENSIONS)
