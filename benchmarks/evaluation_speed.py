"""Rate of the evaluation's image encoding, against a bare loop and against the model alone, in turn.

python benchmarks/evaluation_speed.py --repeats 7

On JPEGs of 640 x 480 pixels. The bare loop reads, prepares and encodes batch after batch in one thread of Python; the
model alone encodes batches that are already prepared, which no pipeline can beat; reading alone is what one thread
decodes and prepares. torch computes in one thread; the engine's others decode.
Where other programs keep all cores busy, overlap gains nothing: the load average is written beside the rates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from proclip.data.images import ImageFiles
from proclip.evaluate.dual_encoder import ImageEncoder
from proclip.evaluate.encoding import BATCH, EncodingCounts, ImageFeatures
from proclip.evaluate.open_model import open_model
from proclip.runs.recipes import environment

MODEL = "mini-clip"
SIZE = (640, 480)


def draw(folder: Path, count: int) -> ImageFiles:
    """Smooth random pictures with some grain, as photographs have."""
    paths = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        pixels = np.asarray(coarse, dtype=np.int16) + rng.integers(-12, 13, (SIZE[1], SIZE[0], 3))
        paths[str(number)] = folder / f"{number}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[str(number)], quality=90)
    return ImageFiles(paths)


def ways(encoder: ImageEncoder, images: ImageFiles, folder: Path) -> dict[str, Callable[[], torch.Tensor | None]]:
    """What is timed, by name; each gives the features, or None where there are none."""
    keys = list(images.paths)
    chunks = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
    prepared = [[encoder.prepare(images.open(key)) for key in chunk] for chunk in chunks]

    def engine() -> torch.Tensor:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            return ImageFeatures(encoder, images, Path(cache), EncodingCounts())(keys)

    def bare() -> torch.Tensor:
        return torch.cat([encoder.encode([encoder.prepare(images.open(key)) for key in chunk]) for chunk in chunks])

    def alone() -> torch.Tensor:
        return torch.cat([encoder.encode(chunk) for chunk in prepared])

    def reading() -> None:
        for key in keys:
            encoder.prepare(images.open(key))

    return {"engine": engine, "bare loop": bare, "model alone": alone, "reading alone": reading}


def measure(encoder: ImageEncoder, images: ImageFiles, folder: Path, repeats: int) -> dict[str, object]:
    """Rates, and the engine's rate over the others', round by round."""
    functions = ways(encoder, images, folder)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    of_cores: dict[str, list[float]] = {name: [] for name in functions}
    found: dict[str, torch.Tensor] = {}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start, start_of_cores = time.perf_counter(), time.process_time()
            features = function()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
                of_cores[name].append(time.process_time() - start_of_cores)
            if features is not None:
                found[name] = features
    torch.testing.assert_close(found["engine"], found["bare loop"], rtol=1e-4, atol=1e-4)
    count = len(images.paths)
    rows: dict[str, object] = {}
    for name, kept in seconds.items():
        ratios = sorted(own / engine for own, engine in zip(kept, seconds["engine"], strict=True))
        rows[name] = {
            "pictures_per_s": round(count / statistics.median(kept), 1),
            "pictures_per_s_range": [round(count / max(kept), 1), round(count / min(kept), 1)],
            "core_ms_a_picture": round(1000 * statistics.median(of_cores[name]) / count, 2),
            "engine_is_times_as_fast": round(statistics.median(ratios), 2),
            "range": [round(ratios[0], 2), round(ratios[-1], 2)],
        }
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evaluation_speed.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        images = draw(Path(name), arguments.pictures)
        rows = measure(open_model(MODEL).images, images, Path(name), arguments.repeats)
    values = {
        "model": MODEL,
        "pictures": arguments.pictures,
        "size": SIZE,
        "repeats": arguments.repeats,
        "cores": os.cpu_count(),
        "load_average_at_end": [round(load, 1) for load in os.getloadavg()],
        "rows": rows,
        "environment": environment(),
    }
    arguments.out.write_text(json.dumps(values, indent=2) + "\n")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
