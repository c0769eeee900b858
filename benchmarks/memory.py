"""Peak memory of stage 1, stage 2 and evaluation, against the bytes that have to be there.

    python benchmarks/memory.py            # ViT-B/32; two minutes on two cores

Each in a process of its own, from an empty one with torch imported. What has to be there: for each trained number the
weight, its gradient and two moments, 16 bytes; for each number of the EMA teacher 4; for a frozen tower 4. The rest is
activations, batches and what libraries keep. Evaluation encodes pictures in the engine's batches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from limits import photograph
from measure import command_line, figure, peak_memory, write
from torch import nn
from training import CLIPS, LOGIT_SCALE, Steps, random_tune_batch

from proclip.config import AdapterConfig, DistillConfig, TuneConfig
from proclip.data.batches import DistillBatch
from proclip.data.images import ImageFiles
from proclip.evaluate.encoding import EncodingCounts, ImageFeatures
from proclip.evaluate.tower_images import TowerImages
from proclip.models.adapter import Adapter
from proclip.models.clip_transformers import ClipImageTower
from proclip.models.preprocess import ImagePreprocess
from proclip.train.stages import ImageTextTuning, TextDistillation

MIB = 2**20


def tower_of(name: str) -> ClipImageTower:
    torch.manual_seed(0)
    return ClipImageTower.from_config(CLIPS[name]["vision_config"], CLIPS[name]["projection_dim"])


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def stage1(llm_dim: int, embed_dim: int, batch: int) -> Callable[[], object]:
    def run() -> None:
        config = DistillConfig(batch_size=batch)
        stage = TextDistillation(Adapter(llm_dim, embed_dim, AdapterConfig()), config)
        texts = DistillBatch(llm_embeds=torch.randn(batch, llm_dim), teacher_embeds=torch.randn(batch, embed_dim))
        Steps(stage, config.optim, [texts]).run(3)

    return run


def stage2(name: str, side: int, llm_dim: int, batch: int) -> Callable[[], object]:
    def run() -> None:
        tower, config = tower_of(name), TuneConfig(batch_size=batch)
        adapter = Adapter(llm_dim, tower.embed_dim, AdapterConfig())
        stage = ImageTextTuning(tower, adapter, nn.Parameter(torch.tensor(LOGIT_SCALE)), config)
        Steps(stage, config.optim, [random_tune_batch(batch, side, llm_dim)]).run(3)

    return run


def evaluation(name: str, side: int, folder: str, pictures: int) -> Callable[[], object]:
    def run() -> None:
        preprocess = ImagePreprocess(size=side, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        encoder = TowerImages(tower_of(name).eval(), preprocess)
        images = ImageFiles({str(n): Path(folder) / f"{n}.jpg" for n in range(pictures)})
        ImageFeatures(encoder, images, Path(folder) / "cache", EncodingCounts())(list(images.paths))

    return run


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=1)
    name, side, llm_dim, texts, pictures = "ViT-B/32", 224, 1024, 1024, 256
    if options.small:
        name, side, llm_dim, texts, pictures = "tiny", 32, 32, 8, 4
    tower = tower_of(name)
    adapter, in_tower = numbers(Adapter(llm_dim, tower.embed_dim, AdapterConfig())), numbers(tower)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(pictures):
            (Path(folder) / f"{number}.jpg").write_bytes(photograph(number))
        rows: dict[str, tuple[int, Callable[..., Callable[[], object]], tuple[object, ...]]] = {
            f"stage 1, batch {texts:,}": (16 * adapter, stage1, (llm_dim, tower.embed_dim, texts))
        }
        for batch in (4,) if options.small else (16, 64):
            needed = 16 * (adapter + in_tower) + 4 * in_tower
            rows[f"stage 2, batch {batch}"] = (needed, stage2, (name, side, llm_dim, batch))
        rows[f"evaluation, {pictures} pictures"] = (4 * in_tower, evaluation, (name, side, folder, pictures))
        del tower
        found = {what: peak_memory(make, *of) for what, (_, make, of) in rows.items()}
    figures = []
    for what, (needed, _, _) in rows.items():
        added = found[what]["added"]
        limit = ("weights, gradients, moments, teacher, MiB", needed / MIB, needed / MIB / max(added, 0.1))
        figures.append(figure(f"{name}, {what}", added, "MiB", limit=limit))
    about = {"clip": name, "llm_dim": llm_dim, "parameters": {"image_tower": in_tower, "adapter": adapter}}
    write(options, __doc__, figures, {**about, "found": found})


if __name__ == "__main__":
    main()
