"""Training speed of candidate image towers for mini-clip: forward and backward, in turn, as ratios to the shipped one.

python benchmarks/tower_speed.py --repeats 7
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from proclip.models.clip_transformers import ClipImageTower
from proclip.runs.recipes import environment

BATCH = 64
SHIPPED = "72 px, patch 12, width 192, 6 blocks"
CANDIDATES = {
    SHIPPED: (72, 12, 192, 6),
    "64 px, patch 8, width 192, 6 blocks": (64, 8, 192, 6),
    "64 px, patch 8, width 256, 6 blocks": (64, 8, 256, 6),
    "64 px, patch 8, width 192, 4 blocks": (64, 8, 192, 4),
    "72 px, patch 12, width 256, 6 blocks": (72, 12, 256, 6),
}


def tower(size: int, patch: int, width: int, layers: int) -> ClipImageTower:
    config = {"image_size": size, "patch_size": patch, "hidden_size": width, "intermediate_size": 4 * width,
              "num_hidden_layers": layers, "num_attention_heads": width // 64}  # fmt: skip
    return ClipImageTower.from_config(config, 256)


def seconds_a_step(model: ClipImageTower, pixels: torch.Tensor, autocast: bool) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = model(pixels)
    features.float().square().mean().backward()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tower_speed.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    towers = {name: (tower(*sizes), torch.randn(BATCH, 3, sizes[0], sizes[0])) for name, sizes in CANDIDATES.items()}
    times: dict[tuple[str, bool], list[float]] = {(name, cast): [] for name in towers for cast in (False, True)}
    for repeat in range(arguments.repeats + 1):
        for (name, cast), kept in times.items():
            seconds = seconds_a_step(*towers[name], cast)
            if repeat:  # the first round warms up
                kept.append(seconds)
    rows = []
    for (name, cast), kept in times.items():
        ratios = [base / own for base, own in zip(times[SHIPPED, False], kept, strict=True)]
        row = {"tower": name, "arithmetic": "bfloat16 autocast" if cast else "float32",
               "pictures_per_s": round(BATCH / statistics.median(kept), 1),
               "ratio_to_shipped_float32": round(statistics.median(ratios), 2),
               "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)]}  # fmt: skip
        rows.append(row)
        print(row)
    result = {"batch": BATCH, "repeats": arguments.repeats, "rows": rows, "environment": environment()}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
