"""Pictures by key: what the tower gives of each alone; broken ones have no vector; nothing is done twice."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from proclip import embed
from proclip.cli import main
from proclip.config import DataConfig, TuneConfig
from proclip.data.batches import TuneBatch
from proclip.data.dataset import ImageCaptions, Samples
from proclip.data.loaders import TuneBatches
from proclip.data.store import EmbeddingStore, StoreWriter, caption_key
from proclip.embed import embed_pictures
from proclip.errors import ProclipError
from proclip.models.clip import Clip, load_clip
from proclip.seeding import derive_seed

IDENTITY = {"kind": "tower"}


@pytest.fixture
def data(tiny_world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_world, tmp_path / "data"))


@pytest.fixture
def clip(tiny_clip_path: Path) -> Clip:
    return load_clip(str(tiny_clip_path))


def samples_of(data: Path) -> Samples:
    return ImageCaptions(data).select("align")


def embedded(data: Path, clip: Clip, folder: Path) -> embed.PictureCounts:
    return embed_pictures(samples_of(data), clip.image_tower, clip.preprocess, folder, IDENTITY)


def slow(samples: Samples, clip: Clip) -> torch.Tensor:
    with torch.no_grad():
        features = [clip.image_tower.eval()(clip.preprocess(s.picture.open())[None])[0] for s in samples]
    return F.normalize(torch.stack(features), dim=-1)


def spoil(samples: Samples, number: int) -> None:
    """Damage a picture, its size and time of change as they were."""
    path = Path(str(samples[number].picture))
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_vectors_are_the_towers_of_each_picture_alone(
    data: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "PICTURES", 4)
    counts, samples = embedded(data, clip, tmp_path / "store"), samples_of(data)
    assert counts == embed.PictureCounts(9, 0, None)
    store = EmbeddingStore.open(tmp_path / "store", expect=IDENTITY)
    torch.testing.assert_close(store.rows([s.key for s in samples]), slow(samples, clip), rtol=1e-5, atol=1e-6)
    assert embedded(data, clip, tmp_path / "store") == embed.PictureCounts(0, 0, None)


@pytest.mark.parametrize("batch", [1, 4, 128])
def test_broken_pictures_have_no_vector_and_are_tried_again(
    data: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(embed, "PICTURES", batch)
    samples, whole = samples_of(data), Path(shutil.copytree(data, tmp_path / "whole"))
    for number in (0, 4, 5):
        spoil(samples, number)
    for tried in (9, 3):
        counts = embedded(data, clip, tmp_path / "store")
        assert (counts.pictures, counts.broken) == (tried, 3)
        assert counts.first_broken is not None
        assert counts.first_broken.split(":")[0] in {samples[number].key for number in (0, 4, 5)}
    store = EmbeddingStore.open(tmp_path / "store")
    keys = [s.key for s in samples]
    good = [n for n in range(9) if n not in (0, 4, 5)]
    assert store.holds(keys).tolist() == [n in good for n in range(9)]
    torch.testing.assert_close(store.rows([keys[n] for n in good]), slow(samples_of(whole), clip)[good])
    for number in (0, 4, 5):
        shutil.copy2(str(samples_of(whole)[number].picture), str(samples[number].picture))
    assert embedded(data, clip, tmp_path / "store") == embed.PictureCounts(3, 0, None)
    torch.testing.assert_close(EmbeddingStore.open(tmp_path / "store").rows(keys), slow(samples, clip))


def test_pictures_of_one_size_and_time_have_vectors_of_their_own(data: Path, clip: Clip, tmp_path: Path) -> None:
    samples = samples_of(data)
    size = max(s.picture.size for s in samples)
    for sample in samples:
        path = Path(str(sample.picture))
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
        os.utime(path, ns=(10**18, 10**18))
    assert len({s.picture.stamp() for s in samples}) == 1
    embedded(data, clip, tmp_path / "store")
    found = EmbeddingStore.open(tmp_path / "store").rows([s.key for s in samples])
    torch.testing.assert_close(found, slow(samples, clip), rtol=1e-5, atol=1e-6)


def test_a_picture_that_has_changed(data: Path, clip: Clip, tmp_path: Path) -> None:
    embedded(data, clip, tmp_path / "store")
    samples = samples_of(data)
    shutil.copyfile(str(samples[4].picture), str(samples[3].picture))
    os.utime(str(samples[3].picture), ns=(10**18, 10**18))
    assert embedded(data, clip, tmp_path / "store").pictures == 1
    store = EmbeddingStore.open(tmp_path / "store")
    torch.testing.assert_close(*store.rows([samples[3].key, samples[4].key]), rtol=1e-5, atol=1e-6)
    assert len(store) == len(samples)
    assert embedded(data, clip, tmp_path / "store").pictures == 0


@pytest.mark.parametrize("broken", [[], [1], [0, 1, 2, 3]])
def test_stopped_in_the_middle(
    data: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: list[int]
) -> None:
    """What was encoded before Ctrl-C is not encoded again, and the store is that of an undisturbed run."""
    monkeypatch.setattr(embed, "PICTURES", 4)
    monkeypatch.setattr("proclip.data.embed_plan.CHUNK", 4)
    for number in broken:
        spoil(samples_of(data), number)
    embedded(data, clip, tmp_path / "whole")
    seen, forward = list[int](), clip.image_tower.forward

    def stopping(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if sum(seen) > 4 - len(broken) and stop:
            stop.clear()
            raise KeyboardInterrupt
        return forward(pixels)

    stop = [True]
    monkeypatch.setattr(clip.image_tower, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        embedded(data, clip, tmp_path / "store")
    counts = embedded(data, clip, tmp_path / "store")
    assert (counts.pictures, counts.broken) == (9, len(broken))
    assert seen == [*([4 - len(broken)] if len(broken) < 4 else []), 1, 1, 4]  # the one that was stopped comes twice
    for path in (tmp_path / "whole").glob("[!.]*"):
        assert path.read_bytes() == (tmp_path / "store" / path.name).read_bytes(), path.name


def test_training_goes_past_a_broken_picture(data: Path, clip: Clip, tmp_path: Path) -> None:
    """Without the teacher's vector: another picture takes its place, with that one's own."""
    samples, config = samples_of(data), TuneConfig(captions=("short",), batch_size=4)
    with StoreWriter(tmp_path / "llm", {}, 2) as writer:
        writer.add([caption_key(s.key, "short") for s in samples], torch.randn(9, 2))
    llm = EmbeddingStore.open(tmp_path / "llm")
    spoil(samples, 2)
    embedded(data, clip, tmp_path / "store")
    teacher, key = EmbeddingStore.open(tmp_path / "store"), samples[2].key
    with pytest.raises(ProclipError, match=rf"1 of 9 pictures, such as '{key}', are not among .* more than the 0\.01"):
        TuneBatches(samples, llm, clip.preprocess, config, 0, teacher)
    broken = DataConfig(dataset=str(data), store="-", max_broken_share=0.5)
    batches = TuneBatches(samples, llm, clip.preprocess, config, 0, teacher, broken)
    found = [batch.teacher_embeds for epoch in range(3) for batch in batches.epoch(epoch)]
    assert all(embeds is not None and bool(torch.isfinite(embeds).all()) for embeds in found)
    assert batches.broken.total() == 1
    shutil.copy2(str(samples[3].picture), str(samples[2].picture))  # good now, but the teacher has not seen it
    again = TuneBatches(samples, llm, clip.preprocess, replace(config, batch_size=9), 0, teacher, broken)
    (batch,) = again.epoch(0)
    assert isinstance(batch, TuneBatch) and batch.teacher_embeds is not None
    assert derive_seed(key) not in batch.image_ids.tolist() and again.broken.total() == 1


def test_an_archive_may_be_copied_or_mended(tmp_path: Path, tiny_world: Path, clip: Clip) -> None:
    """Another time of change, other places of its members: the same pictures. The mended one alone is embedded."""
    pictures = {f"{n:03d}.jpg": Path(str(s.picture)).read_bytes() for n, s in enumerate(samples_of(tiny_world))}

    def archive(content: dict[str, bytes]) -> Samples:
        (tmp_path / "shards").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "shards" / "00000.tar", "w") as tar:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        assert main(["data", "index", str(tmp_path / "shards")]) == 0
        return ImageCaptions(tmp_path / "shards").select("any")

    def counts(samples: Samples) -> tuple[int, int]:
        found = embed_pictures(samples, clip.image_tower, clip.preprocess, tmp_path / "store", IDENTITY)
        return found.pictures, found.broken

    assert counts(archive(pictures | {"001.jpg": b"broken"})) == (9, 1)
    assert counts(archive(pictures)) == (1, 0)
    os.utime(tmp_path / "shards" / "00000.tar", ns=(10**18, 10**18))
    assert counts(archive(pictures)) == (0, 0)
    assert counts(archive(pictures | {"003.jpg": pictures["004.jpg"] + bytes(9)})) == (1, 0)
    store = EmbeddingStore.open(tmp_path / "store")
    torch.testing.assert_close(*store.rows(["00000/003", "00000/004"]), rtol=1e-5, atol=1e-6)
