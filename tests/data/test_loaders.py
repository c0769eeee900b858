"""Batches depend on seed, epoch and position alone, and carry what the stages need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from proclip.config import AugmentConfig, DistillConfig, PretrainConfig, TuneConfig
from proclip.data.ahead import AHEAD
from proclip.data.batches import TuneBatch
from proclip.data.dataset import ImageCaptions, Sample
from proclip.data.image_loading import Loaded
from proclip.data.loaders import DistillBatches, PretrainBatches, TuneBatches
from proclip.data.store import EmbeddingStore, StoreWriter, caption_key
from proclip.errors import ProclipError
from proclip.models.clip import load_clip
from proclip.models.preprocess import ImagePreprocess
from proclip.seeding import derive_seed

PREPROCESS = ImagePreprocess(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
COLUMNS = ("short", "long", "name_en", "name_de")


@pytest.fixture(scope="module")
def samples(tiny_world: Path) -> list[Sample]:
    return ImageCaptions(tiny_world).select("align")


@pytest.fixture(scope="module")
def stores(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddingStore, EmbeddingStore]:
    folder = tmp_path_factory.mktemp("stores")
    keys = [caption_key(s.key, c) for s in samples for c in COLUMNS]
    for name, dim in (("llm", 6), ("teacher", 3)):
        writer = StoreWriter(folder / name, {"model": name}, dim, "float32")
        writer.add(keys, torch.randn(len(keys), dim, generator=torch.Generator().manual_seed(dim)))
        writer.close()
    return EmbeddingStore.open(folder / "llm"), EmbeddingStore.open(folder / "teacher")


def test_distill_pairs_follow_teacher_captions(
    samples: list[Sample], stores: tuple[EmbeddingStore, EmbeddingStore]
) -> None:
    llm, teacher = stores
    config = DistillConfig(captions=("short", "name_de"), teacher_captions={"name_de": "name_en"}, batch_size=4)
    batches = list(DistillBatches(samples, llm, teacher, config, seed=0).epoch(0))
    assert len(batches) == 4  # 9 samples x 2 columns, two texts left over
    wanted = {}
    for s in samples:
        for own, other in (("short", "short"), ("name_de", "name_en")):
            row = llm.rows([caption_key(s.key, own)])[0]
            wanted[tuple(row.tolist())] = teacher.rows([caption_key(s.key, other)])[0].tolist()
    seen = [
        (tuple(x.tolist()), y.tolist()) for b in batches for x, y in zip(b.llm_embeds, b.teacher_embeds, strict=True)
    ]
    assert len({x for x, _ in seen}) == 16
    assert all(wanted[x] == y for x, y in seen)


def test_distill_leaves_out_what_the_teacher_would_cut(
    samples: list[Sample], stores: tuple[EmbeddingStore, EmbeddingStore], tmp_path: Path
) -> None:
    """The left-out captions need no teacher embedding, and still count for the adapter's input norm."""
    llm, teacher = stores
    config = DistillConfig(captions=("short", "long"), batch_size=3)
    long = {s.captions["long"] for s in samples}
    kept = [caption_key(s.key, "short") for s in samples]
    with StoreWriter(tmp_path / "poor", {}, 3) as writer:
        writer.add(kept, teacher.rows(kept))
    poor = EmbeddingStore.open(tmp_path / "poor")
    source = DistillBatches(samples, llm, poor, config, seed=0, skip=lambda texts: [text in long for text in texts])
    assert (source.texts, source.left_out) == (18, 9)
    seen = torch.cat([batch.llm_embeds for batch in source.epoch(0)])
    assert sorted(seen.tolist()) == sorted(llm.rows(kept).tolist())
    everything = DistillBatches(samples, llm, teacher, config, seed=0)
    assert torch.equal(torch.cat([*source.training_llm_embeds()]), torch.cat([*everything.training_llm_embeds()]))


def test_tune_batches_resume_in_the_middle(
    samples: list[Sample], stores: tuple[EmbeddingStore, EmbeddingStore]
) -> None:
    config = TuneConfig(
        captions=("short", "long"), batch_size=2, augment=AugmentConfig(min_scale=0.5, rotation=20, brightness=0.3)
    )
    source = TuneBatches(samples, stores[0], PREPROCESS, config, seed=3)
    whole, rest = list(source.epoch(1)), list(source.epoch(1, start=2))
    assert len(whole) == source.steps_per_epoch == 4
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.pixel_values, b.pixel_values)
        assert torch.equal(a.llm_embeds, b.llm_embeds)
        assert torch.equal(a.text_ids, b.text_ids)
    other = next(iter(source.epoch(2)))
    assert not torch.equal(other.pixel_values, whole[0].pixel_values)
    drawn = torch.cat([b.llm_embeds for e in range(6) for b in source.epoch(e)]).unique(dim=0)
    assert len(drawn) == 18  # both captions of every image come


def test_tune_batches_bring_the_cached_teacher(
    samples: list[Sample], stores: tuple[EmbeddingStore, EmbeddingStore], tmp_path: Path
) -> None:
    config, keys = TuneConfig(captions=("short",), batch_size=3), [s.key for s in samples]
    writer = StoreWriter(tmp_path / "images", {"model": "tower"}, 3, "float32")
    writer.add(keys[1:], torch.arange(3.0 * len(keys[1:])).view(-1, 3))
    writer.close()
    teacher = EmbeddingStore.open(tmp_path / "images")
    with pytest.raises(ProclipError, match=keys[0]):
        TuneBatches(samples, stores[0], PREPROCESS, config, seed=3, teacher=teacher)
    with_teacher = TuneBatches(samples[1:], stores[0], PREPROCESS, config, seed=3, teacher=teacher).epoch(0)
    without = TuneBatches(samples[1:], stores[0], PREPROCESS, config, seed=3).epoch(0)
    ids = {derive_seed(key): key for key in keys}
    for one, other in zip(with_teacher, without, strict=True):
        assert other.teacher_embeds is None and torch.equal(one.pixel_values, other.pixel_values)
        assert one.teacher_embeds is not None
        assert torch.equal(one.teacher_embeds, teacher.rows([ids[int(i)] for i in one.image_ids]))


def test_batches_in_parts_are_the_same_batches(
    samples: list[Sample], stores: tuple[EmbeddingStore, EmbeddingStore], tiny_clip_path: Path
) -> None:
    """At every walk, and from any start; a part is decoded when a walk comes to it, a few ahead."""
    clip = load_clip(str(tiny_clip_path))
    augment = AugmentConfig(min_scale=0.5, rotation=20, brightness=0.3)
    tune = TuneConfig(captions=("short", "long"), batch_size=4, augment=augment)
    pretrain = PretrainConfig(captions=("short", "name_en"), batch_size=4, augment=augment)
    for size in (1, 3):
        for plain, parts in (
            [TuneBatches(samples, stores[0], PREPROCESS, replace(tune, micro_batch_size=m), 3) for m in (None, size)],
            [
                PretrainBatches(samples, clip.tokenizer, clip.preprocess, replace(pretrain, micro_batch_size=m), 3)
                for m in (None, size)
            ],
        ):
            for start in (0, 1):
                for whole, batch in zip(plain.epoch(1, start), parts.epoch(1, start), strict=True):
                    for _ in range(3):
                        walked = list(batch.parts)
                        assert [len(part.pixel_values) for part in walked] == ([1] * 4 if size == 1 else [3, 1])
                        for name in ("pixel_values", "image_ids", "text_ids"):
                            joined = torch.cat([getattr(part, name) for part in walked])
                            assert torch.equal(joined, getattr(whole, name))
                        if isinstance(whole, TuneBatch):
                            assert torch.equal(torch.cat([part.llm_embeds for part in walked]), whole.llm_embeds)


def test_few_parts_are_in_memory_and_none_is_decoded_in_vain(
    samples: list[Sample], stores: tuple[EmbeddingStore, EmbeddingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TuneConfig(captions=("short",), batch_size=4, micro_batch_size=1)
    source = TuneBatches(samples, stores[0], PREPROCESS, config, seed=3)
    decoded: list[int] = []
    load = source._images.load

    def counted(place: int, *order: Any) -> Loaded:
        decoded.append(place)
        return load(place, *order)

    monkeypatch.setattr(source._images, "load", counted)
    used = 0
    for batch in source.epoch(0):
        for _ in range(2):
            for _ in batch.parts:
                used += 1
                assert len(decoded) <= used + AHEAD
    assert used == len(decoded) == 2 * 4 * source.steps_per_epoch


def test_pretrain_batches(samples: list[Sample], tiny_clip_path: Path) -> None:
    clip = load_clip(str(tiny_clip_path))
    config = PretrainConfig(captions=("short", "name_en"), batch_size=4)
    batch = next(iter(PretrainBatches(samples, clip.tokenizer, clip.preprocess, config, seed=0).epoch(0)))
    assert batch.pixel_values.shape == (4, 3, 16, 16)
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert (batch.input_ids[:, 0] == clip.tokenizer.tokenizer.bos_token_id).all()
    assert batch.image_ids.unique().numel() == 4


def test_missing_embedding_is_named(
    samples: list[Sample], stores: tuple[EmbeddingStore, EmbeddingStore], tmp_path: Path
) -> None:
    writer = StoreWriter(tmp_path / "llm", {"model": "llm"}, 6, "float32")
    writer.add([caption_key(samples[0].key, "short")], torch.zeros(1, 6))
    writer.close()
    poor = EmbeddingStore.open(tmp_path / "llm")
    with pytest.raises(ProclipError, match=samples[1].key):
        DistillBatches(samples, poor, stores[1], DistillConfig(captions=("short",), batch_size=4), seed=0)
    with pytest.raises(ProclipError, match=f"{samples[0].key}#long"):
        TuneBatches(samples, poor, PREPROCESS, TuneConfig(captions=("long",), batch_size=4), seed=0)
    with pytest.raises(ProclipError, match=r"'name_de' is not one of distill\.captions"):
        DistillBatches(
            samples, *stores, DistillConfig(captions=("short",), teacher_captions={"name_de": "short"}), seed=0
        )


def test_too_few_samples(samples: list[Sample], stores: tuple[EmbeddingStore, EmbeddingStore]) -> None:
    with pytest.raises(ProclipError, match="1 images are too few"):
        TuneBatches(samples[:1], stores[0], PREPROCESS, TuneConfig(captions=("short",)), seed=0)
