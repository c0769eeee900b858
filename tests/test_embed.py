"""Captions to a store: each text once, whoever computes it, however often the run is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_embedder import FakeEmbedder, vector
from safetensors.torch import load_file

from proclip.data import embed_plan
from proclip.data.key_table import INDEX
from proclip.data.store import EmbeddingStore, StoreWriter
from proclip.data.store_folder import lock
from proclip.data.store_format import MANIFEST, Manifest
from proclip.embed import embed_captions
from proclip.errors import ProclipError

ROWS = [("a#short", "a cat"), ("b#short", "a dog"), ("c#short", "a cat"), ("a#long", "a long text about a cat")]
MANY = [(f"{n}#short", f"{'very ' * (n % 7)}plain text {n % 30}") for n in range(50)]
LATER = [(f"{n}#long", f"a long text {n % 20}" if n % 2 else MANY[n][1]) for n in range(50)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_plan, "WINDOW", 9)
    monkeypatch.setattr(embed_plan, "CHUNK", 3)
    monkeypatch.setattr(embed_plan, "READ", 7)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


def wanted(rows: list[tuple[str, str]]) -> torch.Tensor:
    return torch.stack([vector(text) for _, text in rows])


def test_every_caption_gets_its_texts_vector_and_each_text_is_encoded_once(tmp_path: Path) -> None:
    embedder, calls = FakeEmbedder(), []
    counts = embed_captions(ROWS, embedder, tmp_path / "s", report=lambda *numbers: calls.append(numbers))
    assert sorted(embedder.seen) == ["a cat", "a dog", "a long text about a cat"]
    assert calls == [(3, 3, 0)]
    assert (counts.rows, counts.texts, counts.kept, counts.truncated) == (4, 3, 0, 1)
    store = EmbeddingStore.open(tmp_path / "s", expect=embedder.identity)
    assert torch.equal(store.rows([key for key, _ in ROWS]), wanted(ROWS))
    assert list(store.keys) == [key for key, _ in ROWS]
    assert (len(store), store.truncated, store.manifest.rows) == (4, 1, 3)
    cut = store.cut([key for key, _ in ROWS])
    assert cut is not None and cut.tolist() == [False, False, False, True]
    store.find(*zip(*ROWS, strict=True))
    store.verify()
    assert not [name for name in files(tmp_path / "s") if name.startswith(".")]


def test_a_shard_is_a_safetensors_file(tmp_path: Path) -> None:
    embed_captions(MANY, FakeEmbedder(), tmp_path / "s", "int8")
    tensors = load_file(tmp_path / "s" / "shard-00000.safetensors")
    texts = len({text for _, text in MANY})
    assert {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} == {
        "embeds": ((texts, 4), torch.int8), "scale": ((texts,), torch.float32), "cut": ((texts,), torch.uint8),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_vectors_are_stored_in_each_format(tmp_path: Path, dtype: Any) -> None:
    embed_captions(MANY, FakeEmbedder(), tmp_path / "s", dtype)
    rows = EmbeddingStore.open(tmp_path / "s").rows([key for key, _ in MANY])
    # steps of 1 at 255 in bfloat16, of 255 / 127 in int8
    torch.testing.assert_close(rows, wanted(MANY), rtol=0, atol={"bfloat16": 0.5, "int8": 1.01}.get(dtype, 0))


def test_chunks_hold_texts_of_like_length(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    embed_captions(MANY, embedder, tmp_path / "s")
    lengths = [[len(text) for text in call] for call in embedder.calls]
    assert all(own == sorted(own, reverse=True) for own in lengths)
    longest = [own[0] for own in lengths[:3]]  # of a window: in turn, so that the time left can be told early
    assert longest != sorted(longest, reverse=True)


def test_a_later_column_costs_only_what_is_new(tmp_path: Path) -> None:
    embed_captions(MANY, FakeEmbedder(), tmp_path / "s")
    before = files(tmp_path / "s")
    embedder = FakeEmbedder()
    counts = embed_captions([*MANY, *LATER], embedder, tmp_path / "s")
    assert sorted(embedder.seen) == sorted({f"a long text {n % 20}" for n in range(1, 50, 2)})
    assert (counts.rows, counts.texts, counts.kept) == (50, 10, 50)
    store = EmbeddingStore.open(tmp_path / "s")
    assert torch.equal(store.rows([key for key, _ in [*LATER, *MANY]]), wanted([*LATER, *MANY]))
    assert all(
        files(tmp_path / "s")[name] == before[name] for name in ("shard-00000.safetensors", "keys-00000.safetensors")
    )


def test_a_column_of_known_texts_needs_no_model(tmp_path: Path) -> None:
    embed_captions(MANY, FakeEmbedder(), tmp_path / "s")
    embedder = FakeEmbedder()
    again = [(f"{key}_again", text) for key, text in MANY]
    counts = embed_captions([*again, *MANY], embedder, tmp_path / "s")
    assert (embedder.seen, counts.rows, counts.texts) == ([], 50, 0)
    store = EmbeddingStore.open(tmp_path / "s")
    assert torch.equal(store.rows([key for key, _ in again]), wanted(MANY))
    assert [entry.file for entry in store.manifest.shards] == ["shard-00000.safetensors"]
    before = files(tmp_path / "s")
    assert embed_captions([*again, *MANY], embedder, tmp_path / "s").kept == 100
    assert files(tmp_path / "s") == before


class Stopped(FakeEmbedder):
    """Encodes a number of chunks, then the run is interrupted."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self.chunks = chunks

    def encode(self, texts: Any) -> Any:
        if self.chunks == 0:
            raise KeyboardInterrupt
        self.chunks -= 1
        return super().encode(texts)


@pytest.mark.parametrize("chunks", [0, 1, 5])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, chunks: int) -> None:
    embed_captions(MANY, FakeEmbedder(), tmp_path / "whole", "float16")
    with pytest.raises(KeyboardInterrupt):
        embed_captions(MANY, stopped := Stopped(chunks), tmp_path / "s", "float16")
    assert len(EmbeddingStore.open(tmp_path / "s")) == 0
    embedder, calls = FakeEmbedder(), []
    counts = embed_captions(MANY, embedder, tmp_path / "s", "float16", report=lambda *numbers: calls.append(numbers))
    assert not set(embedder.seen) & set(stopped.seen)
    assert calls[-1][:2] == (counts.texts, counts.texts)
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_run_that_goes_on_with_chunks_of_another_size_keeps_what_is_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_captions(MANY, stopped := Stopped(4), tmp_path / "s")
    embedder = FakeEmbedder()
    embed_captions(MANY, embedder, tmp_path / "s", size=9)
    assert not set(embedder.seen) & set(stopped.seen)
    assert max(len(texts) for texts in embedder.calls) == 9
    store = EmbeddingStore.open(tmp_path / "s")
    assert torch.equal(store.rows([key for key, _ in MANY]), wanted(MANY))


def test_a_plan_of_before_chunks_had_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = embed_plan.write_tensors

    def without_size(path: Path, tensors: Any, metadata: dict[str, str]) -> None:
        real(path, tensors, {name: value for name, value in metadata.items() if name != "size"})

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed_plan, "write_tensors", without_size)
        embed_captions(MANY, stopped := Stopped(2), tmp_path / "s")
    embed_captions(MANY, embedder := FakeEmbedder(), tmp_path / "s")
    assert not set(embedder.seen) & set(stopped.seen)
    assert max(len(texts) for texts in embedder.calls) == 3


@pytest.mark.parametrize("size", [0, -3, 2])
def test_a_size_that_does_not_divide_a_window(tmp_path: Path, size: int) -> None:
    with pytest.raises(ProclipError, match=rf"size must be a divisor of 9, not {size}"):
        embed_captions(MANY, FakeEmbedder(), tmp_path / "s", size=size)


def test_what_an_interrupted_run_did_is_kept_when_the_captions_change(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_captions([*LATER, *MANY], stopped := Stopped(4), tmp_path / "s")
    embedder = FakeEmbedder()
    embed_captions(MANY, embedder, tmp_path / "s")
    assert not set(embedder.seen) & set(stopped.seen)
    store = EmbeddingStore.open(tmp_path / "s")
    assert torch.equal(store.rows([key for key, _ in MANY]), wanted(MANY))
    embed_captions([*MANY, *LATER], FakeEmbedder(), tmp_path / "s")
    store = EmbeddingStore.open(tmp_path / "s")
    assert torch.equal(store.rows([key for key, _ in [*MANY, *LATER]]), wanted([*MANY, *LATER]))
    store.verify()


MOMENTS = ["before the vectors", "before the manifest", "before the index", "before the end"]


@contextmanager
def interrupted_end(monkeypatch: pytest.MonkeyPatch, moment: str) -> Iterator[None]:
    """A plan that is finished in the block is interrupted at a moment."""
    of_plan = {"before the vectors": "name_file", "before the index": "index_of", "before the end": "clear"}
    real_end = embed_plan.Plan.finish

    def end(plan: embed_plan.Plan) -> int:
        with monkeypatch.context() as patch:
            if moment in of_plan:
                patch.setattr(embed_plan, of_plan[moment], interrupt)
            else:
                patch.setattr(embed_plan.Manifest, "write", interrupt)
            return real_end(plan)

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed_plan.Plan, "finish", end)
        yield


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_end_may_be_interrupted_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    embed_captions(MANY, FakeEmbedder(), tmp_path / "whole")
    with interrupted_end(monkeypatch, moment):
        embed_captions(MANY, FakeEmbedder(), tmp_path / "s")
    embedder = FakeEmbedder()
    embed_captions(MANY, embedder, tmp_path / "s")
    assert embedder.seen == []
    assert files(tmp_path / "s") == files(tmp_path / "whole")


@pytest.mark.parametrize("again", ["first", "other"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_plan_that_other_captions_close_may_be_interrupted_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, again: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_captions(MANY, stopped := Stopped(4), tmp_path / "s")
    with interrupted_end(monkeypatch, moment):
        embed_captions(LATER, FakeEmbedder(), tmp_path / "s")
    for captions in (MANY, LATER) if again == "first" else (LATER, MANY):
        embedder = FakeEmbedder()
        embed_captions(captions, embedder, tmp_path / "s")
        assert not set(embedder.seen) & set(stopped.seen)
        store = EmbeddingStore.open(tmp_path / "s")
        assert torch.equal(store.rows([key for key, _ in captions]), wanted(captions))
    store.verify()
    assert not [name for name in files(tmp_path / "s") if name.startswith(".")]


def test_texts_may_be_left_out(tmp_path: Path) -> None:
    counts = embed_captions(ROWS, FakeEmbedder(), tmp_path / "s", skip=lambda texts: [len(t) > 10 for t in texts])
    assert (counts.rows, counts.texts) == (3, 2)
    assert list(EmbeddingStore.open(tmp_path / "s").keys) == [key for key, _ in ROWS[:3]]


def test_a_caption_whose_text_has_changed_is_refused(tmp_path: Path) -> None:
    embed_captions(ROWS, FakeEmbedder(), tmp_path / "s")
    with pytest.raises(ProclipError, match=r"caption 'b#short' has changed .*: run  proclip embed  with --replace"):
        embed_captions([*ROWS[:1], ("b#short", "a wolf")], FakeEmbedder(), tmp_path / "s")
    with pytest.raises(ProclipError, match=r"caption 'b#short' \(and of 1 more\) has changed"):
        embed_captions([("b#short", "a wolf"), ("a#long", "a bear"), ROWS[2]], FakeEmbedder(), tmp_path / "s")


CORRECTIONS = [
    ({3: "a wolf", 60: "a wolf", 61: MANY[5][1]}, ["a wolf"]),
    ({3: "a bear"}, ["a bear"]),
    ({n: f"another text {n}" for n in range(50)}, [f"another text {n}" for n in range(50)]),
    ({}, []),
]
"""Of captions in two tables: the numbers and new texts, and which of these have no vector yet."""


def test_changed_captions_are_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    folder, captions = tmp_path / "s", [*MANY, *LATER]
    embed_captions(MANY, FakeEmbedder(), folder)
    embed_captions(LATER, FakeEmbedder(), folder)
    for corrections, new in CORRECTIONS:
        before, texts = EmbeddingStore.open(folder), wanted(captions)
        keys = [key for key, _ in captions]
        for number, text in corrections.items():
            captions[number] = captions[number][0], text
        counts = embed_captions(captions, embedder := FakeEmbedder(), folder, replace=True)
        assert sorted(embedder.seen) == sorted(new)
        assert (counts.rows, counts.kept) == (len(corrections), len(captions) - len(corrections))
        assert torch.equal(before.rows(keys), texts), "of a reader that has the store open"
        assert sorted(before.keys) == sorted(keys)
        before.verify()
        store = EmbeddingStore.open(folder)
        assert torch.equal(store.at(store.find(keys, [text for _, text in captions])), wanted(captions))
        assert sorted(store.keys) == sorted(keys)
        store.verify()
    assert files(folder).keys() == {INDEX, MANIFEST, *(entry.file for entry in store.manifest.files)}


def test_a_reader_that_missed_two_replacements_is_told(tmp_path: Path) -> None:
    embed_captions(ROWS, FakeEmbedder(), tmp_path / "s")
    before = EmbeddingStore.open(tmp_path / "s")
    for text in ("a wolf", "a bear"):
        embed_captions([("b#short", text)], FakeEmbedder(), tmp_path / "s", replace=True)
    assert torch.equal(before.rows(["b#short"])[0], vector("a dog"))
    for use in (lambda: list(before.keys), before.verify):
        with pytest.raises(ProclipError, match=r"keys-00000.safetensors is no longer there: .* open it again"):
            use()


def corrected() -> list[tuple[str, str]]:
    return [(key, f"{text} again" if n % 3 else text) for n, (key, text) in enumerate(MANY)]


@pytest.mark.parametrize("moment", ["encoding", *MOMENTS])
def test_a_replacement_may_be_stopped_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Readers have the old texts until its end. What is run then ends with the bytes of one that was left alone."""
    for name in ("whole", "s"):
        embed_captions(MANY, FakeEmbedder(), tmp_path / name)
    embed_captions(corrected(), FakeEmbedder(), tmp_path / "whole", replace=True)
    stopped = Stopped(4)
    if moment == "encoding":
        with pytest.raises(KeyboardInterrupt):
            embed_captions(corrected(), stopped, tmp_path / "s", replace=True)
    else:
        with interrupted_end(monkeypatch, moment):
            embed_captions(corrected(), stopped := FakeEmbedder(), tmp_path / "s", replace=True)
    now = MANY if moment in ("encoding", *MOMENTS[:2]) else corrected()
    assert torch.equal(EmbeddingStore.open(tmp_path / "s").rows([key for key, _ in now]), wanted(now))
    embed_captions(corrected(), embedder := FakeEmbedder(), tmp_path / "s")
    assert not set(embedder.seen) & set(stopped.seen)
    embed_captions(corrected(), FakeEmbedder(), tmp_path / "s")  # a third time: nothing is left of the old tables
    embed_captions(corrected(), FakeEmbedder(), tmp_path / "whole")
    assert files(tmp_path / "s") == files(tmp_path / "whole")


def test_a_stopped_replacement_that_other_captions_close(tmp_path: Path) -> None:
    """What was encoded is replaced, the rest is as it was."""
    embed_captions(MANY, FakeEmbedder(), tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        embed_captions(corrected(), stopped := Stopped(4), tmp_path / "s", replace=True)
    embed_captions(LATER, FakeEmbedder(), tmp_path / "s")
    now = [new if new[1] in stopped.seen else old for new, old in zip(corrected(), MANY, strict=True)]
    assert any(new != old for new, old in zip(now, MANY, strict=True))
    store = EmbeddingStore.open(tmp_path / "s")
    assert torch.equal(store.rows([key for key, _ in [*now, *LATER]]), wanted([*now, *LATER]))
    assert len(store) == len(MANY) + len(LATER)


def test_a_disk_too_small_for_a_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed_captions(MANY, FakeEmbedder(), tmp_path / "s")
    before = files(tmp_path / "s")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1))
    with pytest.raises(ProclipError, match="make room"):
        embed_captions(corrected(), FakeEmbedder(), tmp_path / "s", replace=True)
    assert files(tmp_path / "s") == before


def test_nothing_is_taken_out_of_a_store_where_a_caption_is_refused(tmp_path: Path) -> None:
    embed_captions(ROWS, FakeEmbedder(), tmp_path / "s")
    before = files(tmp_path / "s")
    with pytest.raises(ProclipError, match="'d#short' stands twice, with different texts"):
        rows = [("b#short", "a wolf"), ("d#short", "one"), ("d#short", "two")]
        embed_captions(rows, FakeEmbedder(), tmp_path / "s", replace=True)
    assert files(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a#short", " ")], "caption 'a#short' is empty"),
        ([("a#short", "one"), ("a#short", "two")], "'a#short' stands twice, with different texts"),
    ],
)
def test_bad_captions_are_refused_before_anything_is_encoded(tmp_path: Path, rows: Any, message: str) -> None:
    embedder = FakeEmbedder()
    with pytest.raises(ProclipError, match=message):
        embed_captions([("z", "fine"), *rows], embedder, tmp_path / "s")
    assert embedder.seen == []


def test_a_caption_named_twice_counts_once(tmp_path: Path) -> None:
    counts = embed_captions([*ROWS, *ROWS], FakeEmbedder(), tmp_path / "s")
    assert (counts.rows, counts.kept) == (4, 4)


def test_the_embedder_must_be_the_stores(tmp_path: Path) -> None:
    embed_captions(ROWS, FakeEmbedder(), tmp_path / "s")
    with pytest.raises(ProclipError, match="layer: want 2, have 1"):
        embed_captions(ROWS, FakeEmbedder(layer=2), tmp_path / "s")


def test_a_second_run_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proclip.embed.lock", lambda folder, wait: lock(folder, wait / 200))
    with StoreWriter(tmp_path / "s", FakeEmbedder().identity, 4), pytest.raises(ProclipError, match="another process"):
        embed_captions(ROWS, FakeEmbedder(), tmp_path / "s")


def test_a_disk_that_is_too_small_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(ProclipError, match=r"0\.0 GB are free: make room"):
        embed_captions(ROWS, embedder := FakeEmbedder(), tmp_path / "s")
    assert embedder.seen == []


def test_lines_of_what_is_done_that_are_no_range_count_for_nothing(tmp_path: Path) -> None:
    (tmp_path / f"{embed_plan.DONE}0").write_text("0 2;\n\x00\x00;\n7;\n5 6;\n8 9")  # damaged, and one cut off
    plan = embed_plan.Plan(tmp_path, Manifest(identity={}, dim=1, dtype="float32"), np.arange(10), 0, 10, 3, False)
    assert np.flatnonzero(plan.done()).tolist() == [0, 1, 5]
