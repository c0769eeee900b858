"""Texts are encoded once, wherever their vectors are kept, and it stays known which were cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_embedder import FakeEmbedder, vector

from proclip.data import shared_store, text_cache
from proclip.data.store import EmbeddingStore, text_key
from proclip.data.text_cache import TextCache
from proclip.errors import ProclipError
from proclip.models.embedder import Encoded

LONG = "a long text about a cat"


def wanted(*texts: str) -> torch.Tensor:
    return torch.stack([vector(text) for text in texts])


@pytest.mark.parametrize("kept", ["on disk", "in memory"])
def test_a_text_is_encoded_once(tmp_path: Path, kept: str) -> None:
    embedder = FakeEmbedder()
    cache = TextCache(tmp_path / "s" if kept == "on disk" else None, embedder)
    assert cache.encode([]).embeds.shape == (0, 4)
    assert embedder.seen == []
    encoded = cache.encode(["a cat", "a dog", "a cat"])
    assert torch.equal(encoded.embeds, wanted("a cat", "a dog", "a cat"))
    assert torch.equal(cache.encode(["a dog", "a cow"]).embeds, wanted("a dog", "a cow"))
    assert embedder.seen == ["a cat", "a dog", "a cow"]
    cache.encode([LONG])
    again = cache.encode(["a cow", LONG, "a cat", LONG])
    assert again.cut is not None and again.cut.tolist() == [False, True, False, True]
    assert len(embedder.seen) == 4


def test_a_later_cache_reads_what_is_there(tmp_path: Path) -> None:
    TextCache(tmp_path / "s", FakeEmbedder()).encode(["a cat", LONG])
    embedder = FakeEmbedder()
    encoded = TextCache(tmp_path / "s", embedder).encode([LONG, "a cat"])
    assert torch.equal(encoded.embeds, wanted(LONG, "a cat"))
    assert encoded.cut is not None and encoded.cut.tolist() == [True, False]
    assert embedder.seen == []
    with pytest.raises(ProclipError, match="layer: want 2, have 1"):
        TextCache(tmp_path / "s", FakeEmbedder(layer=2))


def test_two_caches_may_share_a_folder(tmp_path: Path) -> None:
    first, second = (TextCache(tmp_path / "s", FakeEmbedder()) for _ in range(2))
    first.encode(["a cat", "a dog"])
    assert torch.equal(second.encode(["a cow", "a cat"]).embeds, wanted("a cow", "a cat"))
    assert set(EmbeddingStore.open(tmp_path / "s").keys) == {text_key(text) for text in ("a cat", "a dog", "a cow")}


@pytest.mark.parametrize("save_seconds", [0.0, 60.0])
def test_an_interruption_loses_nothing_that_was_encoded(tmp_path: Path, monkeypatch, save_seconds: float) -> None:
    monkeypatch.setattr(text_cache, "TEXTS_A_CHUNK", 2)
    monkeypatch.setattr(shared_store, "SAVE_SECONDS", save_seconds)
    texts = [f"text {n}" for n in range(7)]

    def stop(done: int, total: int) -> None:
        assert total == 7
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TextCache(tmp_path / "s", FakeEmbedder()).encode(texts, stop)
    assert len(EmbeddingStore.open(tmp_path / "s").manifest.shards) == (2 if save_seconds == 0 else 1)
    embedder = FakeEmbedder()
    assert torch.equal(TextCache(tmp_path / "s", embedder).encode(texts).embeds, wanted(*texts))
    assert embedder.seen == texts[4:]


def test_texts_that_cannot_be_encoded_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="text 0 of 1 is empty"):
        TextCache(tmp_path / "s", FakeEmbedder()).encode([""])

    class Broken(FakeEmbedder):
        def encode(self, texts: object) -> Encoded:
            return Encoded(torch.tensor([[1.0, 2.0], [1.0, torch.nan]]), None)

    with pytest.raises(ProclipError, match="not finite for 'a dog'"):
        TextCache(tmp_path / "s", Broken()).encode(["a cat", "a dog"])
    with pytest.raises(ProclipError, match=r"shape \[2, 2\] for 1 inputs \('a cat'\)"):
        TextCache(tmp_path / "s", Broken()).encode(["a cat"])
    assert not (tmp_path / "s").exists()


def test_where_the_encoder_does_not_say_what_it_cut_nobody_does(tmp_path: Path) -> None:
    class Silent(FakeEmbedder):
        def encode(self, texts: list[str]) -> Encoded:
            return Encoded(super().encode(texts).embeds, None)

    for folder in (tmp_path / "s", None):
        assert TextCache(folder, Silent()).encode(["a cat", LONG]).cut is None
