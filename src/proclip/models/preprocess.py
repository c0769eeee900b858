"""Images to pixel values as the checkpoint wants them. Pillow only: torchvision is never needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import ProclipError
from ..files import read_json


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """What an image tower wants: resize the shorter side, crop the centre, scale to [0, 1], normalise."""

    size: int
    """Side of the square image, pixels."""
    mean: tuple[float, float, float]
    """Of each channel, in [0, 1]."""
    std: tuple[float, float, float]
    """Of each channel, in [0, 1]."""
    resample: int = int(Image.Resampling.BICUBIC)
    """Pillow's number of the resampling filter."""
    resize: Literal["crop", "squash"] = "crop"
    """``crop``: the shorter side to `size`, then the centre square; ``squash``: straight to size x size."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, source: str) -> ImagePreprocess:
        """Read the fields of a transformers ``preprocessor_config.json``.

        Raises:
            ProclipError: a field is missing or of a form not known here; the message names `source`.
        """
        try:
            crop = config.get("crop_size") or config["size"]
            size = crop if isinstance(crop, int) else crop.get("height") or crop["shortest_edge"]
            mean, std = config["image_mean"], config["image_std"]
        except (KeyError, AttributeError) as error:
            raise ProclipError(f"{source}: no usable crop_size/size, image_mean or image_std ({error})") from None
        resample = int(config.get("resample", Image.Resampling.BICUBIC))
        squash = not config.get("crop_size") and isinstance(config.get("size"), Mapping) and "height" in config["size"]
        resize: Literal["crop", "squash"] = "squash" if squash else "crop"
        return cls(size=int(size), mean=tuple(mean), std=tuple(std), resample=resample, resize=resize)

    @classmethod
    def from_folder(cls, folder: str | Path) -> ImagePreprocess:
        """Read ``preprocessor_config.json`` of a checkpoint folder."""
        path = Path(folder) / "preprocessor_config.json"
        if not path.is_file():
            raise ProclipError(f"{path} is missing: it says how images are resized and normalised")
        return cls.from_config(read_json(path), source=str(path))

    def to_config(self) -> dict[str, Any]:
        """The ``preprocessor_config.json`` that transformers' CLIPImageProcessor reads."""
        square = {"height": self.size, "width": self.size}
        squash = self.resize == "squash"
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": square if squash else {"shortest_edge": self.size},
            "resample": self.resample,
            "do_center_crop": not squash,
            "crop_size": None if squash else square,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_convert_rgb": True,
        }

    def __call__(self, image: Image.Image) -> Tensor:
        """An image to [3, size, size] float32."""
        return self.normalize(self.resize_and_crop(to_rgb(image)))

    def resize_and_crop(self, image: Image.Image) -> Image.Image:
        """The shorter side to `size`, then the centre square; or the whole image to the square."""
        if self.resize == "squash":
            return image.resize((self.size, self.size), self.resample)
        scale = self.size / min(image.size)
        width, height = (max(self.size, int(side * scale)) for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), self.resample)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return image.crop((left, top, left + self.size, top + self.size))

    def normalize(self, image: Image.Image) -> Tensor:
        """An RGB image to a float32 tensor, channels first, less mean, over deviation."""
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float().div_(255)
        mean, std = torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)
        return pixels.sub_(mean).div_(std)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; transparent parts become white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def read_image(path: str | Path) -> Image.Image:
    """Open and decode an image as RGB; transparent parts become white.

    Raises:
        ProclipError: the file is missing or is not a readable image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except FileNotFoundError:
        raise ProclipError(f"image {path} is missing") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ProclipError(f"image {path} cannot be read: {error}") from None
