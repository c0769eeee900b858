"""Stage 2 of a recipe, made ready: its batches, its stage, and what a cached teacher says of the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..config import Recipe, TuneConfig
from ..data.dataset import ImageCaptions, Samples, check_images
from ..data.loaders import TuneBatches
from ..data.store import EmbeddingStore
from ..data.store_format import MANIFEST
from ..data.stored_rows import StoredRows
from ..distributed import from_all, from_main
from ..embed import embed_pictures
from ..models.clip import Clip
from ..models.proclip import ProCLIP
from ..train.parameters import parameter_groups
from ..train.stages import ImageTextTuning
from .console import say
from .embed import embedding_progress, of_clip, progress, read_captions

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
    rows_folder: Path | None = None,
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
        rows_folder: where rows in the stores are kept; None: in memory.

    Raises:
        ProclipError: bad pictures, captions, stores, parameter groups or settings of the image tower.
    """
    samples, teacher = data.select(config.split, read_captions(config)), None
    check_images(samples)
    if config.teacher == "cached":
        store = of_clip(Path(recipe.data.store) / "image_teacher", recipe.clip)
        teacher = cached_teacher(samples, model, clip, store, rows_folder)
    with progress("stage 2", "captions checked") as report:
        rows = StoredRows(rows_folder, report)
        batches = TuneBatches(
            samples, llm, clip.preprocess, config, recipe.seed, teacher, recipe.data, broken_file, rows
        )
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


def cached_teacher(
    samples: Samples, model: ProCLIP, clip: Clip, folder: Path, rows_folder: Path | None = None
) -> EmbeddingStore:
    """The original image tower's embedding of every plain picture, by the sample's key; what is there is kept.

    No augmentation: a student that sees a crop is held to the embedding of the whole picture. Pictures that cannot be
    used have none, as they are not trained on; each new run tries them again, and embeds those that have changed. A run
    that goes on takes what it had.

    Raises:
        ProclipError: the store is of another CLIP, or a picture is missing.
    """
    identity, there = image_identity(clip), from_main((folder / MANIFEST).is_file())
    if there:
        store = EmbeddingStore.open(folder, expect=identity)
        with progress("image teacher", "pictures compared") as report:
            rows = StoredRows(rows_folder, report)
            if rows.has_pictures(store, samples):
                return store
            absent = np.flatnonzero(rows.pictures(store, samples, stamps=True) < 0)
        if not len(absent):
            return store
        samples = samples.only(absent)
    with embedding_progress("image teacher", "pictures") as told:
        counts = embed_pictures(samples, model.image_tower, clip.preprocess, folder, identity, told)
    first = next((one for one in from_all(counts.first_broken) if one is not None), None)
    broken = f", but {counts.broken:,} that cannot be used, such as {first}" if first is not None else ""
    say(f"{folder}: the original image tower's embeddings of {counts.pictures:,} plain pictures{broken}")
    return EmbeddingStore.open(folder, expect=identity)


def image_identity(clip: Clip) -> dict[str, Any]:
    """What the store of a cached teacher records: whose embeddings, of pictures prepared how."""
    return {**clip.identity, "kind": "clip-image-tower", "preprocess": clip.preprocess.to_config()}
