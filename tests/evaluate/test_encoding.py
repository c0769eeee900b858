"""The engine gives what the encoders give, does nothing twice, and shares its work between processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from fake_embedder import FakeEmbedder
from PIL import Image
from safetensors.torch import load_file, save_file

from proclip.data import text_cache
from proclip.data.images import ImageFiles
from proclip.errors import ProclipError
from proclip.evaluate import encoding
from proclip.evaluate.dual_encoder import DualEncoder
from proclip.evaluate.encoding import digest_of_pictures, open_encoders
from proclip.evaluate.functions import from_functions
from proclip.evaluate.open_model import open_model
from proclip.models.clip import load_clip
from proclip.models.embedder import Encoded

PROCESSES = 2
TEXTS = ["a red bar", "a green square on white", "a column", "a grey bar", "a blue bar"]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    take_small_steps(monkeypatch.setattr)


def take_small_steps(set_value: Callable[[Any, str, Any], None]) -> None:
    """Units and batches so small that a dozen pictures make several."""
    set_value(encoding, "PICTURES_A_UNIT", 5)
    set_value(encoding, "BATCH", 2)
    set_value(text_cache, "TEXTS_A_CHUNK", 2)


def pictures(world: Path) -> ImageFiles:
    return ImageFiles({path.stem: path for path in sorted((world / "images").glob("*.png"))})


def colours(images: Sequence[Image.Image]) -> torch.Tensor:
    return torch.tensor([image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)) for image in images]).float()


class Counting:
    """A pair of functions that keep what they were asked."""

    def __init__(self) -> None:
        self.pictures = 0
        self.texts: list[str] = []

    def encode_image(self, images: list[Image.Image]) -> Any:
        self.pictures += len(images)
        return colours(images).numpy()

    def encode_text(self, texts: list[str]) -> Any:
        self.texts += texts
        return [[len(text), text.count("r"), 1] for text in texts]

    def model(self, identity: str | None = "colours v1") -> DualEncoder:
        return from_functions(self.encode_image, self.encode_text, "colours", identity)


@pytest.mark.parametrize("cached", [True, False])
def test_the_engine_equals_encoding_directly(
    tiny_clip_path: Path, tiny_world: Path, tmp_path: Path, cached: bool
) -> None:
    source, clip = pictures(tiny_world), load_clip(str(tiny_clip_path))
    keys = list(source.paths)
    with torch.inference_mode():
        features = clip.image_tower(torch.stack([clip.preprocess(source.open(key)) for key in keys]))
    for _ in range(2):
        encoders, counts = open_encoders(open_model(str(tiny_clip_path)), source, tmp_path if cached else None)
        mixed = [*keys[3:], keys[0], keys[4]]
        wanted = torch.stack([features[keys.index(key)] for key in mixed])
        torch.testing.assert_close(encoders.image_features(mixed), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encoders.encode_image(keys), F.normalize(features, dim=-1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encoders.encode_text(TEXTS), clip.encode(TEXTS).embeds, rtol=1e-5, atol=1e-5)
        assert encoders.encode_class is None
        assert counts.truncated == {"texts": 0, "share": 0.0}
    assert (counts.pictures, counts.texts) == ((0, 0) if cached else (12, 5))
    assert (counts.images_per_second is None) is cached


def test_a_picture_is_encoded_once_and_a_later_run_encodes_none(tiny_world: Path, tmp_path: Path) -> None:
    source, first, told = pictures(tiny_world), Counting(), []
    keys = list(source.paths)
    encoders, counts = open_encoders(first.model(), source, tmp_path, lambda *event: told.append(event))
    encoders.image_features(keys)
    assert torch.equal(encoders.image_features(keys[2:4]), colours([source.open(key) for key in keys[2:4]]))
    encoders.encode_image(keys[5:])
    encoders.encode_text(TEXTS)
    encoders.encode_text(TEXTS[1:])
    assert (first.pictures, counts.pictures) == (12, 12)
    assert counts.texts == 5
    assert counts.truncated is None  # functions do not say
    assert told == [("pictures", n, 12) for n in (5, 10, 12)] + [("texts", n, 5) for n in (2, 4, 5)]
    again = Counting()
    later, _ = open_encoders(again.model(), source, tmp_path)
    assert torch.equal(later.image_features(keys), encoders.image_features(keys))
    assert torch.equal(later.encode_text(TEXTS), encoders.encode_text(TEXTS))
    assert again.pictures == len(again.texts) == 0


def test_pictures_are_decoded_while_the_model_computes(tiny_world: Path) -> None:
    source = pictures(tiny_world)
    keys, computing, opened_meanwhile = list(source.paths), threading.Event(), threading.Event()

    class Slow(ImageFiles):
        def open(self, key: str) -> Image.Image:
            if key == keys[3]:  # of the second batch: not opened before the model computes the first
                assert computing.wait(30)
                opened_meanwhile.set()
            return super().open(key)

    def encode(images: list[Image.Image]) -> torch.Tensor:
        computing.set()
        assert opened_meanwhile.wait(30)
        return colours(images)

    model = from_functions(encode, Counting().encode_text, "slow")
    features = open_encoders(model, Slow(source.paths))[0].image_features(keys)
    assert torch.equal(features, colours([source.open(key) for key in keys]))


def test_an_interrupted_run_goes_on_from_its_last_unit(tiny_world: Path, tmp_path: Path) -> None:
    source = pictures(tiny_world)
    keys = list(source.paths)

    class Killed(Counting):
        def encode_image(self, images: list[Image.Image]) -> Any:
            if self.pictures >= 8:
                raise KeyboardInterrupt
            return super().encode_image(images)

    with pytest.raises(KeyboardInterrupt):
        open_encoders(Killed().model(), source, tmp_path)[0].image_features(keys)
    second = Counting()
    features = open_encoders(second.model(), source, tmp_path)[0].image_features(keys)
    assert second.pictures == 12 - 5
    assert torch.equal(features, colours([source.open(key) for key in keys]))


def test_nobody_gets_the_vectors_of_another_model_or_of_other_pictures(tiny_world: Path, tmp_path: Path) -> None:
    source = pictures(tiny_world)
    keys = list(source.paths)
    open_encoders(Counting().model(), source, tmp_path / "c")[0].image_features(keys)
    other = Counting()
    encoders, _ = open_encoders(other.model("colours v2"), source, tmp_path / "c")
    encoders.image_features(keys)
    encoders.encode_text(TEXTS)
    assert (other.pictures, len(set(other.texts) & set(TEXTS))) == (12, 5)
    turned = ImageFiles(dict(zip(keys, reversed(source.paths.values()), strict=True)))
    same = Counting()
    features = open_encoders(same.model(), turned, tmp_path / "c")[0].image_features(keys)
    assert same.pictures == 12
    assert torch.equal(features, colours([turned.open(key) for key in keys]))
    assert digest_of_pictures(source, keys) != digest_of_pictures(source, keys[::-1])


def test_a_picture_replaced_under_its_key_is_encoded_again(tmp_path: Path) -> None:
    paths = {f"{number:02}": tmp_path / f"{number:02}.png" for number in range(40)}
    for number, path in enumerate(paths.values()):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    open_encoders(Counting().model(), ImageFiles(paths), tmp_path / "c")[0].image_features(list(paths))
    Image.new("RGB", (9, 9), (0, 200, 0)).save(paths["01"])  # none of those whose pixels are looked at
    again = Counting()
    features = open_encoders(again.model(), ImageFiles(paths), tmp_path / "c")[0].image_features(list(paths))
    assert again.pictures == 40
    assert torch.equal(features, colours([ImageFiles(paths).open(key) for key in paths]))


def test_without_an_identity_nothing_is_kept(tiny_world: Path, tmp_path: Path) -> None:
    source = pictures(tiny_world)
    for _ in range(2):
        counting = Counting()
        encoders, _ = open_encoders(counting.model(None), source, tmp_path)
        encoders.image_features(list(source.paths))
        encoders.encode_text(TEXTS)
        assert counting.pictures == 12
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cache_is_noticed(tiny_world: Path, tmp_path: Path) -> None:
    source = pictures(tiny_world)
    keys = list(source.paths)
    open_encoders(Counting().model(), source, tmp_path)[0].image_features(keys)
    (shard,) = tmp_path.glob("images/*/*/shard-00000.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ProclipError, match="has changed since it was written"):
        open_encoders(Counting().model(), source, tmp_path)[0].image_features(keys)


def test_class_names_have_a_prompt_and_a_cache_of_their_own(tiny_world: Path, tmp_path: Path) -> None:
    captions, classes = FakeEmbedder(1), FakeEmbedder(2)
    captions.for_classes = lambda: classes  # type: ignore[method-assign]
    images = Counting().model().images
    model = DualEncoder(name="fake", images=images, texts=captions, project_text=lambda vectors: 2 * vectors)
    for _ in range(2):
        encoders, counts = open_encoders(model, pictures(tiny_world), tmp_path)
        assert encoders.encode_class is not None
        torch.testing.assert_close(encoders.encode_text(TEXTS).norm(dim=-1), torch.ones(5))
        encoders.encode_class(TEXTS[:2])
        assert counts.truncated == {"texts": 1, "share": 0.2}  # known of texts that came from the cache too
    assert (captions.seen, classes.seen) == (TEXTS, TEXTS[:2])
    assert len(list(tmp_path.glob("texts/*"))) == 2


@pytest.mark.parametrize(
    ("encode_image", "message"),
    [
        (lambda images: colours(images)[0], r"shape \[3\] for 2 inputs \('blue-bar', ...\)"),
        (lambda images: colours(images)[:1], r"shape \[1, 3\] for 2 inputs"),
        (lambda images: colours(images) / 0, "not finite for 'blue-bar'"),
    ],
)
def test_what_cannot_be_right_is_refused(tiny_world: Path, tmp_path: Path, encode_image: Any, message: str) -> None:
    source = pictures(tiny_world)
    model = from_functions(encode_image, Counting().encode_text, "broken", "v1")
    for _ in range(2):  # nothing wrong was kept
        with pytest.raises(ProclipError, match=message):
            open_encoders(model, source, tmp_path)[0].image_features(list(source.paths))


def test_sides_of_two_spaces_are_refused(tiny_world: Path) -> None:
    source = pictures(tiny_world)
    model = from_functions(colours, lambda texts: torch.ones(len(texts), 4), "two spaces")
    encoders, _ = open_encoders(model, source)
    encoders.encode_image(list(source.paths))
    with pytest.raises(ProclipError, match="two spaces: image features are 3 wide and text features 4"):
        encoders.encode_text(TEXTS)


def test_a_picture_that_cannot_be_read_is_named(tiny_world: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    source = ImageFiles({**pictures(tiny_world).paths, "bad": tmp_path / "bad.png"})
    with pytest.raises(ProclipError, match=r"bad\.png cannot be read"):
        open_encoders(Counting().model(), source)[0].image_features(list(source.paths))


def seen_together(images: list[Image.Image]) -> torch.Tensor:
    """Vectors that show which pictures were one batch."""
    return colours(images) + colours(images).mean(dim=0)


def read_together(texts: list[str]) -> torch.Tensor:
    """Vectors that show which texts were one chunk."""
    return torch.tensor([[len(text), len("".join(texts)), 1.0] for text in texts])


def share(rank: int, folder: Path, world: Path) -> None:
    torch.set_num_threads(1)
    take_small_steps(setattr)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    try:
        source = pictures(world)
        model = from_functions(seen_together, read_together, "together", "v1")
        encoders, counts = open_encoders(model, source, folder / "cache")
        found = {"features": encoders.image_features(list(source.paths)), "texts": encoders.encode_text(TEXTS)}
        save_file({**found, "counts": torch.tensor([counts.pictures, counts.texts])}, folder / f"{rank}.safetensors")
        alone, counts = open_encoders(
            from_functions(seen_together, read_together, "together"), source, folder / "cache"
        )
        assert torch.equal(alone.image_features(list(source.paths)), found["features"])
        assert counts.pictures == len(source.paths)
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_encode_what_one_does(tiny_world: Path, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(share, (tmp_path, tiny_world), nprocs=PROCESSES)
    source = pictures(tiny_world)
    model = from_functions(seen_together, read_together, "together", "v1")
    encoders, counts = open_encoders(model, source, tmp_path / "one")
    features, texts = encoders.image_features(list(source.paths)), encoders.encode_text(TEXTS)
    of_rank = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(PROCESSES)]
    for found in of_rank:
        assert torch.equal(found["features"], features)
        assert torch.equal(found["texts"], texts)
    assert [found["counts"].tolist() for found in of_rank] == [[7, 3], [5, 2]]
    assert (counts.pictures, counts.texts) == (12, 5)


def test_only_what_is_missing_is_asked_of_a_text_side(tiny_world: Path, tmp_path: Path) -> None:
    class Unused(FakeEmbedder):
        def encode(self, texts: Sequence[str]) -> Encoded:
            raise AssertionError("every text is in the cache")

    for embedder in (FakeEmbedder(), Unused()):
        images = Counting().model().images
        model = DualEncoder(name="fake", images=images, texts=embedder, project_text=lambda vectors: vectors)
        open_encoders(model, pictures(tiny_world), tmp_path)[0].encode_text(TEXTS)
