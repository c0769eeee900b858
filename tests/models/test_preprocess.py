"""Preprocessing of every kind against transformers' own processors; round trips; augmentation; bad configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from proclip.config import AugmentConfig
from proclip.data.transforms import augment
from proclip.errors import ProclipError
from proclip.models.preprocess import ImagePreprocess, NaflexPreprocess, split_packed

HALF = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
KINDS = {
    "crop": ImagePreprocess(size=24, **HALF),
    "squash": ImagePreprocess(size=24, resize="squash", resample=2, **HALF),
    "naflex": NaflexPreprocess(size=32, patch_size=8, max_num_patches=17, resample=2, **HALF),
}
THEIRS = {"crop": CLIPImageProcessorPil, "squash": SiglipImageProcessorPil, "naflex": Siglip2ImageProcessorPil}
SIZES = [(40, 31), (31, 40), (24, 24), (9, 70), (1, 1), (301, 200)]


def picture(size: tuple[int, int]) -> Image.Image:
    return Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 50).convert("RGB")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_processor_that_reads_what_it_writes(kind: str, size: tuple[int, int]) -> None:
    ours = KINDS[kind]
    processor = THEIRS[kind](**{k: v for k, v in ours.to_config().items() if k != "image_processor_type"})
    theirs = processor(picture(size), return_tensors="pt")
    result = ours(picture(size))
    if kind == "naflex":
        patches, mask, grid = split_packed(result[None])
        torch.testing.assert_close(patches, theirs.pixel_values, atol=1e-5, rtol=0)
        assert torch.equal(mask, theirs.pixel_attention_mask.long())
        assert torch.equal(grid, theirs.spatial_shapes.long())
    else:
        torch.testing.assert_close(result, theirs.pixel_values[0], atol=1e-5, rtol=0)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(16, 256), (14, 729), (8, 1), (16, 1024)]))
@settings(max_examples=100, deadline=None)
def test_naflex_grid_is_that_of_transformers(width: int, height: int, sizes: tuple[int, int]) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    p, most = sizes
    grid = NaflexPreprocess(size=p, patch_size=p, max_num_patches=most, **HALF).grid(width, height)
    assert tuple(p * side for side in grid) == get_image_size_for_max_num_patches(height, width, p, most)
    assert 1 <= grid[0] * grid[1] <= most


@pytest.mark.parametrize("kind", KINDS)
def test_written_and_read_again(kind: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(KINDS[kind].to_config()))
    read = ImagePreprocess.from_folder(tmp_path)
    if kind == "naflex":  # the nominal size follows from the patches
        assert isinstance(read, NaflexPreprocess) and read.size == 8 * 4
    assert read == KINDS[kind]


CLIP = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "size": 224, "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "feature_extractor_type": "CLIPFeatureExtractor",
}  # fmt: skip
"""As openai/clip-vit-base-patch32 and LAION's have it."""


def test_configs_of_the_hub() -> None:
    def read(config: dict[str, Any]) -> ImagePreprocess:
        return ImagePreprocess.from_config(config, source="x")

    old = read(CLIP)
    assert (old.size, old.resize, old.resample) == (224, "crop", 3)
    square = {"height": 336, "width": 336}
    new = read({**CLIP, "size": {"shortest_edge": 336}, "crop_size": square, "rescale_factor": 1 / 255})
    assert (new.size, new.resize) == (336, "crop")
    siglip = {k: v for k, v in CLIP.items() if k not in ("crop_size", "do_center_crop", "feature_extractor_type")}
    for kind in ("SiglipImageProcessor", "SiglipImageProcessorFast"):
        found = read({**siglip, "image_processor_type": kind, "size": square, "crop_size": None, "resample": 2})
        assert (found.size, found.resize, found.resample) == (336, "squash", 2)
    naflex = read({"image_processor_type": "Siglip2ImageProcessorFast", "do_convert_rgb": None, "resample": 2})
    assert isinstance(naflex, NaflexPreprocess)
    assert (naflex.patch_size, naflex.max_num_patches, naflex.mean, naflex.resample) == (16, 256, (0.5, 0.5, 0.5), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_size": 200}, "only one square size"),
        ({"size": {"height": 20, "width": 30}}, "only one square size"),
        ({"do_center_crop": False}, "without a centre crop"),
        ({"size": None}, "no usable size: None"),
        ({"size": "large"}, "no usable size: 'large'"),
        ({"image_mean": [0.5]}, r"no usable image_mean: \[0.5\]"),
        ({"image_std": None}, "no usable image_std"),
        ({"do_normalize": False}, "do_normalize is false"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"image_processor_type": "Siglip2ImageProcessor", "patch_size": 0}, "patch_size must be a whole number"),
    ],
)
def test_what_is_not_known_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProclipError, match=f"^x: .*{message}"):
        ImagePreprocess.from_config({**CLIP, **change}, source="x")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_augmentation_gives_what_the_tower_takes(kind: str, size: tuple[int, int]) -> None:
    ours = KINDS[kind]
    plain = ours(picture(size))
    config = AugmentConfig(min_scale=0.4, rotation=20, brightness=0.3)
    one, again, other = (augment(picture(size), ours, config, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.shape == plain.shape and one.dtype == torch.float32
    assert torch.equal(one, again)
    assert size == (1, 1) or not torch.equal(one, other)
    nothing = AugmentConfig(min_scale=1, rotation=0, brightness=0)
    assert torch.equal(augment(picture(size), ours, nothing, np.random.default_rng(0)), plain)
    if kind == "naflex":
        grid = split_packed(one[None])[2][0]
        assert 1 <= int(grid.prod()) <= 17


def test_a_naflex_crop_keeps_its_own_aspect_ratio() -> None:
    wide = KINDS["naflex"].fit_box(picture((100, 100)), (10, 10, 90, 30))
    assert wide.width > 2 * wide.height
    assert KINDS["squash"].fit_box(picture((100, 100)), (10, 10, 90, 30)).size == (24, 24)
