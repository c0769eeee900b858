"""What does this machine allow: products of matrices, memory, decoding of photographs, writing to disk?

    python benchmarks/limits.py

The other benchmarks measure the limit that concerns them in the same process, in turn with what they time; these are
the figures by themselves, one after the other. Half a minute.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from measure import command_line, figure, in_turn, write
from PIL import Image

from proclip.models.arithmetic import has_bfloat16

PHOTOGRAPH = (640, 480)


def matmul(size: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Callable[[], object], float]:
    """A product of two square matrices, and the operations in it."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)
    return lambda: torch.mm(a, b, out=out), 2.0 * size**3


def copying(mib: int, device: str = "cpu") -> tuple[Callable[[], object], float]:
    """A copy of a tensor larger than the caches, and the bytes that it reads and writes."""
    source = torch.ones(mib * 2**18, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2.0 * mib * 2**20


def photograph(number: int, size: tuple[int, int] = PHOTOGRAPH) -> bytes:
    """A JPEG: smooth random colours with some grain, as photographs have."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse, dtype=np.int16) + rng.integers(-12, 13, (size[1], size[0], 3))
    buffer = BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def decode(files: Sequence[bytes]) -> None:
    """Decode JPEGs to their full size, one after the other."""
    for file in files:
        Image.open(BytesIO(file)).load()


def written(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=9)
    side, mib, pictures = (256, 16, 2) if options.small else (2048, 512, 64)
    product, operations = matmul(side)
    copy, moved = copying(mib)
    files = [photograph(number) for number in range(pictures)]
    content = os.urandom(mib * 2**20 // 4)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], object]] = {
            "matmul": product,
            "copy": copy,
            "decode": lambda: decode(files),
            "disk": lambda: written(Path(folder) / "file", content),
        }
        if has_bfloat16("cpu"):
            ways["bfloat16"], _ = matmul(side, torch.bfloat16)
        turns = in_turn(ways, options.repeats)
    rates = {
        "product of matrices, float32": ([r / 1e9 for r in turns.rate("matmul", operations)], "GFLOP/s"),
        "copy in memory, read and written": ([r / 1e9 for r in turns.rate("copy", moved)], "GB/s"),
        f"JPEG {PHOTOGRAPH[0]} x {PHOTOGRAPH[1]} decoded, one thread": (turns.rate("decode", pictures), "images/s"),
        "file written and synced": ([r / 1e6 for r in turns.rate("disk", len(content))], "MB/s"),
    }
    if "bfloat16" in ways:
        rates["product of matrices, bfloat16"] = [r / 1e9 for r in turns.rate("bfloat16", operations)], "GFLOP/s"
    figures = [figure(what, values, unit) for what, (values, unit) in rates.items()]
    write(options, __doc__, figures, {"side": side, "copied_mib": mib, "pictures": pictures, "turns": turns.values()})


if __name__ == "__main__":
    main()
