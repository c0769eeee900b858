"""Stage 2 of a recipe, made ready: its batches, its stage, and what a cached teacher says of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TuneConfig
from ..data.ahead import DECODE_THREADS
from ..data.dataset import Sample, check_images
from ..data.loaders import TuneBatches
from ..data.store import EmbeddingStore, StoreWriter
from ..distributed import barrier, is_main
from ..models.clip import Clip
from ..models.preprocess import ImagePreprocess, read_image
from ..models.proclip import ProCLIP
from ..train.parameters import parameter_groups
from ..train.stages import ImageTextTuning
from .console import say

BATCH = 128
"""Pictures that the original tower embeds at a time."""
SIGLIP_BIAS = -10.0
"""Where SigLIP starts its bias (arXiv 2303.15343, section 3.2)."""


def first_bias(config: TuneConfig, clip: Clip) -> float | None:
    """Where stage 2's logit_bias starts: the checkpoint's, else SigLIP's; None under InfoNCE.

    InfoNCE leaves a checkpoint's bias out: a constant on all logits cancels in its softmax, so it would get no
    gradient and mean nothing.
    """
    if config.contrastive == "infonce":
        return None
    return clip.logit_bias if clip.logit_bias is not None else SIGLIP_BIAS


def open_tuning(
    config: TuneConfig,
    samples: Sequence[Sample],
    model: ProCLIP,
    clip: Clip,
    llm: EmbeddingStore,
    store: Path,
    seed: int,
) -> tuple[TuneBatches, ImageTextTuning]:
    """Everything that stage 2 needs, checked.

    Args:
        config: of stage 2.
        samples: of its split.
        model: what it trains; its image tower is still the original.
        clip: the checkpoint that the tower comes from.
        llm: the LLM's embeddings.
        store: folder of the cached teacher's embeddings.
        seed: of the batches.

    Raises:
        ProclipError: bad pictures, captions, stores, parameter groups or settings of the image tower.
    """
    check_images(samples)
    teacher = None
    if config.teacher == "cached":
        teacher = cached_teacher(samples, model, clip, store)
    batches = TuneBatches(samples, llm, clip.preprocess, config, seed, teacher)
    return batches, tuning_stage(config, model)


def tuning_stage(config: TuneConfig, model: ProCLIP) -> ImageTextTuning:
    """Stage 2 of a model.

    Raises:
        ProclipError: settings of the image tower or parameter groups that are not there.
    """
    stage = ImageTextTuning(model.image_tower, model.adapter, model.logit_scale, config, model.logit_bias)
    parameter_groups(stage.groups(), config.optim, stage.layers_above())
    return stage


def trained_parameters(stage: ImageTextTuning, model: ProCLIP) -> str:
    """How many numbers stage 2 trains, by group, and how many the model has; LoRA's own count in both."""
    counts: dict[str, int] = {}
    for entry in parameter_groups(stage.groups(), stage.config.optim, stage.layers_above()):
        if not entry.frozen:
            counts[entry.group] = counts.get(entry.group, 0) + entry.numbers
    total = sum(p.numel() for p in model.parameters())
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"tune: {sum(counts.values()):,} of {total:,} parameters are trained ({listed})"


def cached_teacher(samples: Sequence[Sample], model: ProCLIP, clip: Clip, folder: Path) -> EmbeddingStore:
    """The original image tower's embedding of every plain picture, by the sample's key; what is there is kept.

    No augmentation: a student that sees a crop is held to the embedding of the whole picture.

    Raises:
        ProclipError: the store is of another CLIP, or a picture has changed since.
    """
    identity = image_identity(clip)
    if is_main():
        _embed_pictures(samples, model, clip, folder, identity)
    barrier()
    return EmbeddingStore.open(folder, expect=identity)


def _embed_pictures(
    samples: Sequence[Sample], model: ProCLIP, clip: Clip, folder: Path, identity: dict[str, Any]
) -> None:
    tower, device = model.image_tower.eval(), model.device
    with StoreWriter(folder, identity, clip.dim) as writer, ThreadPoolExecutor(DECODE_THREADS) as pool:
        places = writer.missing([s.key for s in samples], [_version(s) for s in samples], what="picture")
        missing = [samples[place] for place in places]
        for start in range(0, len(missing), BATCH):
            chunk = missing[start : start + BATCH]
            pixels = torch.stack(list(pool.map(lambda s: _pixels(s, clip.preprocess), chunk)))
            with torch.inference_mode():
                embeds = F.normalize(tower(pixels.to(device)).float(), dim=-1)
            writer.add([s.key for s in chunk], embeds, texts=[_version(s) for s in chunk])
    if missing:
        say(f"{folder}: the original image tower's embeddings of {len(missing):,} plain pictures")


def image_identity(clip: Clip) -> dict[str, Any]:
    """What the store of a cached teacher records: whose embeddings, of pictures prepared how."""
    return {**clip.identity, "kind": "clip-image-tower", "preprocess": clip.preprocess.to_config()}


def _version(sample: Sample) -> str:
    """Changes when the picture's file does."""
    status = sample.path.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns}"


def _pixels(sample: Sample, preprocess: ImagePreprocess) -> Tensor:
    return preprocess(read_image(sample.path))
