"""Rate of the evaluation's image encoding, against a bare loop and against the model alone.

    python benchmarks/evaluation_speed.py            # mini-clip, JPEGs of 640 x 480; two minutes on two cores

The bare loop reads, prepares and encodes batch after batch in one thread of Python; the model alone encodes batches
that are already prepared, which no pipeline can beat; reading alone is what one thread decodes and prepares. torch
computes in one thread unless `--threads` says otherwise; the engine's others decode.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from limits import PHOTOGRAPH, photograph
from measure import command_line, figure, in_turn, write

from proclip.data.images import ImageFiles
from proclip.evaluate.dual_encoder import ImageEncoder
from proclip.evaluate.encoding import BATCH, EncodingCounts, ImageFeatures
from proclip.evaluate.open_model import open_model

MODEL = "mini-clip"


def draw(folder: Path, count: int) -> ImageFiles:
    """Photographs in files."""
    paths = {str(number): folder / f"{number}.jpg" for number in range(count)}
    for number, path in enumerate(paths.values()):
        path.write_bytes(photograph(number))
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


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=7, threads=1)
    pictures = 8 if options.small else 320
    with tempfile.TemporaryDirectory() as folder:
        functions = ways(open_model(MODEL).images, draw(Path(folder), pictures), Path(folder))
        torch.testing.assert_close(functions["engine"](), functions["bare loop"](), rtol=1e-4, atol=1e-4)
        turns = in_turn(functions, options.repeats)
    middle = {name: sorted(turns.rate(name, pictures))[options.repeats // 2] for name in functions}
    limit = ("images/s of the model alone", middle["model alone"], middle["engine"] / middle["model alone"])
    figures = [
        figure("engine", turns.rate("engine", pictures), "images/s", limit=limit),
        figure("engine over the bare loop", turns.ratio("bare loop", "engine"), "x", aim="at least 1"),
    ]
    details = {"model": MODEL, "pictures": pictures, "size": PHOTOGRAPH, "turns": turns.values()}
    write(options, __doc__, figures, details)


if __name__ == "__main__":
    main()
