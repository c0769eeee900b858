"""What does a process pay for the global batch's losses: its own rows, against all rows on every process?

python benchmarks/losses.py            about 4 minutes on 2 cores
python benchmarks/losses.py --small    seconds

One of `WORLD` processes holds the gathered embeddings of n pairs. Ours are the losses of its n / WORLD rows; the plain
form is that of the equations, over all n x n pairs, which every process would compute alike. Both forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from measure import command_line, figure, in_turn, peak_memory, write
from torch import Tensor
from torch.autograd import backward

from proclip.losses import contrastive_loss, distillation_loss

WORLD, WIDTH = 8, 768
SIZES = (1024, 2048, 4096)
"""n, pairs of the global batch."""
Call = Callable[[], object]


def embeds(n: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors of n pairs, and a temperature."""
    generator = torch.Generator().manual_seed(0)
    one, other = (F.normalize(torch.randn(n, width, generator=generator), dim=-1) for _ in range(2))
    return one.requires_grad_(), other.requires_grad_(), torch.tensor(3.0, requires_grad=True)


def ours_contrastive(n: int, width: int, world: int) -> Call:
    """InfoNCE of one process's rows."""
    images, texts, scale = embeds(n, width)
    return lambda: backward(contrastive_loss(images, texts, scale, rows=slice(0, n // world)))


def plain_contrastive(n: int, width: int) -> Call:
    """InfoNCE of all rows."""
    images, texts, scale = embeds(n, width)
    labels = torch.arange(n)

    def run() -> None:
        logits = scale.exp() * images @ texts.T
        backward((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2)

    return run


def ours_distillation(n: int, width: int, world: int) -> Call:
    """Instance and structure loss of one process's rows."""
    student, teacher, _ = embeds(n, width)
    return lambda: backward(distillation_loss(student, teacher, rows=slice(0, n // world)).loss)


def plain_distillation(n: int, width: int) -> Call:
    """Instance and structure loss of all pairs, by torch's own distances of pairs."""
    student, teacher, _ = embeds(n, width)

    def run() -> None:
        structure = (F.pdist(student) - F.pdist(teacher.detach())).square().mean()
        backward((student - teacher.detach()).square().sum(dim=1).mean() + structure)

    return run


LOSSES: dict[str, tuple[Callable[..., Call], Callable[..., Call]]] = {
    "InfoNCE": (ours_contrastive, plain_contrastive),
    "instance and structure": (ours_distillation, plain_distillation),
}


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=5, threads=1)
    sizes, width = ((64, 128), 32) if options.small else (SIZES, WIDTH)
    figures: list[dict[str, Any]] = []
    details: dict[str, Any] = {"processes": WORLD, "width": width, "rows": []}
    for name, (ours, plain) in LOSSES.items():
        for n in sizes:
            ways = {"part": ours(n, width, WORLD), "whole": ours(n, width, 1), "plain": plain(n, width)}
            turns = in_turn(ways, options.repeats)
            what, aim = f"{name}, {n:,} pairs, {WORLD} processes: a process's time", f"up to {WORLD}"
            figures.append(figure(f"{what}, plain form over ours", turns.ratio("plain", "part"), "x"))
            figures.append(figure(f"{what}, whole over part", turns.ratio("whole", "part"), "x", aim=aim))
            makers = {"part": partial(ours, n, width, WORLD), "plain": partial(plain, n, width)}
            memory = {way: peak_memory(make) for way, make in makers.items()}
            share = memory["plain"]["anonymous"] / max(memory["part"]["anonymous"], 0.1)
            figures.append(
                figure(f"{name}, {n:,} pairs, {WORLD} processes: added memory, plain form over ours", share, "x")
            )
            details["rows"].append({"loss": name, "pairs": n, "memory": memory, **turns.values()})
    write(options, __doc__, figures, details)


if __name__ == "__main__":
    main()
