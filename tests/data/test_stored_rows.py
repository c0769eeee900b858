"""Rows of captions are those that a loop finds, are looked up once a run, and follow what store and data hold."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from caption_world import COLUMNS, ROWS, samples_of, slow_rows, write_world

from proclip.config import DistillConfig
from proclip.data.loaders import DistillBatches
from proclip.data.store import EmbeddingStore, StoreWriter
from proclip.data.stored_rows import StoredRows
from proclip.errors import ProclipError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.mark.parametrize("kept", [True, False])
def test_rows_are_those_that_a_loop_finds(world: Path, tmp_path: Path, kept: bool) -> None:
    store, samples, told = EmbeddingStore.open(world / "store"), samples_of(world), list[tuple[int, int]]()
    finder = StoredRows(tmp_path / "rows" if kept else None, lambda *numbers: told.append(numbers))
    rows = finder.captions(store, samples, COLUMNS)
    assert rows.tolist() == slow_rows(samples, store)
    assert told[-1] == (2400, 2400)
    some = finder.captions(store, samples[5:900:7], COLUMNS[1:])
    assert some.tolist() == rows[11:1800:14].tolist()


def no_longs(texts: Sequence[str]) -> list[bool]:
    return ["long" in text for text in texts]


@pytest.mark.parametrize("kept", [True, False])
def test_texts_that_are_skipped_have_no_row(world: Path, tmp_path: Path, kept: bool) -> None:
    store, samples = EmbeddingStore.open(world / "store"), samples_of(world)
    finder = StoredRows(tmp_path / "rows" if kept else None)
    rows = finder.captions(store, samples, COLUMNS, no_longs)
    assert (rows[1::2] == -1).all()
    assert rows[::2].tolist() == finder.captions(store, samples, COLUMNS)[::2].tolist()
    assert (finder.captions(store, samples, COLUMNS[1:], no_longs) == -1).all()


def test_they_are_looked_up_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next start nothing is hashed; another store, other data, a damaged file are seen."""
    shutil.copytree(world, tmp_path / "world")
    store, samples = EmbeddingStore.open(tmp_path / "world" / "store"), samples_of(tmp_path / "world")
    rows = StoredRows(tmp_path / "rows").captions(store, samples, COLUMNS).tolist()
    looked_up, find = list[int](), EmbeddingStore.find

    def counting(self: EmbeddingStore, keys: Sequence[str], texts: Sequence[str] | None = None) -> torch.Tensor:
        looked_up.append(len(keys))
        return find(self, keys, texts)

    monkeypatch.setattr(EmbeddingStore, "find", counting)
    again = StoredRows(tmp_path / "rows").captions(store, samples_of(tmp_path / "world"), COLUMNS)
    assert looked_up == [] and again.tolist() == rows
    (file,) = (tmp_path / "rows").iterdir()
    content = file.read_bytes()
    for left in (content[:5000], b"", content[:-8] + bytes(8)):  # cut off, empty, another row
        file.unlink()  # what maps it keeps it
        file.write_bytes(left)
        assert StoredRows(tmp_path / "rows").captions(store, samples, COLUMNS).tolist() == rows
        assert sum(looked_up) == 2 * sum(ROWS)
        looked_up.clear()
    with StoreWriter(store.folder, store.identity, 2) as writer:
        writer.add(["another"], torch.zeros(1, 2))
    larger = EmbeddingStore.open(store.folder)
    assert StoredRows(tmp_path / "rows").captions(larger, samples, COLUMNS).tolist() == rows
    assert sum(looked_up) == 2 * sum(ROWS)


@pytest.mark.parametrize("kept", [True, False])
def test_captions_that_changed_or_are_not_there(world: Path, tmp_path: Path, kept: bool) -> None:
    shutil.copytree(world, tmp_path / "world")
    store, list_file = EmbeddingStore.open(world / "store"), tmp_path / "world" / "a" / "metadata.jsonl"
    finder, text = StoredRows(tmp_path / "rows" if kept else None), list_file.read_text()
    list_file.write_text(text.replace('"a 650"', '"another"'))
    with pytest.raises(ProclipError, match="the text of caption 'a650#short' has changed since it was embedded"):
        finder.captions(store, samples_of(tmp_path / "world"), COLUMNS)
    list_file.write_text(text.replace('"key": "a3"', '"key": "new"'))
    with pytest.raises(ProclipError, match="'new#short' is not among the 2400 keys"):
        finder.captions(store, samples_of(tmp_path / "world"), COLUMNS)
    list_file.write_text(text)
    samples = samples_of(tmp_path / "world")
    assert finder.captions(store, samples, COLUMNS).tolist() == slow_rows(samples, store)


@pytest.mark.parametrize("kept", [True, False])
def test_pictures_that_the_store_has(world: Path, tmp_path: Path, kept: bool) -> None:
    samples = samples_of(world)
    keys = [s.key for s in samples][::-1]
    with StoreWriter(tmp_path / "pictures", {"kind": "tower"}, 2) as writer:
        writer.add(keys[:1000], torch.zeros(1000, 2))
    store, finder = EmbeddingStore.open(tmp_path / "pictures"), StoredRows(tmp_path / "rows" if kept else None)
    assert not finder.has_pictures(store, samples)
    rows = finder.pictures(store, samples)
    assert rows.tolist() == [-1] * 200 + [*range(1000)][::-1]
    assert finder.has_pictures(store, samples) == kept and not finder.has_pictures(store, samples[1:])
    with pytest.raises(ProclipError, match=r"has rows 0 to 999, and \[-1, 999\] are asked for"):
        store.at(torch.tensor(rows[199:201].tolist()))


def test_nothing_is_left_to_learn_from(world: Path) -> None:
    store, samples = EmbeddingStore.open(world / "store"), samples_of(world)
    config = DistillConfig(captions=("long",), batch_size=4)
    with pytest.raises(ProclipError, match="every caption of long is longer than the CLIP reads: stage 1 has nothing"):
        DistillBatches(samples, store, store, config, seed=0, skip=no_longs)
