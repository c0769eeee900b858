"""``proclip train``: a recipe's stages, in order, into a run folder that can be entered again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..config import DistillConfig, LogConfig, Recipe
from ..data.broken import BrokenImages, files_like
from ..data.dataset import ImageCaptions, check_images
from ..data.loaders import DistillBatches, PretrainBatches, TuneBatches
from ..data.store import EmbeddingStore
from ..data.stored_rows import StoredRows
from ..distributed import barrier, from_main, is_main, main_first
from ..errors import ProclipError
from ..files import read_json, write_json
from ..models.adapter import Adapter
from ..models.clip import checkpoint_folder, digest_of, load_clip
from ..models.clip_pretraining import new_clip, save_clip
from ..models.clip_transformers import load_clip_model
from ..models.compiling import check_compiler
from ..models.devices import pick_device
from ..models.embedder import identity_difference
from ..models.embedder_source import refuse_unpinned_code, settings_of
from ..models.hub import lasting_name
from ..models.proclip import ProCLIP, load_weights
from ..seeding import seed_all
from ..train.checkpoint import latest_checkpoint
from ..train.loop import Hook, checkpoints_of, fit
from ..train.metric_log import MetricLogger
from ..train.optim import build_scaler
from ..train.parameters import parameter_groups
from ..train.stages import ContrastivePretraining, TextDistillation
from .best import save_best
from .console import say
from .embed import of_clip, progress, read_captions
from .evaluate import add_figures_to_card
from .forgetting import StageEvaluation
from .provenance import provenance
from .recipes import open_run
from .tuning import first_bias, open_tuning, trained_parameters, tuning_stage

BROKEN = "broken_images.jsonl"
"""File of the run folder that lists pictures which were replaced; of several processes each has its own."""
ROWS = "stored_rows"
"""Folder of the run folder where rows of captions and pictures in the stores are kept until the run's end."""


def train_recipe(recipe: Recipe, out: Path | None = None, device: str | None = None) -> Path:
    """Run every stage of a recipe; a run that was interrupted goes on, a finished one is left as it is.

    Everything is checked before the first step but the pixels: captions, embeddings, that pictures are there,
    parameter groups, arithmetic. Under ``torchrun`` all processes train one model (`distributed.launched`): all of them
    check and read, the main one writes and speaks.

    Args:
        recipe: what to do.
        out: run folder, ``runs/NAME`` if None.
        device: ``cuda`` where there is one, else ``cpu``, if None.

    Returns:
        the folder of the trained model, ``out/model``.

    Raises:
        ProclipError: bad data or stores, a store that does not fit the recipe, a run folder of another recipe or of
            other inputs, a loss that is not finite.
    """
    folder = out if out is not None else Path("runs") / recipe.name
    device = device or pick_device()
    data = ImageCaptions.of(recipe.data)
    _enter(recipe, folder, device)
    model_folder = folder / "model"
    stages = _pretrain if recipe.pretrain else _align
    with MetricLogger(folder, recipe.log) as logger:
        stages(recipe, data, folder, device, logger)
    return model_folder


def check_recipe(recipe: Recipe, folder: Path, device: str | None = None) -> None:
    """Refuse before anything is embedded what can be known before: a long run is not to fail for a slip.

    Args:
        recipe: with stages 1 or 2.
        folder: of the run; made and entered.
        device: as for `train_recipe`.

    Raises:
        ProclipError: code of the hub without a revision, arithmetic that the device has not, a run folder of another
            recipe, a CLIP or a start that does not load, parameter groups or blocks of the image tower that are not
            there.
    """
    refuse_unpinned_code(recipe.embedder)
    _enter(recipe, folder, device or pick_device())
    if recipe.evaluate:
        StageEvaluation(recipe, folder, device or pick_device())
    clip = load_clip(recipe.clip)
    if recipe.init:
        ProCLIP.from_pretrained(recipe.init)
    adapter = Adapter(1, clip.dim, recipe.adapter)  # the LLM's width is not known yet; no name depends on it
    bias = first_bias(recipe.tune, clip) if recipe.tune else None
    model = ProCLIP(clip.image_tower, adapter, clip.logit_scale, clip.preprocess, recipe.embedder, logit_bias=bias)
    if recipe.distill:
        _distillation(recipe.distill, adapter)
    if recipe.tune:
        tuning_stage(recipe.tune, model)


def _enter(recipe: Recipe, folder: Path, device: str) -> None:
    for stage in (recipe.distill, recipe.tune, recipe.pretrain):
        if stage is not None:
            build_scaler(stage.optim, torch.device(device))  # raises where the device has no such arithmetic
    if recipe.tune and recipe.tune.image.compile:
        check_compiler(device, "tune.image.compile")
    with main_first():
        open_run(recipe, folder)


def _check_inputs(folder: Path, inputs: dict[str, Any]) -> bool:
    """Record what a run is made from, or compare with what it was; returns whether the run is finished.

    Raises:
        ProclipError: the run was made from another CLIP, dataset or start, or other embeddings; the message says which.
    """
    path = folder / "inputs.json"
    finished = (folder / "model" / "config.json").is_file()
    if path.is_file() and (finished or (folder / "checkpoints").is_dir()):
        before = read_json(path)
        if differ := identity_difference(inputs, before):
            raise ProclipError(f"{folder} was made from other inputs ({differ}); delete it or give another --out")
    if is_main():
        write_json(path, inputs)
    if finished:
        say(f"{folder}: finished already")
    return finished


def _finish(folder: Path, save: Callable[[Path], None]) -> None:
    """Save the model whole or not at all; checkpoints and captions' rows have done their work then."""
    if is_main():
        draft = folder / "model.part"
        shutil.rmtree(draft, ignore_errors=True)
        save(draft)
        draft.replace(folder / "model")
        for done in ("checkpoints", ROWS):
            shutil.rmtree(folder / done, ignore_errors=True)
    barrier()
    say(f"model: {folder / 'model'}")


def _start_from(model: ProCLIP, name: str) -> None:
    """Give the adapter the weights of another model's.

    Raises:
        ProclipError: that is no proclip model, or its adapter is of another size or input norm, or was trained with
            another embedder or for another CLIP.
    """
    other = ProCLIP.from_pretrained(name)
    if (width := model.adapter.llm_dim) != other.adapter.llm_dim:
        raise ProclipError(
            f"init: the adapter of {name} is for vectors {other.adapter.llm_dim} wide, those of data.store are {width}"
        )
    if other.adapter.config != model.adapter.config:
        raise ProclipError(
            f"init: {name} has an adapter of {other.adapter.config}, the recipe's is {model.adapter.config}"
        )
    if differ := identity_difference(model.embedder_identity or {}, other.embedder_identity or {}):
        raise ProclipError(f"init: the adapter of {name} was trained with another embedder: {differ}")
    if lasting_name(str(other.clip_name)) != lasting_name(str(model.clip_name)):
        raise ProclipError(
            f"init: the adapter of {name} is for {other.clip_name!r}, the recipe's CLIP {model.clip_name!r}"
        )
    load_weights(model.adapter, other.adapter.state_dict(), f"init: {name}")


def _counting(broken: BrokenImages, log: LogConfig) -> Hook:
    """Puts the number of broken pictures into the metrics, once there are any."""

    def count(step: int) -> dict[str, float]:
        return {"broken_images": total} if (total := broken.total()) else {}

    return Hook(log.every_steps, count, quick=True)


def _say_broken(broken: BrokenImages, folder: Path) -> None:
    if count := broken.total():
        files = ", ".join(map(str, files_like(folder / BROKEN)))
        say(f"broken images, in whose place others were taken: {count:,}; {files}")


def _pretrain(recipe: Recipe, data: ImageCaptions, folder: Path, device: str, logger: MetricLogger) -> None:
    config = recipe.pretrain
    assert config is not None
    samples = data.select(config.split, config.captions)
    check_images(samples)
    seed_all(recipe.seed)
    if config.init:
        model, clip = load_clip_model(config.init)
    else:
        model, clip = new_clip(config, [s.captions[c] for s in samples for c in config.captions if c in s.captions])
    digest = samples.digest(config.captions)
    if _check_inputs(folder, {"init": clip.identity["sha256"], "dataset": digest}):
        return
    source = PretrainBatches(
        samples, clip.tokenizer, clip.preprocess, config, recipe.seed, recipe.data, folder / BROKEN
    )
    cut, texts = source.truncated()
    say(f"pretrain: {cut} of {texts} captions ({cut / texts:.1%}) are longer than the text tower reads: they are cut")
    stage = ContrastivePretraining(clip.image_tower, clip.text_tower, model.logit_scale, config).to(device)
    fit(stage, source, name="pretrain", epochs=config.epochs, optim=config.optim, log=recipe.log, run_dir=folder,
        logger=logger, hooks=[_counting(source.broken, recipe.log)])  # fmt: skip
    _say_broken(source.broken, folder)
    _finish(folder, lambda draft: save_clip(model.cpu(), clip, draft))


def _data_digests(recipe: Recipe, data: ImageCaptions) -> dict[str, str]:
    """Hash of what each stage reads of the data."""
    stages = {"distill data": recipe.distill, "tune data": recipe.tune}
    return {
        name: data.select(stage.split, read_captions(stage)).digest(tuple(stage.captions))
        for name, stage in stages.items() if stage is not None
    }  # fmt: skip


def _distillation(config: DistillConfig, adapter: Adapter) -> TextDistillation:
    """Stage 1 of an adapter, its parameter rules checked."""
    stage = TextDistillation(adapter, config)
    parameter_groups(stage.groups(), config.optim, stage.layers_above())
    return stage


def _fit_input_norm(adapter: Adapter, first: DistillBatches | TuneBatches, checkpoints: Path) -> None:
    """Fit the adapter's input norm to what its first stage reads, unless it comes with a checkpoint of that stage."""
    if adapter.config.input_norm != "standardize":
        return
    if not from_main(is_main() and latest_checkpoint(checkpoints) is not None):
        adapter.fit_input_norm(first.training_llm_embeds())


def _llm_store(recipe: Recipe) -> EmbeddingStore:
    """The LLM's embeddings, as the recipe says that they were made."""
    llm = EmbeddingStore.open(Path(recipe.data.store) / "llm")
    wanted = settings_of(recipe.embedder)
    if differ := identity_difference(wanted, {k: v for k, v in llm.identity.items() if k != "files"}):
        raise ProclipError(f"{llm.folder} was written by another embedder than recipe {recipe.name!r} names: {differ}")
    if llm.dtype != (dtype := recipe.data.store_dtype):
        raise ProclipError(
            f"data.store_dtype is {dtype!r}, but the embeddings at {llm.folder} are {llm.dtype!r}: set it to that, or "
            "embed into another data.store"
        )
    return llm


def _align(recipe: Recipe, data: ImageCaptions, folder: Path, device: str, logger: MetricLogger) -> None:
    clip = load_clip(recipe.clip)
    llm = _llm_store(recipe)
    inputs = {"clip": clip.identity["sha256"], **llm.identity, **_data_digests(recipe, data)}
    if recipe.init:
        inputs["init"] = digest_of(checkpoint_folder(recipe.init))
    if _check_inputs(folder, inputs):
        return
    seed_all(recipe.seed)
    model = ProCLIP(
        clip.image_tower, Adapter(llm.dim, clip.dim, recipe.adapter), clip.logit_scale, clip.preprocess,
        recipe.embedder, llm.identity, recipe.clip, first_bias(recipe.tune, clip) if recipe.tune else None,
    ).to(device)  # fmt: skip
    if recipe.init:
        _start_from(model, recipe.init)
    texts = pairs = None
    if recipe.distill:
        teacher = EmbeddingStore.open(of_clip(Path(recipe.data.store) / "teacher", recipe.clip), expect=clip.identity)
        samples = data.select(recipe.distill.split, read_captions(recipe.distill))
        skip = clip.cuts if recipe.distill.skip_truncated else None
        with progress("stage 1", "captions checked") as report:
            rows = StoredRows(folder / ROWS, report)
            texts = DistillBatches(samples, llm, teacher, recipe.distill, recipe.seed, rows, skip)
        if texts.left_out:
            share = f"{texts.left_out} of {texts.texts} texts ({texts.left_out / texts.texts:.1%})"
            say(f"distill: {share} are left out, for the teacher would cut them (distill.skip_truncated)")
        distillation = _distillation(recipe.distill, model.adapter)
    if recipe.tune:
        pairs, tuning = open_tuning(recipe, recipe.tune, data, model, clip, llm, folder / BROKEN, folder / ROWS)
    evaluation = StageEvaluation(recipe, folder, device) if recipe.evaluate else None
    first = texts or pairs
    if first and not recipe.init:
        _fit_input_norm(model.adapter, first, checkpoints_of(folder, "distill" if texts else "tune"))
    if recipe.distill and texts:
        hooks = evaluation.hooks(model, texts.steps_per_epoch) if evaluation else []
        fitted = fit(distillation, texts, name="distill", epochs=recipe.distill.epochs, optim=recipe.distill.optim,
                     log=recipe.log, run_dir=folder, logger=logger, hooks=hooks)  # fmt: skip
        if not recipe.tune:
            save_best(fitted, "distill", distillation, model, folder, provenance(recipe, folder))
        if evaluation:
            evaluation.report(model, "distill")
    if recipe.tune and pairs:
        say(trained_parameters(tuning, model))
        hooks = [_counting(pairs.broken, recipe.log)]
        hooks += evaluation.hooks(model, pairs.steps_per_epoch) if evaluation else []
        fitted = fit(tuning, pairs, name="tune", epochs=recipe.tune.epochs, optim=recipe.tune.optim, log=recipe.log,
                     run_dir=folder, logger=logger, hooks=hooks)  # fmt: skip
        _say_broken(pairs.broken, folder)
        save_best(fitted, "tune", tuning, model, folder, provenance(recipe, folder))
        tuning.finish()
        if evaluation:
            evaluation.report(model, "tune")
    model.provenance = provenance(recipe, folder)
    _finish(folder, lambda draft: model.cpu().save_pretrained(draft))
    if evaluation and evaluation.last and is_main():
        add_figures_to_card(folder / "model", evaluation.last)
