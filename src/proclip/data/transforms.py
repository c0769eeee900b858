"""Augmentation of training images. Pillow only."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance
from torch import Tensor

from ..config import AugmentConfig
from ..models.image_files import to_rgb
from ..models.preprocess import ImagePreprocess, NaflexPreprocess

OVERSAMPLING = 2
"""Pixels that a draft of a JPEG keeps for each pixel of the result, along a side: the filter needs that many."""


def augment(image: Image.Image, preprocess: ImagePreprocess, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """A random rotation, crop and change of brightness and contrast, then the tower's normalisation.

    Every random number comes from `rng`, so the result depends on its seed alone. No mirroring: captions speak of
    left and right. No change of hue: they speak of colours.

    Args:
        image: any mode; transparent and rotated-in parts become white.
        preprocess: size, filter and normalisation of any kind of tower; the crop keeps its aspect ratio for NaFlex.
        config: how strong.
        rng: of this sample at this step.

    Returns:
        what `preprocess` itself gives for an image: [3, size, size] float32, or a NaFlex image packed.
    """
    image = to_rgb(image)
    angle, brightness, contrast = rng.uniform(-1, 1, size=3)
    share, x, y = rng.uniform(config.min_scale, 1), rng.uniform(), rng.uniform()
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    if config.rotation > 0:
        image = image.rotate(angle * config.rotation, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255))
    if config.min_scale == 1:
        return preprocess.normalize(_change_light(preprocess.fit_size(image), brightness, contrast, config))
    area = share * image.width * image.height
    width = min(image.width, max(1, round(float(np.sqrt(area * ratio)))))
    height = min(image.height, max(1, round(float(np.sqrt(area / ratio)))))
    left, top = x * (image.width - width), y * (image.height - height)
    box = (left, top, left + width, top + height)
    image = _change_light(preprocess.fit_box(image, box), brightness, contrast, config)
    return preprocess.normalize(image)


def _change_light(image: Image.Image, brightness: float, contrast: float, config: AugmentConfig) -> Image.Image:
    if config.brightness == 0:
        return image
    image = ImageEnhance.Brightness(image).enhance(1 + brightness * config.brightness)
    return ImageEnhance.Contrast(image).enhance(1 + contrast * config.brightness)


def smallest_side(preprocess: ImagePreprocess, config: AugmentConfig) -> int | None:
    """Shortest side that an image may be decoded at, so that the crop still has `OVERSAMPLING` times the tower's size.

    A crop keeps at least the share ``min_scale`` of the area at an aspect ratio from 3/4 to 4/3 of the image's area, so
    either of its sides is at least the square root of ``3/4 min_scale`` of the image's shorter one. None where images
    are not scaled to one size (NaFlex: up to the whole budget of patches in one direction).
    """
    if isinstance(preprocess, NaflexPreprocess):
        return None
    share = math.sqrt(0.75 * config.min_scale) if config.min_scale < 1 else 1.0
    return math.ceil(OVERSAMPLING * preprocess.size / share)
