"""What people call: one input or many, arrays and files, numpy and tensors, chances of labels, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import proclip
from proclip.errors import ProclipError
from proclip.models.clip import Clip
from proclip.models.proclip import ProCLIP

TEXTS = ["a red bar", "ein grauer Balken", "a column " * 40]
LABELS = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def model(tiny_proclip_path: Path) -> ProCLIP:
    loaded = proclip.load(tiny_proclip_path, "cpu")
    assert isinstance(loaded, ProCLIP)
    return loaded


@pytest.fixture(scope="module")
def clip(tiny_clip_path: Path) -> Clip:
    loaded = proclip.load(tiny_clip_path, "cpu")
    assert isinstance(loaded, Clip)
    return loaded


@pytest.fixture(scope="module")
def files(tiny_world: Path) -> list[Path]:
    return sorted((tiny_world / "images").glob("*.png"))


def test_a_picture_is_the_same_however_it_is_given(model: ProCLIP, files: list[Path]) -> None:
    wanted = model.encode_image(files, batch_size=5)
    assert wanted.shape == (12, 16) and wanted.dtype == torch.float32
    images = [Image.open(path).convert("RGB") for path in files]
    arrays = np.stack([np.asarray(image) for image in images])
    channels_first = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    for given in (list(map(str, files)), tuple(images), iter(images), list(arrays), arrays, channels_first):
        assert torch.equal(model.encode_image(given, batch_size=5), wanted)  # type: ignore[arg-type]
    for one in (files[3], str(files[3]), images[3], arrays[3], channels_first[3]):
        embed = model.encode_image(one)  # type: ignore[arg-type]
        assert embed.shape == (16,)
        torch.testing.assert_close(embed, wanted[3])
    mixed = model.encode_image([files[0], images[1], arrays[2]])
    torch.testing.assert_close(mixed, wanted[:3])


def test_pictures_are_upright_and_their_transparent_parts_white(model: ProCLIP, tmp_path: Path) -> None:
    pixels = np.zeros((24, 24, 3), np.uint8)
    pixels[:8], pixels[8:, :6] = (200, 30, 30), (30, 30, 200)
    upright, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    wanted = model.encode_image(upright)
    assert torch.equal(model.encode_image(tmp_path / "turned.png"), wanted)
    assert torch.equal(model.encode_image(Image.open(tmp_path / "turned.png")), wanted)
    clear = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
    assert torch.equal(model.encode_image(clear), model.encode_image(Image.new("RGB", (24, 24), "white")))


@pytest.mark.parametrize("kind", ["model", "clip"])
def test_one_text_or_many(kind: str, request: pytest.FixtureRequest) -> None:
    model: ProCLIP | Clip = request.getfixturevalue(kind)
    wanted = model.encode_text(TEXTS)
    torch.testing.assert_close(wanted.norm(dim=1), torch.ones(3))
    for given in (tuple(TEXTS), iter(TEXTS), np.array(TEXTS)):
        assert torch.equal(model.encode_text(given), wanted)
    torch.testing.assert_close(model.encode_text(TEXTS, batch_size=1), wanted)
    torch.testing.assert_close(model.encode_text(TEXTS[1]), wanted[1])
    assert model.encode_text([]).shape == model.encode_image([]).shape == (0, 16)


def test_numpy(model: ProCLIP, files: list[Path]) -> None:
    images, texts = model.encode_image(files), model.encode_text(TEXTS)
    as_arrays = model.encode_image(files, convert_to_numpy=True), model.encode_text(TEXTS, convert_to_numpy=True)
    for array, tensor in zip(as_arrays, (images, texts), strict=True):
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        np.testing.assert_array_equal(array, tensor.numpy())
    cosines = model.similarity(*as_arrays)
    assert isinstance(cosines, np.ndarray)
    np.testing.assert_allclose(cosines, model.similarity(images, texts), atol=1e-6)
    chances = model.zero_shot(files, LABELS, convert_to_numpy=True)
    assert isinstance(chances, np.ndarray) and chances.shape == (12, 3)


def test_similarity_of_single_vectors(model: ProCLIP, files: list[Path]) -> None:
    images, texts = model.encode_image(files[:2]), model.encode_text(TEXTS)
    by_hand = [[sum(float(a) * float(b) for a, b in zip(i, t, strict=True)) for t in texts] for i in images]
    torch.testing.assert_close(model.similarity(images, texts), torch.tensor(by_hand))
    assert torch.equal(model.similarity(images[0], texts), images[:1] @ texts.T)
    assert model.similarity(images, texts[0]).shape == (2, 1) and model.similarity(images[0], texts[0]).shape == (1, 1)


def test_chances_of_labels(model: ProCLIP, files: list[Path]) -> None:
    templates = ["a {} thing", "one {}"]
    chances = model.zero_shot(files, LABELS, templates)
    images = model.encode_image(files)
    for row, image in zip(chances, images, strict=True):
        scores = []
        for label in LABELS:
            direction = sum(model.encode_text(t.replace("{}", label)) for t in templates)
            assert isinstance(direction, torch.Tensor)
            scores.append(math.exp(2.0) * float(image @ direction / direction.norm()))  # logit_scale is 2.0
        exps = [math.exp(score) for score in scores]
        torch.testing.assert_close(row, torch.tensor([e / sum(exps) for e in exps]))
    assert torch.equal(model.zero_shot(files, LABELS, "one {}"), model.zero_shot(files, LABELS, ["one {}"]))
    torch.testing.assert_close(model.zero_shot(files[0], LABELS, templates), chances[0])
    assert model.zero_shot([], LABELS).shape == (0, 3)


def test_a_model_with_a_bias_gives_each_label_its_own_chance(clip: Clip, files: list[Path]) -> None:
    biased = Clip(**{**vars(clip), "logit_bias": -1.5})
    cosines = clip.encode_image(files) @ clip.zero_shot_classifier(LABELS)
    wanted = 1 / (1 + torch.exp(-(math.exp(clip.logit_scale) * cosines - 1.5)))
    torch.testing.assert_close(biased.zero_shot(files, LABELS), wanted)


def test_progress_counts_inputs(
    model: ProCLIP, files: list[Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model.encode_image(files)
    model.encode_text(TEXTS)
    assert capfd.readouterr() == ("", "")
    model.encode_image(files, 5, show_progress_bar=True)
    model.encode_text(TEXTS, 2, show_progress_bar=True)
    shown = capfd.readouterr()
    assert shown.out == "" and "pictures" in shown.err and "12/12" in shown.err and "3/3" in shown.err


REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda m: m.encode_text(3), r"texts: a string or a list of strings is wanted, not int \(3\)"),
    (lambda m: m.encode_text(None), "not None"),
    (lambda m: m.encode_text({"a": 1}), "not dict"),
    (lambda m: m.encode_text({"a", "b"}), "not set"),
    (lambda m: m.encode_text(b"a"), "not bytes"),
    (lambda m: m.encode_text(["a", None]), "text 1 of 2 is not a string but None"),
    (lambda m: m.encode_text(["a", ["b"]]), "text 1 of 2 is not a string but list"),
    (lambda m: m.encode_text(""), "text 0 of 1 is empty"),
    (lambda m: m.encode_text(["a", " \n"]), "text 1 of 2 is empty"),
    (lambda m: m.encode_text("a", 0), "batch_size is 0"),
    (lambda m: m.encode_image([], 2.5), "batch_size is 2.5"),
    (lambda m: m.encode_image(None), "images: a path, a Pillow image, an array or a list of them is wanted, not None"),
    (lambda m: m.encode_image(b"\x89PNG"), "not bytes"),
    (lambda m: m.encode_image([Image.new("RGB", (9, 9)), 3]), r"picture 1 is not a path, .* but int \(3\)"),
    (lambda m: m.encode_image("nowhere.png"), "image nowhere.png is missing"),
    (lambda m: m.encode_image(["https://example.org/a.png"]), "picture 0: .* is an address, which is not fetched"),
    (lambda m: m.encode_image(Image.new("RGB", (0, 4))), "picture 0 is refused: it has 0 x 4 pixels"),
    (lambda m: m.encode_image(Image.new("RGB", (1, 400))), "one side is more than 100 times the other"),
    (
        lambda m: m.encode_image(np.full((4, 4, 3), np.nan)),
        r"uint8, not \[4, 4, 3\] of float64: where it is in \[0, 1\]",
    ),
    (lambda m: m.encode_image(np.zeros((4, 4), np.uint8)), r"picture 0: an array .* not \[4, 4\]"),
    (lambda m: m.encode_image(np.zeros((0, 4, 3), np.uint8)), r"not \[0, 4, 3\]"),
    (lambda m: m.encode_image(np.zeros((1, 1, 4, 4, 3), np.uint8)), r"not \[1, 4, 4, 3\]"),
    (lambda m: m.encode_image(np.zeros((4, 4, 3), np.int64)), "of int64$"),
    (lambda m: m.zero_shot([], []), "at least one class name"),
    (lambda m: m.zero_shot([], "cat"), "labels: a list of class names is wanted, not the string 'cat'"),
    (lambda m: m.zero_shot([], ["a", "b", "a"]), "label 'a' is there twice"),
    (lambda m: m.zero_shot([], ["a", 1]), "label 1 of 2 is not a string"),
    (lambda m: m.zero_shot([], ["a", ""]), "is empty"),
    (lambda m: m.zero_shot([], ["a"], "a photo"), "templates must each hold {}"),
    (lambda m: m.zero_shot([], ["a"], []), "templates must each hold {}"),
    (lambda m: m.similarity(torch.ones(2, 3), np.ones((2, 3), np.float32)), "both must be tensors or both arrays"),
    (lambda m: m.similarity(torch.ones(2, 3), torch.ones(4)), "vectors of width 3 and 4"),
    (lambda m: m.similarity([[1.0]], [[1.0]]), "tensors or arrays are wanted, not list"),
    (lambda m: m.similarity(torch.ones(1, 2, 3), torch.ones(2, 3)), r"are wanted, not \[1, 2, 3\]"),
    (lambda m: m.similarity(torch.tensor(1.0), torch.ones(2, 3)), r"are wanted, not \[\]"),
    (lambda m: m.similarity(torch.ones(2, 3).half(), torch.ones(2, 3)), "similarity: .*dtype"),
    (lambda m: m.encode_text(["a", "\ud800 b"]), r"text 1 of 2 is no valid Unicode: U\+D800 at 0"),
    (lambda m: m.encode_text("a", True), "batch_size is True"),
    (lambda m: m.encode_image(""), "picture 0: the path is empty"),
    (lambda m: m.encode_image(torch.rand(3, 8, 8).bfloat16()), "images: a tensor of torch.bfloat16, .* no array"),
    (lambda m: m.encode_image(torch.rand(3, 8, 8, requires_grad=True)), r"uint8, not \[3, 8, 8\] of float32"),
    (lambda m: m.encode_image([torch.zeros(3, 8, 8).to_sparse()]), "picture 0: a tensor of .*sparse_coo"),
    (lambda m: m.project_text([[0.0] * 16]), r"takes vectors \[n, 16\], a tensor or an array, not list"),
    (lambda m: m.project_text(torch.zeros(16)), r"takes vectors \[n, 16\], these are \[16\]"),
    (lambda m: m.project_text(np.full((1, 16), "a")), "of floating-point numbers, these are of <U1"),
    (lambda m: m.project_text(torch.full((2, 16), math.nan)), "not finite for 'vector 0'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_refused(model: ProCLIP, call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ProclipError, match=message):
        call(model)


def test_arrays_of_paths_and_of_the_llms_vectors(model: ProCLIP, files: list[Path]) -> None:
    paths: Any = np.array([str(path) for path in files[:2]])
    assert torch.equal(model.encode_image(paths, np.int64(2)), model.encode_image(files[:2]))  # type: ignore[call-overload]
    vectors = np.random.default_rng(0).standard_normal((3, 16), dtype=np.float32)
    assert torch.equal(model.project_text(vectors), model.project_text(torch.from_numpy(vectors)))


def test_a_broken_picture_that_pillow_has_open(model: ProCLIP, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(files[0].read_bytes()[:-40])
    with Image.open(tmp_path / "half.png") as half, pytest.raises(ProclipError, match="picture 1 cannot be read"):
        model.encode_image([files[0], half])
    with pytest.raises(ProclipError, match=r"image .*half\.png cannot be read"):
        model.encode_image(tmp_path / "half.png")


def test_numbers_that_overflow_are_refused(model: ProCLIP, tiny_proclip_path: Path, files: list[Path]) -> None:
    broken = ProCLIP.from_pretrained(tiny_proclip_path)
    with torch.no_grad():
        broken.adapter.project.bias.fill_(math.nan)
        broken.image_tower.head[-1].fill_(math.inf)
    with pytest.raises(ProclipError, match="not finite for 'a red bar'"):
        broken.encode_text(TEXTS)
    with pytest.raises(ProclipError, match="not finite for 'picture 0'"):
        broken.encode_image(files)
