"""``proclip train``: a recipe's stages, in order, into a run folder that can be entered again."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..config import Recipe
from ..data.dataset import ImageCaptions
from ..data.loaders import DistillBatches, PretrainBatches, TuneBatches
from ..data.store import EmbeddingStore
from ..errors import ProclipError
from ..models.adapter import Adapter
from ..models.clip import load_clip, load_clip_model, new_clip, save_clip
from ..models.embedder import identity_difference
from ..models.embedder_source import settings_of
from ..models.proclip import ProCLIP
from ..seeding import seed_all
from ..train.loop import fit
from ..train.metric_log import MetricLogger
from ..train.stages import ContrastivePretraining, ImageTextTuning, TextDistillation
from .recipes import open_run


def train_recipe(recipe: Recipe, out: Path | None = None, device: str | None = None) -> Path:
    """Run every stage of a recipe; a run that was interrupted goes on, a finished one is left as it is.

    Args:
        recipe: what to do.
        out: run folder, ``runs/NAME`` if None.
        device: ``cuda`` where there is one, else ``cpu``.

    Returns:
        the folder of the trained model, ``out/model``.

    Raises:
        ProclipError: bad data or stores, a store that does not fit the recipe, a loss that is not finite.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ProclipError("training on several processes (WORLD_SIZE > 1) is not supported yet: start one process")
    folder = out if out is not None else Path("runs") / recipe.name
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    open_run(recipe, folder)
    model_folder = folder / "model"
    if (model_folder / "config.json").is_file():
        return model_folder
    data = ImageCaptions(recipe.data.dataset)
    with MetricLogger(folder, recipe.log) as logger:
        if recipe.pretrain:
            _pretrain(recipe, data, folder, device, logger)
        else:
            _align(recipe, data, folder, device, logger)
    return model_folder


def _pretrain(recipe: Recipe, data: ImageCaptions, folder: Path, device: str, logger: MetricLogger) -> None:
    config = recipe.pretrain
    assert config is not None
    samples = data.select(config.split)
    seed_all(recipe.seed)
    if config.init:
        model, clip = load_clip_model(config.init)
    else:
        model, clip = new_clip(config, [s.captions[c] for s in samples for c in config.captions if c in s.captions])
    logit_scale = model.logit_scale
    source = PretrainBatches(samples, clip.tokenizer, clip.preprocess, config, recipe.seed)
    stage = ContrastivePretraining(clip.image_tower, clip.text_tower, logit_scale, config).to(device)
    fit(stage, source, name="pretrain", epochs=config.epochs, optim=config.optim, log=recipe.log, run_dir=folder,
        logger=logger)  # fmt: skip
    save_clip(model.cpu(), clip, folder / "model", torch.float16)


def _align(recipe: Recipe, data: ImageCaptions, folder: Path, device: str, logger: MetricLogger) -> None:
    clip = load_clip(recipe.clip)
    llm = EmbeddingStore.open(Path(recipe.data.store) / "llm")
    wanted = settings_of(recipe.embedder)
    if differ := identity_difference(wanted, {name: llm.identity.get(name) for name in wanted}):
        raise ProclipError(f"{llm.folder} was written by another embedder than recipe {recipe.name!r} names: {differ}")
    seed_all(recipe.seed)
    model = ProCLIP(
        clip.image_tower, Adapter(llm.dim, clip.dim, recipe.adapter), clip.logit_scale, clip.preprocess,
        recipe.embedder, llm.identity,
    ).to(device)  # fmt: skip
    if recipe.distill:
        teacher = EmbeddingStore.open(Path(recipe.data.store) / "teacher", expect=clip.identity)
        texts = DistillBatches(data.select(recipe.distill.split), llm, teacher, recipe.distill, recipe.seed)
        model.adapter.fit_input_norm(texts.training_llm_embeds())
        fit(TextDistillation(model.adapter, recipe.distill), texts, name="distill", epochs=recipe.distill.epochs,
            optim=recipe.distill.optim, log=recipe.log, run_dir=folder, logger=logger)  # fmt: skip
    if recipe.tune:
        pairs = TuneBatches(data.select(recipe.tune.split), llm, clip.preprocess, recipe.tune, recipe.seed)
        if not recipe.distill:
            model.adapter.fit_input_norm(pairs.training_llm_embeds())
        stage = ImageTextTuning(model.image_tower, model.adapter, model.logit_scale, recipe.tune)
        fit(stage, pairs, name="tune", epochs=recipe.tune.epochs, optim=recipe.tune.optim, log=recipe.log,
            run_dir=folder, logger=logger)  # fmt: skip
    model.cpu().save_pretrained(folder / "model", f"Trained by recipe `{recipe.name}`, seed {recipe.seed}.")
