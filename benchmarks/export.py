"""What does an exported model lose on the mini world's tasks, and how fast is it on a CPU beside torch?

The model is the quickstart's ProCLIP multilingual, or ``--model``; with ``--small`` mini-clip with an adapter of random
weights, without LLM and tasks.

- Quality: zero-shot classification and retrieval, short and long, of torch as the model was trained (the LLM in
  bfloat16) and of each export, its whole path in ONNX Runtime. Figures are points gained or lost.
- Latency: ``encode_image`` and ``encode_text``, preprocessing and tokenizing included, in turn with torch in float32.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measure import command_line, figure, in_turn, write
from PIL import Image

import proclip.onnx
from proclip.config import AdapterConfig, EmbedderConfig
from proclip.evaluate.benchmarks import open_own
from proclip.evaluate.dual_encoder import DualEncoder
from proclip.evaluate.open_model import open_model
from proclip.evaluate.run import run_benchmark
from proclip.export import export_onnx
from proclip.models.adapter import Adapter
from proclip.models.clip import load_clip
from proclip.models.embedder import Encoded, load_embedder
from proclip.models.proclip import ProCLIP
from proclip.onnx import OnnxModel

PRECISIONS = ("float32", "float16", "int8")
TASKS = ("zero_shot/openmoji", "zero_shot/twemoji", "retrieval_short", "retrieval_long")
MEASURED = ("mean_per_class", "i2t_r@1", "t2i_r@1")
SHORT, LONG = "ein rotes Feuerwehrauto", "A drawing on a white background of a small house with a blue door. " * 10


class OnnxImages:
    """The image side of an export, for the evaluation."""

    identity: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, model: OnnxModel) -> None:
        self.model = model

    def prepare(self, image: Image.Image) -> Image.Image:
        """As it is: the export preprocesses."""
        return image

    def encode(self, prepared: Sequence[Image.Image]) -> torch.Tensor:
        """[n, d]."""
        return torch.from_numpy(self.model.encode_image(prepared))


class OnnxTexts:
    """The LLM of an export, for the evaluation."""

    identity: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, model: OnnxModel, classes: bool = False) -> None:
        self.model, self.classes, self.dim = model, classes, model.manifest.llm_dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        """[n, h]."""
        return Encoded(torch.from_numpy(self.model.embed_text(texts, self.classes)), None)

    def for_classes(self) -> OnnxTexts:
        """With the prompt for class names."""
        return OnnxTexts(self.model, classes=True)


def evaluated(model: OnnxModel) -> DualEncoder:
    return DualEncoder(
        name=model.manifest.precision,
        images=OnnxImages(model),
        texts=OnnxTexts(model),
        project_text=lambda vectors: torch.from_numpy(model.project_text(vectors.numpy())),
    )


def in_float32(path: Path) -> ProCLIP:
    """The model in torch with its LLM in float32: the arithmetic that the float32 export has."""
    model = ProCLIP.from_pretrained(path)
    assert model.embedder_config is not None
    embedder = load_embedder(dataclasses.replace(model.embedder_config, dtype="float32"))
    return ProCLIP(model.image_tower, model.adapter, float(model.logit_scale.detach()), model.preprocess, embedder)


def random_model() -> ProCLIP:
    clip = load_clip("mini-clip")
    adapter = Adapter(576, clip.dim, AdapterConfig())
    return ProCLIP(clip.image_tower, adapter, 3.0, clip.preprocess, EmbedderConfig())


def quality(model: DualEncoder, data: Path) -> dict[str, float]:
    result = run_benchmark(open_own(data, "test").only(TASKS), model, None)
    return {key: 100 * one.value for key, one in result.figures.items() if key.endswith(MEASURED)}


def repeated(call: Callable[[Any], object], side: ProCLIP | OnnxModel, times: int) -> None:
    for _ in range(times):
        call(side)


def latencies(
    sides: dict[str, ProCLIP | OnnxModel], with_text: bool, repeats: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (240, 320, 3), dtype=np.uint8)) for _ in range(32)]
    calls: dict[str, tuple[int, Callable[[Any], object]]] = {
        "1 picture": (20, lambda side: side.encode_image(pictures[:1])),
        "32 pictures": (1, lambda side: side.encode_image(pictures)),
    }
    if with_text:
        calls |= {
            "a text of 8 tokens": (4, lambda side: side.encode_text([SHORT])),
            "a text of 160 tokens": (1, lambda side: side.encode_text([LONG])),
            "32 texts of 8 tokens": (1, lambda side: side.encode_text([f"{SHORT} {n}" for n in range(32)])),
        }
    figures, details = [], {}
    for what, (times, call) in calls.items():
        ways = {name: partial(repeated, call, side, times) for name, side in sides.items()}
        turns = in_turn(ways, repeats)
        details[what] = {"calls": times, **turns.values()}
        for name in sides:
            milliseconds = [1000 * seconds / times for seconds in turns.seconds[name]]
            figures.append(figure(f"{what}: {name}", milliseconds, "ms"))
            if name != "torch float32":
                figures.append(figure(f"{what}: {name}, speed over torch", turns.ratio("torch float32", name), "x"))
    return figures, details


def main() -> None:
    def extend(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--model", type=Path, default=Path("runs/quickstart/proclip_multilingual/model"))
        parser.add_argument("--data", type=Path, default=Path("runs/mini"), help="(default: %(default)s)")

    options = command_line(__doc__, repeats=9, extend=extend)
    figures: list[dict[str, Any]] = []
    details: dict[str, Any] = {"quality": {}, "parity": {}, "sizes": {}}
    with TemporaryDirectory() as folder:
        sides: dict[str, ProCLIP | OnnxModel] = {}
        for precision in PRECISIONS:
            trained = random_model() if options.small else ProCLIP.from_pretrained(options.model)
            parts = ["image", "adapter"] if options.small else None
            out = Path(folder) / precision
            report = export_onnx(trained, out, parts, precision)  # type: ignore[arg-type]
            details["parity"][precision] = report.manifest.parity
            details["sizes"][precision] = report.sizes
            figures.append(figure(f"size, {precision}", sum(report.sizes.values()) / 2**20, "MiB"))
            sides[f"onnx {precision}"] = proclip.onnx.load(out, threads=options.threads)
        if not options.small:
            wanted = details["quality"]["torch"] = quality(open_model(str(options.model), "cpu"), options.data)
            for precision in PRECISIONS:
                side = sides[f"onnx {precision}"]
                assert isinstance(side, OnnxModel)
                found = details["quality"][precision] = quality(evaluated(side), options.data)
                for key, value in wanted.items():
                    lost = round(found[key] - value, 2)
                    figures.append(figure(f"{key}, {precision}, points over torch's {value:.1f}", lost, "points"))
        sides = {"torch float32": random_model() if options.small else in_float32(options.model), **sides}
        measured, details["latency"] = latencies(sides, not options.small, options.repeats)
    write(options, __doc__, [*figures, *measured], details)


if __name__ == "__main__":
    main()
