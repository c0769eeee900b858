"""Stage 2 of a recipe, made ready: its batches, its stage, and what a cached teacher says of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from ..config import Recipe, TuneConfig
from ..data.dataset import ImageCaptions, Sample, check_images
from ..data.loaders import DECODE_THREADS, TuneBatches
from ..data.store import EmbeddingStore, StoreWriter, text_digest
from ..errors import ProclipError
from ..models.clip import Clip
from ..models.preprocess import ImagePreprocess
from ..models.proclip import ProCLIP
from ..train.optim import build_optimizer
from ..train.stages import ImageTextTuning
from .embed import of_clip, read_captions

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
    recipe: Recipe,
    config: TuneConfig,
    data: ImageCaptions,
    model: ProCLIP,
    clip: Clip,
    llm: EmbeddingStore,
    broken_file: Path,
) -> tuple[TuneBatches, ImageTextTuning]:
    """Everything that stage 2 needs, checked.

    Args:
        recipe: whose stage it is.
        config: of stage 2.
        data: images and captions.
        model: what it trains; its image tower is still the original.
        clip: the checkpoint that the tower comes from.
        llm: the LLM's embeddings.
        broken_file: where pictures that turn out broken are listed.

    Raises:
        ProclipError: bad pictures, captions, stores, parameter groups or settings of the image tower.
    """
    samples = data.select(config.split, read_captions(config))
    check_images(samples)
    teacher = None
    if config.teacher == "cached":
        teacher = cached_teacher(samples, model, clip, of_clip(Path(recipe.data.store) / "image_teacher", recipe.clip))
    batches = TuneBatches(samples, llm, clip.preprocess, config, recipe.seed, teacher, recipe.data, broken_file)
    return batches, tuning_stage(config, model)


def tuning_stage(config: TuneConfig, model: ProCLIP) -> ImageTextTuning:
    """Stage 2 of a model.

    Raises:
        ProclipError: settings of the image tower or parameter groups that are not there.
    """
    stage = ImageTextTuning(model.image_tower, model.adapter, model.logit_scale, config, model.logit_bias)
    build_optimizer(stage.groups(), config.optim)
    return stage


def trained_parameters(stage: ImageTextTuning, model: ProCLIP) -> str:
    """How many numbers stage 2 trains, by group, and how many the model has; LoRA's own count in both."""
    counts = {name: sum(p.numel() for _, p in parameters) for name, parameters in stage.groups().items()}
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
    tower, device = model.image_tower.eval(), model.device
    with StoreWriter(folder, identity, clip.dim) as writer, ThreadPoolExecutor(DECODE_THREADS) as pool:
        missing = [s for s in samples if not _is_done(s, writer)]
        for start in range(0, len(missing), BATCH):
            chunk = missing[start : start + BATCH]
            pixels = torch.stack(list(pool.map(lambda s: _pixels(s, clip.preprocess), chunk)))
            with torch.inference_mode():
                embeds = F.normalize(tower(pixels.to(device)).float(), dim=-1)
            writer.add([s.key for s in chunk], embeds, texts=[s.picture.stamp() for s in chunk])
    if missing:
        line = f"{folder}: the original image tower's embeddings of {len(missing):,} plain pictures"
        Console(stderr=True).print(line, highlight=False, soft_wrap=True)
    return EmbeddingStore.open(folder, expect=identity)


def image_identity(clip: Clip) -> dict[str, Any]:
    """What the store of a cached teacher records: whose embeddings, of pictures prepared how."""
    return {**clip.identity, "kind": "clip-image-tower", "preprocess": clip.preprocess.to_config()}


def _is_done(sample: Sample, writer: StoreWriter) -> bool:
    if sample.key not in writer.done_keys:
        return False
    if writer.done_keys[sample.key] != text_digest(sample.picture.stamp()):
        raise ProclipError(f"{sample.picture} has changed since its embedding was cached: delete {writer.folder}")
    return True


def _pixels(sample: Sample, preprocess: ImagePreprocess) -> Tensor:
    return preprocess(sample.picture.open())
