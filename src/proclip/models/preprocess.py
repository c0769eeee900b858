"""Images to pixel values as the checkpoint wants them. Pillow and numpy; torch only where a tensor is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ProclipError
from ..files import read_json
from .image_files import to_rgb

if TYPE_CHECKING:
    from torch import Tensor

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """What an image tower wants: an image of fixed size, scaled to [0, 1], normalised."""

    size: int
    """Side of the square image, pixels."""
    mean: tuple[float, float, float]
    """Of each channel, in [0, 1]."""
    std: tuple[float, float, float]
    """Of each channel, in [0, 1]."""
    resample: int = int(Image.Resampling.BICUBIC)
    """Pillow's number of the resampling filter."""
    resize: Literal["crop", "squash"] = "crop"
    """``crop``: the shorter side to `size`, then the centre square (CLIP); ``squash``: either side (SigLIP)."""
    crop_offset: Literal["floor", "round"] = "floor"
    """Half an odd margin: down as transformers does, or to the even neighbour as torchvision (OpenCLIP) does."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, source: str) -> ImagePreprocess:
        """Read the fields of a transformers ``preprocessor_config.json``: of CLIP's, SigLIP's or SigLIP2's processor.

        Returns:
            a `NaflexPreprocess` for ``Siglip2ImageProcessor``.

        Raises:
            ProclipError: a field is missing or of a form not known here; the message names `source`.
        """
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if config.get(step, True) is False:
                raise ProclipError(f"{source}: {step} is false: the images would not be what the tower was trained on")
        rescale = config.get("rescale_factor") or 1 / 255
        if not _is_number(rescale) or abs(255 * rescale - 1) > 1e-6:
            raise ProclipError(f"{source}: rescale_factor is {rescale!r}, 1/255 is supported")
        if _kind_of(config) == "Siglip2ImageProcessor":
            return NaflexPreprocess.from_fields(config, source)
        size, resize = _size_of(config, source)
        mean, std = _channels(config, "image_mean", source), _channels(config, "image_std", source)
        resample = _filter_of(config, Image.Resampling.BICUBIC, source)
        offset = config.get("crop_offset", "floor")
        if offset not in ("floor", "round"):
            raise ProclipError(f"{source}: crop_offset is {offset!r}, 'floor' or 'round' is wanted")
        return ImagePreprocess(size=size, mean=mean, std=std, resample=resample, resize=resize, crop_offset=offset)

    @classmethod
    def from_folder(cls, folder: str | Path) -> ImagePreprocess:
        """Read ``preprocessor_config.json`` of a checkpoint folder, or what ``processor_config.json`` says of images.

        Raises:
            ProclipError: neither is there, or `from_config` finds a fault.
        """
        path, whole = Path(folder) / "preprocessor_config.json", Path(folder) / "processor_config.json"
        if path.is_file():
            return cls.from_config(read_json(path), source=str(path))
        part = read_json(whole).get("image_processor") if whole.is_file() else None
        if not isinstance(part, dict):
            raise ProclipError(f"{path} is missing: it says how images are resized and normalised")
        return cls.from_config(part, source=f"{whole}, image_processor")

    def to_config(self) -> dict[str, Any]:
        """The ``preprocessor_config.json`` of transformers' CLIPImageProcessor or SiglipImageProcessor.

        Both ignore ``crop_offset``.
        """
        square = {"height": self.size, "width": self.size}
        if self.resize == "squash":
            return {"image_processor_type": "SiglipImageProcessor", "size": square, **self._common()}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": self.size},
            "do_center_crop": True,
            "crop_size": square,
            **self._common(),
        }

    def _common(self) -> dict[str, Any]:
        return {
            **({"crop_offset": "round"} if self.crop_offset == "round" else {}),
            "do_resize": True,
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_convert_rgb": True,
        }

    def __call__(self, image: Image.Image) -> Tensor:
        """An image to what the tower takes, stacked: [3, size, size] float32."""
        return self.normalize(self.fit_size(to_rgb(image)))

    def fit_size(self, image: Image.Image) -> Image.Image:
        """An RGB image at the size that the tower sees."""
        if self.resize == "squash":
            return _resized(image, (self.size, self.size), self.resample)
        width, height = (self.size * side // min(image.size) for side in image.size)
        image = _resized(image, (width, height), self.resample)
        half = round if self.crop_offset == "round" else math.floor
        left, top = half((width - self.size) / 2), half((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))

    def fit_box(self, image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
        """A part (left, top, right, bottom) of an RGB image at the size that the tower sees: a random crop."""
        return image.resize((self.size, self.size), Image.Resampling(self.resample), box=box)

    def normalize(self, image: Image.Image) -> Tensor:
        """An RGB image of the right size to what the tower takes, as a tensor that shares the array's memory."""
        import torch

        return torch.from_numpy(self.array(image))

    def array(self, image: Image.Image) -> Pixels:
        """An RGB image of the right size to what the tower takes: channels first, less mean, over deviation."""
        return self._channels_first(image)

    def _channels_first(self, image: Image.Image) -> Pixels:
        # In the tower's order while they are bytes: what follows runs over memory as it lies, and so does stacking.
        pixels = np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)).astype(np.float32)
        mean, std = (np.array(values, dtype=np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        pixels /= 255
        pixels -= mean
        pixels /= std
        return pixels


@dataclass(frozen=True, kw_only=True)
class NaflexPreprocess(ImagePreprocess):
    """What a NaFlex tower (SigLIP2) wants: the image in its own aspect ratio, cut into at most `max_num_patches`.

    One tensor an image, so that batches stack and nothing else has to know: [1 + max_num_patches, 3 p^2] float32.

    - Row 0 begins with the height and the width of the grid of patches; the rest of it is zero.
    - Rows 1 to height * width are the patches, row by row of the grid, each [p, p, 3] made flat.
    - The rows after them are padding, zeros. The attention mask follows from row 0; `split_packed` takes all apart.

    `size` is nominal: the side of the largest square image, in pixels. `resize` has no meaning here.
    """

    patch_size: int = 16
    """p, pixels."""
    max_num_patches: int = 256
    """Most patches of an image."""

    @classmethod
    def from_fields(cls, config: Mapping[str, Any], source: str) -> NaflexPreprocess:
        """Read the fields of a ``Siglip2ImageProcessor``, with its defaults."""
        patch_size, most = config.get("patch_size", 16), config.get("max_num_patches", 256)
        for name, value in (("patch_size", patch_size), ("max_num_patches", most)):
            if not isinstance(value, int) or value < 1:
                raise ProclipError(f"{source}: {name} must be a whole number above 0, not {value!r}")
        half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        return cls(
            size=patch_size * math.isqrt(most),
            mean=_channels({**half, **config}, "image_mean", source),
            std=_channels({**half, **config}, "image_std", source),
            resample=_filter_of(config, Image.Resampling.BILINEAR, source),
            patch_size=patch_size,
            max_num_patches=most,
        )

    def to_config(self) -> dict[str, Any]:
        """The ``preprocessor_config.json`` that transformers' Siglip2ImageProcessor reads."""
        return {
            "image_processor_type": "Siglip2ImageProcessor",
            "patch_size": self.patch_size,
            "max_num_patches": self.max_num_patches,
            **self._common(),
        }

    def grid(self, width: float, height: float) -> tuple[int, int]:
        """Height and width, in patches, at which an image of that size (pixels) is seen.

        The largest scale whose patches, rounded up on either side, are not more than `max_num_patches`, to 1e-5, and
        at most 100: the bisection of transformers' Siglip2ImageProcessor, so that ties fall as they do there.
        """

        def at(scale: float) -> tuple[int, int]:
            high, wide = (max(1, math.ceil(side * scale / self.patch_size)) for side in (height, width))
            return high, wide

        low, high = 1e-6, 100.0
        while high - low >= 1e-5:
            middle = (low + high) / 2
            if math.prod(at(middle)) <= self.max_num_patches:
                low = middle
            else:
                high = middle
        return at(low)

    def fit_size(self, image: Image.Image) -> Image.Image:
        """An RGB image at the size that the tower sees: a whole number of patches either way."""
        high, wide = self.grid(*image.size)
        return _resized(image, (wide * self.patch_size, high * self.patch_size), self.resample)

    def fit_box(self, image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
        """A part (left, top, right, bottom) of an RGB image at the size that the tower sees, in the part's aspect."""
        high, wide = self.grid(box[2] - box[0], box[3] - box[1])
        return image.resize((wide * self.patch_size, high * self.patch_size), Image.Resampling(self.resample), box=box)

    def array(self, image: Image.Image) -> Pixels:
        """An RGB image of the right size to the packed array, [1 + max_num_patches, 3 p^2]."""
        p, pixels = self.patch_size, self._channels_first(image)
        high, wide = pixels.shape[1] // p, pixels.shape[2] // p
        patches = pixels.reshape(3, high, p, wide, p).transpose(1, 3, 2, 4, 0).reshape(high * wide, 3 * p * p)
        packed = np.zeros((1 + self.max_num_patches, 3 * p * p), dtype=np.float32)
        packed[0, :2] = high, wide
        packed[1 : 1 + len(patches)] = patches
        return packed


def split_packed(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images as `NaflexPreprocess` packs them, taken apart.

    Args:
        packed: [b, 1 + n, 3 p^2].

    Returns:
        patches [b, n, 3 p^2]; mask [b, n] int64, 1 at patches; grid [b, 2] int64, height and width in patches.
    """
    import torch

    grid = packed[:, 0, :2].round().long()
    mask = torch.arange(packed.shape[1] - 1, device=packed.device) < grid.prod(dim=1, keepdim=True)
    return packed[:, 1:], mask.long(), grid


def _kind_of(config: Mapping[str, Any]) -> str:
    name = str(config.get("image_processor_type", config.get("feature_extractor_type", "")))
    return name.removesuffix("Fast").removesuffix("Pil")


def _size_of(config: Mapping[str, Any], source: str) -> tuple[int, Literal["crop", "squash"]]:
    """Side of the square image, and how an image gets there."""
    size, crop = config.get("size"), config.get("crop_size")
    crops = config.get("do_center_crop")
    if crops is None:
        crops = crop is not None or _kind_of(config).startswith("CLIP")
    sides = {"crop_size": crop} if crops and crop is not None else {}
    lengths: set[int] = set()
    for name, value in {"size": size, **sides}.items():
        found = [value] if isinstance(value, int) else list(value.values()) if isinstance(value, Mapping) else []
        if not found or not all(isinstance(side, int) and side > 0 for side in found):
            raise ProclipError(f"{source}: no usable {name}: {value!r}")
        lengths.update(found)
    if len(lengths) > 1:
        raise ProclipError(f"{source}: size is {size}, crop_size {crop}: only one square size is supported")
    if isinstance(size, Mapping) and "height" in size:
        return lengths.pop(), "squash"
    if not crops:
        raise ProclipError(f"{source}: size is {size} without a centre crop: images would not be of one size")
    return lengths.pop(), "crop"


def _filter_of(config: Mapping[str, Any], default: Image.Resampling, source: str) -> int:
    found = config.get("resample")
    found = default if found is None else found
    if found not in tuple(Image.Resampling):
        filters = ", ".join(f"{int(known)} {known.name.lower()}" for known in Image.Resampling)
        raise ProclipError(f"{source}: resample is {found!r}, Pillow's filters are {filters}")
    return int(found)


def _channels(config: Mapping[str, Any], name: str, source: str) -> tuple[float, float, float]:
    values = config.get(name)
    if not isinstance(values, Sequence) or len(values) != 3 or not all(map(_is_number, values)):
        raise ProclipError(f"{source}: no usable {name}: {values!r}; three numbers are wanted")
    if name == "image_std" and min(values) <= 0:
        raise ProclipError(f"{source}: image_std is {values!r}: pixel values are divided by it, it must be above 0")
    return float(values[0]), float(values[1]), float(values[2])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _resized(image: Image.Image, size: tuple[int, int], resample: int) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)
