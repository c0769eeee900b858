"""A benchmark of every kind of task over small drawn pictures, and encoders that are wrong now and then."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from proclip.evaluate.benchmark import Benchmark
from proclip.evaluate.encoders import Encoders
from proclip.evaluate.tasks import (
    ClassificationTask,
    HardNegativeItem,
    HardNegativesTask,
    PairItem,
    PairsTask,
    RetrievalTask,
    WinogroundTask,
)
from proclip.seeding import generator

COLOURS = ("red", "green", "blue", "orange", "purple", "teal")
SHAPES = ("disc", "square", "ring", "cross")
KEYS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


class Drawn:
    """Pictures by names such as "red disc"; counts how often it decodes one."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(self, key: str) -> Image.Image:
        self.opened.append(key)
        colour, shape = key.split()
        image = Image.new("RGB", (300, 200), "white")
        draw = ImageDraw.Draw(image)
        box = (80, 30, 220, 170)
        if shape == "disc":
            draw.ellipse(box, fill=colour)
        elif shape == "ring":
            draw.ellipse(box, outline=colour, width=24)
        elif shape == "square":
            draw.rectangle(box, fill=colour)
        else:
            draw.line((80, 30, 220, 170), fill=colour, width=28)
            draw.line((80, 170, 220, 30), fill=colour, width=28)
        return image

    def missing(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if key not in KEYS]

    def sizes(self, keys: Sequence[str]) -> list[int]:
        return [0 for _ in keys]


def caption(key: str) -> str:
    return f"a drawing of a {key} on white paper"


def drawn_benchmark(
    name: str = "mini-world", retrieval: Sequence[str] = ("retrieval_long", "multilingual/de")
) -> Benchmark:
    items = tuple((key, (caption(key),)) for key in KEYS)
    chance = {1: 1 / 24, 5: 5 / 24, 10: 10 / 24}
    twins = tuple(
        PairItem(pattern="colour", keys=(f"red {s}", f"{c} {s}"), captions=(caption(f"red {s}"), caption(f"{c} {s}")))
        for s in SHAPES
        for c in COLOURS[1:]
    )
    false = tuple(
        HardNegativeItem(kind="replace", key=key, caption=caption(key), negative=caption(f"{key.split()[0]} hat"))
        for key in KEYS
    )
    tasks = {prefix: RetrievalTask(name=prefix, items=items, chance=chance) for prefix in retrieval}
    return Benchmark(
        name=name,
        tasks={
            **tasks,
            "zero_shot/openmoji": ClassificationTask(
                name="c", items=tuple((key, SHAPES.index(key.split()[1])) for key in KEYS), classnames=SHAPES,
                templates=("a {}", "a drawing of a {}"), chance=0.25,
            ),
            "pairs": PairsTask(name="p", items=twins, chance=0.25),
            "hard_negatives": HardNegativesTask(name="h", items=false, chance=0.5),
            "winoground": WinogroundTask(name="w", items=twins),
        },
        images=Drawn(), protocol="made up", headline=("acc1",),
    )  # fmt: skip


def words_encoders(seed: int, noise: float) -> Encoders:
    """A vector a word, the same for pictures and texts, plus noise that depends on the whole input."""

    def vector(text: str, side: str) -> Tensor:
        words = [word for word in text.split() if word in (*COLOURS, *SHAPES)]
        total = torch.zeros(16)
        for word in words:
            total += torch.randn(16, generator=generator("word", word))
        return total + noise * torch.randn(16, generator=generator(seed, side, text))

    def encode(side: str, inputs: Sequence[str]) -> Tensor:
        return F.normalize(torch.stack([vector(one, side) for one in inputs]), dim=-1)

    return Encoders(
        encode_image=lambda keys: encode("image", keys), encode_text=lambda texts: encode("text", texts),
        image_features=lambda keys: encode("image", keys),
    )  # fmt: skip
