"""Training images: the same for any number of threads and any start, broken ones replaced, captions by chance."""

from __future__ import annotations

import json
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import picture, sample, write_shard, write_shards
from torch import Tensor

from proclip.config import AugmentConfig, DataConfig, MixtureConfig, TuneConfig
from proclip.data import ahead
from proclip.data.checking import check_source
from proclip.data.dataset import ImageCaptions, Samples
from proclip.data.image_loading import ImageLoader
from proclip.data.loaders import TuneBatches
from proclip.data.sources import open_sources
from proclip.data.statistics import picture_statistics
from proclip.data.store import EmbeddingStore, StoreWriter, caption_key
from proclip.data.tar_index import index_folder
from proclip.data.transforms import augment, smallest_side
from proclip.errors import ProclipError
from proclip.models.image_files import decode_image
from proclip.models.preprocess import ImagePreprocess, NaflexPreprocess
from proclip.seeding import derive_seed

PREPROCESS = ImagePreprocess(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
AUGMENT = AugmentConfig(min_scale=0.5, rotation=10, brightness=0.2)


def loader(samples: Samples, captions: object = ("caption",), batch_size: int = 4, **data: object) -> ImageLoader:
    return ImageLoader(samples, captions, PREPROCESS, AUGMENT, batch_size, 0, DataConfig(**data))  # type: ignore[arg-type]


def keys_of(images: ImageLoader, epoch: int = 0) -> list[str]:
    order = images.order.epoch(epoch)
    return [images.load(place, order, epoch).sample.key for place in range(len(order))]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = write_shards(tmp_path / "shards", shards=3, samples=8)
    index_folder(folder, workers=1)
    return folder


@pytest.fixture
def broken_shards(tmp_path: Path) -> Path:
    """24 samples, three with broken pictures."""
    for shard in range(3):
        members = [m for n in range(8) for m in sample(f"{shard}{n}", 8 * shard + n, f"caption {n}")]
        spoiled = {f"{shard}{n}.jpg" for n in (shard, 7) if shard < 2} - {"17.jpg"}
        members = [(name, content[:150] if name in spoiled else content) for name, content in members]
        write_shard(tmp_path / "broken" / f"{shard}.tar", members)
    index_folder(tmp_path / "broken", workers=1)
    return tmp_path / "broken"


def store(samples: Samples, folder: Path, columns: tuple[str, ...] = ("caption",)) -> EmbeddingStore:
    keys = [caption_key(one.key, column) for one in samples for column in columns]
    with StoreWriter(folder, {"model": "llm"}, 6) as writer:
        writer.add(keys, torch.randn(len(keys), 6, generator=torch.Generator().manual_seed(0)))
    return EmbeddingStore.open(folder)


def batches_of(source: TuneBatches, epoch: int, start: int = 0) -> list[list[Tensor]]:
    return [[b.pixel_values, b.llm_embeds, b.image_ids, b.text_ids] for b in source.epoch(epoch, start)]


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_and_start_change_nothing(
    threads: int, broken_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = ImageCaptions(broken_shards).select("x")
    llm = store(samples, tmp_path / "llm")
    config, data = TuneConfig(captions=("caption",), batch_size=5, augment=AUGMENT), DataConfig(max_broken_share=0.5)
    monkeypatch.setattr(ahead, "DECODE_THREADS", 2)
    wanted = {epoch: batches_of(TuneBatches(samples, llm, PREPROCESS, config, 3, data=data), epoch) for epoch in (0, 1)}
    monkeypatch.setattr(ahead, "DECODE_THREADS", threads)
    for epoch in (0, 1):
        for start in (0, 1, 3):
            source = TuneBatches(ImageCaptions(broken_shards).select("x"), llm, PREPROCESS, config, 3, data=data)
            found = batches_of(source, epoch, start)
            assert len(found) == 4 - start
            for one, other in zip(found, wanted[epoch][start:], strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_broken_picture_is_replaced_by_one_of_a_later_batch(broken_shards: Path) -> None:
    images = loader(ImageCaptions(broken_shards).select("x"), max_broken_share=0.5)
    order = images.order.epoch(0)
    plain = [images.samples[order[place].item].key for place in range(24)]
    assert sorted({"0/00", "0/07", "1/11"} & set(plain)) == ["0/00", "0/07", "1/11"]
    for place in range(24):
        loaded = images.load(place, order, 0)
        if plain[place] not in {"0/00", "0/07", "1/11"}:
            assert loaded.sample.key == plain[place] and not loaded.broken
            continue
        later = [plain[(place + 4 + n) % 24] for n in range(24)]
        assert loaded.sample.key == next(key for key in later if key not in {"0/00", "0/07", "1/11"})
        assert loaded.broken is not None
        assert loaded.broken.key == plain[place] and loaded.broken.instead == loaded.sample.key
        assert "truncated" in loaded.broken.why or "cannot be read" in loaded.broken.why


def test_broken_pictures_are_counted_written_once_and_too_many_stop(
    broken_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = ImageCaptions(broken_shards).select("x")
    llm, config = store(samples, tmp_path / "llm"), TuneConfig(captions=("caption",), batch_size=6)
    file = tmp_path / "run" / "broken_images.jsonl"
    for _ in range(2):  # a second start of the run
        source = TuneBatches(
            samples, llm, PREPROCESS, config, 0, data=DataConfig(max_broken_share=0.2), broken_file=file
        )
        assert len(list(source.epoch(0))) == 4 and source.broken.total() == 3
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["key"] for line in lines) == ["0/00", "0/07", "1/11"]
    assert all(line.keys() == {"key", "why", "instead"} and str(broken_shards) in line["why"] for line in lines)
    said = capsys.readouterr().err
    assert said.count("is broken, ") == 3 and "'0/07' is broken, '" in said
    source = TuneBatches(samples, llm, PREPROCESS, config, 0, data=DataConfig(max_broken_share=0.1))
    with pytest.raises(ProclipError, match=r"3 of \d+ images of this pass are broken, more than the share of 0\.1"):
        list(source.epoch(0))
    with pytest.raises(ProclipError, match=r"'0/07|'0/00|'1/11"):
        list(TuneBatches(samples, llm, PREPROCESS, config, 0).epoch(0))  # 1 % of 24 pictures is none


def test_a_kind_of_file_that_pillow_does_not_implement_is_broken(tmp_path: Path) -> None:
    """A DDS of an unknown pixel format under the name of a JPEG."""
    dds = struct.pack("<4s7I44x2I4s20x20x", b"DDS ", 124, 0x1007, 32, 32, 0, 0, 0, 32, 4, b"ABCD")
    members = [("0.jpg", dds), *(m for n in range(1, 8) for m in sample(f"{n}", n, "a")), ("0.txt", b"a")]
    index_folder(write_shard(tmp_path / "0.tar", members).parent, workers=1)
    images = loader(ImageCaptions(tmp_path).select("x"), max_broken_share=0.5)
    assert len(keys_of(images)) == 8 and "0/0" not in keys_of(images)
    found = check_source(ImageCaptions(tmp_path).samples.parts[0].source)
    assert found["unreadable"].first == ["0/0: Unimplemented pixel format 1145258561"]
    assert picture_statistics(open_sources(str(tmp_path)))["formats"] == {"JPEG": 7, "unreadable": 1}


def test_nothing_but_broken_pictures(tmp_path: Path) -> None:
    members = [m for n in range(3) for m in ((f"{n}.jpg", b"no picture"), (f"{n}.txt", b"x"))]
    index_folder(write_shard(tmp_path / "a.tar", members).parent, workers=1)
    images = loader(ImageCaptions(tmp_path).select("x"), batch_size=2)
    with pytest.raises(ProclipError, match="3 pictures in a row cannot be used, such as 'a/"):
        images.load(0, images.order.epoch(0), 0)


def test_a_mixture_draws_each_source_by_its_weight(shards: Path, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", shards=1, samples=4)
    index_folder(other, workers=1)
    mixture = [MixtureConfig(path=str(shards), weight=0.5), MixtureConfig(path=str(other), weight=2.0, name="other")]
    samples = ImageCaptions(mixture).select("x")
    assert len(samples) == 28 and samples[24].key == "other/00000/000000000"
    images = loader(samples)
    for epoch in (0, 1):
        counts = Counter(keys_of(images, epoch))
        assert sum(c for key, c in counts.items() if not key.startswith("other/")) == 12
        assert [c for key, c in counts.items() if key.startswith("other/")] == [2, 2, 2, 2]
    assert set(keys_of(images, 0)) | set(keys_of(images, 1)) == {one.key for one in samples}
    order = images.order.epoch(0)
    loaded = [images.load(place, order, 0) for place in range(len(order))]
    twice = [one.pixels for one in loaded if one.sample.key == "other/00000/000000001"]
    assert len(twice) == 2 and not torch.equal(*twice)  # each copy has an augmentation of its own
    with pytest.raises(ProclipError, match=r"key '00000/000000000' is in .*give each a name"):
        ImageCaptions([MixtureConfig(path=str(shards)), MixtureConfig(path=str(other))])


def test_captions_by_chance(shards: Path) -> None:
    samples = ImageCaptions(shards).select("x")
    columns = ("raw", "short", "long")
    equal, listed = loader(samples, dict.fromkeys(columns, 0.4)), loader(samples, columns)
    chances = loader(samples, {"raw": 0.5, "short": 1.5, "long": 2.0})
    drawn: Counter[str] = Counter()
    for epoch in range(250):
        order = equal.order.epoch(epoch)
        for place in range(8):
            draw, one = order[place], samples[order[place].item]
            number = np.random.default_rng(derive_seed(0, "caption", epoch, one.key)).integers(3)
            assert equal._column(one, draw, epoch) == listed._column(one, draw, epoch) == columns[number]
            drawn[chances._column(one, draw, epoch)] += 1
    expected = {"raw": 250, "short": 750, "long": 1000}
    assert all(abs(drawn[column] - n) < 4 * n**0.5 for column, n in expected.items()), drawn


def test_a_draft_keeps_twice_the_pixels_that_the_crop_needs() -> None:
    content = picture(3, size=(1200, 900))
    least = smallest_side(PREPROCESS, AUGMENT)
    assert least is not None
    draft = decode_image(content, "x", at_least=least)
    assert draft.size == (150, 113) and min(draft.size) >= least
    for seed in range(50):
        rng = np.random.default_rng(seed)
        rng.uniform(-1, 1, size=3)
        share, _, _ = rng.uniform(AUGMENT.min_scale, 1), rng.uniform(), rng.uniform()
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        area = share * draft.width * draft.height
        sides = (min(draft.width, (area * ratio) ** 0.5), min(draft.height, (area / ratio) ** 0.5))
        assert min(sides) >= 2 * PREPROCESS.size - 1
    assert decode_image(content, "x").size == (1200, 900)
    assert decode_image(picture(3, "PNG", (1200, 900)), "x", at_least=least).size == (1200, 900)
    assert (
        smallest_side(NaflexPreprocess(size=32, patch_size=8, mean=PREPROCESS.mean, std=PREPROCESS.std), AUGMENT)
        is None
    )
    whole, small = (
        augment(decode_image(content, "x", at_least=n), PREPROCESS, AugmentConfig(), np.random.default_rng(0))
        for n in (None, 32)
    )
    assert (whole - small).abs().mean() < 0.02  # of a range of 2


def test_drafts_only_where_they_are_asked_for(shards: Path) -> None:
    samples = ImageCaptions(shards).select("x")
    assert loader(samples)._at_least == 53 and loader(samples, jpeg_draft=False)._at_least is None
    assert isinstance(samples[0].picture.open(), Image.Image)


def test_the_pool_is_not_needed_for_one_image(shards: Path) -> None:
    images = loader(ImageCaptions(shards).select("x"))
    order = images.order.epoch(0)
    with ThreadPoolExecutor(2) as pool:
        loaded = images.finish(range(4), images.start(range(4), order, 0, pool))
    assert all(torch.equal(one.pixels, images.load(n, order, 0).pixels) for n, one in enumerate(loaded))
