"""Training speed of candidate image towers for mini-clip: forward and backward, as ratios to the shipped one.

python benchmarks/tower_speed.py            # two minutes on two cores
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import command_line, figure, in_turn, write

from proclip.models.arithmetic import has_bfloat16
from proclip.models.clip_transformers import ClipImageTower

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


def step(model: ClipImageTower, pixels: torch.Tensor, autocast: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            features = model(pixels)
        features.float().square().mean().backward()

    return run


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=7)
    batch = 2 if options.small else 64
    arithmetics = {"float32": False, **({"bfloat16 autocast": True} if has_bfloat16("cpu") else {})}
    ways: dict[str, Callable[[], object]] = {}
    for name, sizes in CANDIDATES.items():
        model, pixels = tower(*sizes), torch.randn(batch, 3, sizes[0], sizes[0])
        ways |= {f"{name}, {words}": step(model, pixels, on) for words, on in arithmetics.items()}
    turns = in_turn(ways, options.repeats)
    figures = [figure(name, turns.ratio(f"{SHIPPED}, float32", name), "x") for name in ways]
    write(options, __doc__, figures, {"batch": batch, "turns": turns.values()})


if __name__ == "__main__":
    main()
