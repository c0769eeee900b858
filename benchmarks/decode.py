"""How fast do training images come, from bytes in a shard to a batch, against a bare loop over the same decoder?

    python benchmarks/decode.py            # two minutes on two cores

The bare loop has the bytes in memory: Pillow decodes, crops and resizes, numpy and torch normalise, on as many threads
as there are cores, with one fixed crop. Ours reads a tar shard through its index, draws crops and captions from each
sample's own random numbers, and watches for broken pictures. Both with and without JPEG drafts; what a draft changes
is measured on the tensors.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from limits import photograph
from measure import command_line, figure, in_turn, spread, write
from PIL import Image
from torch import Tensor

from proclip.config import AugmentConfig, DataConfig
from proclip.data.dataset import ImageCaptions
from proclip.data.image_loading import ImageLoader, stacked
from proclip.data.tar_index import index_folder
from proclip.data.transforms import augment, smallest_side
from proclip.models.image_files import decode_image
from proclip.models.preprocess import ImagePreprocess

SIZES = {"500 x 375": (500, 375), "2048 x 1536": (2048, 1536)}
CLIP = ImagePreprocess(size=224, mean=(0.481, 0.458, 0.408), std=(0.269, 0.261, 0.276))
AUGMENT = AugmentConfig()
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (CLIP.mean, CLIP.std))
BATCH = 64


def shard_of(files: Sequence[bytes], folder: Path) -> None:
    """A shard as img2dataset writes it, and its index."""
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for number, content in enumerate(files):
            for name, part in ((f"{number:09d}.jpg", content), (f"{number:09d}.txt", b"a caption")):
                header = tarfile.TarInfo(name)
                header.size = len(part)
                archive.addfile(header, io.BytesIO(part))
    index_folder(folder, workers=1)


def bare(files: Sequence[bytes], pool: ThreadPoolExecutor, draft: int | None) -> Callable[[], object]:
    def one(content: bytes) -> Tensor:
        file = Image.open(io.BytesIO(content))
        if draft is not None:
            file.draft(None, (draft, draft))
        image = file.convert("RGB")
        width, height = image.size
        box = (0.02 * width, 0.02 * height, 0.96 * width, 0.96 * height)
        image = image.resize((224, 224), Image.Resampling.BICUBIC, box=box)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
        return pixels.sub_(MEAN).div_(STD)

    def run() -> None:
        for start in range(0, len(files), BATCH):
            torch.stack(list(pool.map(one, files[start : start + BATCH])))

    return run


def ours(folder: Path, pool: ThreadPoolExecutor, draft: bool) -> Callable[[], object]:
    samples, data = ImageCaptions(folder).select("train"), DataConfig(jpeg_draft=draft)
    images = ImageLoader(samples, ("caption",), CLIP, AUGMENT, BATCH, 0, data)

    def run() -> None:
        order = images.order.epoch(0)
        for places in images.order.places(0):
            stacked(images.finish(places, images.start(places, order, 0, pool)))

    return run


def change_by_draft(files: Sequence[bytes]) -> dict[str, object]:
    """Of the augmented images: mean and largest difference in levels of 255, and the cosine of the centred pixels."""
    least, levels, largest, cosines = smallest_side(CLIP, AUGMENT), [], [], []
    for number, content in enumerate(files):
        whole, draft = (
            augment(decode_image(content, "x", at_least=n), CLIP, AUGMENT, np.random.default_rng(number))
            for n in (None, least)
        )
        difference = (whole - draft).abs() * STD * 255
        levels.append(float(difference.mean()))
        largest.append(float(difference.quantile(0.999)))
        one, other = (part.flatten() - part.mean() for part in (whole, draft))
        cosines.append(float(torch.nn.functional.cosine_similarity(one, other, dim=0)))
    return {"mean_levels": spread(levels), "levels_of_one_in_1000": spread(largest), "cosine": spread(cosines)}


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=9, threads=1)
    counts = {name: 8 if options.small else BATCH if min(size) > 1000 else 4 * BATCH for name, size in SIZES.items()}
    figures, details = [], {}
    for name, size in SIZES.items():
        files = [photograph(number, size) for number in range(counts[name])]
        with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(os.cpu_count()) as pool:
            folder = Path(temporary)
            shard_of(files, folder)
            least = smallest_side(CLIP, AUGMENT)
            ways = {
                "bare": bare(files, pool, None), "ours": ours(folder, pool, False),
                "bare, draft": bare(files, pool, least), "ours, draft": ours(folder, pool, True),
            }  # fmt: skip
            turns = in_turn(ways, options.repeats)
        drafts = min(size) >= 2 * (least or 0)
        best = "bare, draft" if drafts else "bare"
        ratio = turns.ratio(best, best.replace("bare", "ours"))
        limit = (f"{best} loop, images/s", float(np.median(turns.rate(best, len(files)))), float(np.median(ratio)))
        figures.append(figure(f"JPEG {name}: ours over a bare loop", ratio, "x", aim="at least 0.9", limit=limit))
        if drafts:
            figures.append(figure(f"JPEG {name}: draft over full decoding", turns.ratio("ours", "ours, draft"), "x"))
        details[name] = {"images": len(files), "times": turns.values(), "draft_changes": change_by_draft(files[:32])}
    write(options, __doc__, figures, {"sizes": details, "decode_threads": os.cpu_count(), "batch": BATCH})


if __name__ == "__main__":
    main()
