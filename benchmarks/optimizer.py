"""Which form of AdamW, and of the EMA's update, is the fastest on this device?

    python benchmarks/optimizer.py

The parameters are ViT-B/32's image tower, the gradients noise. All forms do the same arithmetic.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from measure import command_line, figure, in_turn, write
from torch import nn
from training import random_clip

from proclip.models.ema import update_ema

FORMS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "one by one": {"foreach": False},
}


def options_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )


def tower_of(name: str, device: str) -> nn.Module:
    tower: nn.Module = random_clip(name).vision_model.to(device)
    for parameter in tower.parameters():
        parameter.grad = torch.randn_like(parameter)
    return tower


def ema_one_by_one(student: nn.Module, teacher: nn.Module) -> None:
    with torch.no_grad():
        for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
            own.lerp_(other, 0.001)


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=15, extend=options_of, threads=1)
    name = "tiny" if options.small else "ViT-B/32"
    ways: dict[str, Callable[[], object]] = {}
    for form, flags in FORMS.items():
        optimizer = torch.optim.AdamW(tower_of(name, options.device).parameters(), lr=1e-6, **flags)
        ways[f"AdamW, {form}"] = optimizer.step
    student = tower_of(name, options.device)
    teacher = copy.deepcopy(student)
    ways["EMA, foreach"] = lambda: update_ema(student, teacher, 0.999)
    ways["EMA, one by one"] = lambda: ema_one_by_one(student, teacher)
    turns = in_turn(ways, options.repeats)
    figures = [
        figure(f"AdamW: time of {form} over fused", turns.ratio(f"AdamW, {form}", "AdamW, fused"), "x")
        for form in ("foreach", "one by one")
    ]
    figures.append(figure("EMA: time of one by one over foreach", turns.ratio("EMA, one by one", "EMA, foreach"), "x"))
    count = sum(parameter.numel() for parameter in student.parameters())
    write(options, __doc__, figures, {"parameters": count, "device": options.device, "times": turns.values()})


if __name__ == "__main__":
    main()
