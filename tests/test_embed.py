from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fake_embedder import FakeEmbedder, vector

from proclip import embed as embed_module
from proclip.data.store import EmbeddingStore, StoreWriter
from proclip.embed import embed_captions
from proclip.errors import ProclipError

ROWS = [("a#short", "a cat"), ("b#short", "a dog"), ("c#short", "a cat"), ("a#long", "a long text about a cat")]


def writer_at(folder: Path, **options: Any) -> StoreWriter:
    return StoreWriter(folder, FakeEmbedder().identity, 4, **options)


def test_every_caption_gets_its_texts_vector_and_each_text_is_encoded_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(embed_module, "TEXTS_A_CHUNK", 2)
    embedder, calls = FakeEmbedder(), []
    with writer_at(tmp_path / "s", shard_size=1) as writer:
        counts = embed_captions(ROWS, embedder, writer, lambda done, total: calls.append((done, total)))
    assert embedder.seen == ["a cat", "a dog", "a long text about a cat"]
    assert calls == [(2, 3), (3, 3)]
    assert (counts.rows, counts.texts, counts.kept, counts.truncated) == (4, 3, 0, 1)
    store = EmbeddingStore.open(tmp_path / "s", expect=embedder.identity)
    assert torch.equal(store.rows([key for key, _ in ROWS]), torch.stack([vector(text) for _, text in ROWS]))
    assert store.truncated == 1


def test_a_second_run_encodes_only_what_is_new(tmp_path: Path) -> None:
    with writer_at(tmp_path / "s") as writer:
        embed_captions(ROWS[:2], FakeEmbedder(), writer)
    embedder = FakeEmbedder()
    with writer_at(tmp_path / "s") as writer:
        counts = embed_captions(ROWS, embedder, writer)
    assert embedder.seen == ["a cat", "a long text about a cat"]
    assert (counts.rows, counts.kept) == (2, 2)
    assert len(EmbeddingStore.open(tmp_path / "s")) == 4


def test_an_interrupted_run_goes_on_from_its_last_shard(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(embed_module, "TEXTS_A_CHUNK", 1)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writer_at(tmp_path / "s", shard_size=2) as writer:
        embed_captions(ROWS, FakeEmbedder(), writer, stop)
    embedder = FakeEmbedder()
    with writer_at(tmp_path / "s") as writer:
        embed_captions(ROWS, embedder, writer)
    assert embedder.seen == ["a long text about a cat"]


def test_a_caption_whose_text_has_changed_is_refused(tmp_path: Path) -> None:
    with writer_at(tmp_path / "s") as writer:
        embed_captions(ROWS, FakeEmbedder(), writer)
    with (
        writer_at(tmp_path / "s") as writer,
        pytest.raises(ProclipError, match="text of caption 'b#short' has changed"),
    ):
        embed_captions([*ROWS[:1], ("b#short", "a wolf")], FakeEmbedder(), writer)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a#short", " ")], "caption 'a#short' is empty"),
        ([("a#short", "one"), ("a#short", "two")], "'a#short' stands twice, with different texts"),
    ],
)
def test_bad_captions_are_refused_before_anything_is_encoded(tmp_path: Path, rows: Any, message: str) -> None:
    embedder = FakeEmbedder()
    with writer_at(tmp_path / "s") as writer, pytest.raises(ProclipError, match=message):
        embed_captions([("z", "fine"), *rows], embedder, writer)
    assert embedder.seen == []


def test_the_embedder_must_be_the_stores(tmp_path: Path) -> None:
    with writer_at(tmp_path / "s") as writer, pytest.raises(ProclipError, match="layer: want 1, have 2"):
        embed_captions(ROWS, FakeEmbedder(layer=2), writer)
