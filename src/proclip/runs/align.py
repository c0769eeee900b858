"""``proclip align``: any CLIP, any LLM-based embedder and a folder of captioned images, in one command."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..config import Recipe, from_dict, merge_settings
from ..config.reading import NOTHING
from ..data.dataset import NOT, ONE_TEXT, ImageCaptions, check_images
from ..data.decoding import check_pictures
from ..distributed import rank, world_size
from ..errors import ProclipError
from ..evaluate.benchmarks.own import retrieval_folder
from ..models.hub import has_file
from .console import say
from .embed import embed_recipes, progress
from .recipes import EMBEDDINGS
from .train import check_recipe, train_recipe

HELD_OUT = "test"
"""Split that is measured on, where rows name it."""
TRAINED_ON = ("align", "train")
"""Splits that are trained on, the first that rows name; where none does, all rows but the held-out ones."""
STAGES: dict[str, Any] = {
    "distill": {"skip_truncated": True, "optim": {"lr": 5e-4, "warmup_steps": 50}},
    "tune": {
        "optim": {"lr": 1e-4, "rules": [{"match": "^image_tower", "lr": 1e-5}], "warmup_steps": 50, "grad_clip": 1.0}
    },
}
"""For thousands to hundreds of thousands of images; the paper's own settings, for millions, are recipes/paper."""
BATCH_SIZES = {"distill": 128, "tune": 256}
"""Of each stage, where there are as many images."""


def training_split(data: ImageCaptions) -> str:
    """The split to train on where the user names none."""
    return next((split for split in TRAINED_ON if split in data.splits), f"{NOT}{HELD_OUT}")


def common_captions(data: ImageCaptions, split: str) -> tuple[str, ...]:
    """The caption columns that every image of a split has.

    Raises:
        ProclipError: there is none; the message names columns that hold lists.
    """
    samples = data.select(split)
    columns = samples.complete_columns()
    if not columns:
        lists = ", ".join(sorted(samples[0].caption_lists))
        why = f"; {lists} holds lists, and {ONE_TEXT}" if lists else "; choose with --captions"
        raise ProclipError(f"{data.folder}: no caption column has a text for every image of split {split!r}{why}")
    return tuple(columns)


def align_folder(
    clip: str,
    embedder: str,
    folder: Path,
    out: Path,
    captions: Sequence[str] = (),
    settings: Sequence[str] = (),
    trust_images: bool = False,
) -> Path:
    """Both stages on every caption column unless some are named, then retrieval on held-out images.

    Args:
        clip: hub id, folder or ``open_clip:`` name of the CLIP.
        embedder: hub id or folder of the LLM-based embedder, or ``smollm2``.
        folder: captioned images.
        out: run folder; the embeddings go to ``out/embeddings``.
        captions: caption columns; those that every image has if empty.
        settings: ``key.subkey=value`` of the recipe, applied last; ``distill=none`` leaves a stage out.
        trust_images: do not decode every picture first, which takes some milliseconds each.

    Returns:
        the folder of the model.

    Raises:
        ProclipError: a setting is not valid, or the data, the CLIP or the embedder is not.
    """
    data = ImageCaptions(folder)
    recipe = align_recipe(clip, embedder, data, out, captions, settings)
    return align(recipe, data, out, trust_images)


def align_recipe(
    clip: str, embedder: str, data: ImageCaptions, out: Path, captions: Sequence[str], settings: Sequence[str]
) -> Recipe:
    """The recipe of such a run; the run folder keeps it as ``recipe.toml``, and ``proclip train`` repeats it."""
    table = embedder_table(embedder)
    values: dict[str, Any] = {
        "name": out.name,
        "clip": clip,
        "embedder": table,
        "adapter": {"input_norm": "standardize" if table["backend"] == "causal-lm" else "l2"},
        "data": {"dataset": str(data.folder), "store": str(out / EMBEDDINGS)},
    }
    split = training_split(data)
    values |= {stage: {**deepcopy(defaults), "split": split} for stage, defaults in STAGES.items()}
    merge_settings(values, settings)
    if all(values[stage] == NOTHING for stage in STAGES):
        raise ProclipError("--set distill=none and tune=none leave nothing to train: keep one of the stages")
    for stage, batch_size in BATCH_SIZES.items():
        table = values[stage]
        if isinstance(table, dict):  # else the stage is left out, or not valid
            trained_on = str(table.setdefault("split", split))
            table.setdefault("batch_size", max(2, min(batch_size, len(data.select(trained_on)))))
            if "captions" not in table:
                table["captions"] = list(captions) or list(common_captions(data, trained_on))
    trained = [list(values[stage]["captions"]) for stage in STAGES if isinstance(values[stage], dict)]
    if trained and "evaluate" not in values and HELD_OUT in data.splits:
        values["evaluate"] = _evaluation(data, trained[-1], out)
    return from_dict(Recipe, values)


def _evaluation(data: ImageCaptions, trained: Sequence[str], out: Path) -> dict[str, Any]:
    """Held-out rows: a mini world's own tasks, else retrieval by those of the columns trained on that they have."""
    tasks = []
    if not (data.folder / "tasks").is_dir():
        held_out = retrieval_folder(data.folder, split=HELD_OUT).tasks
        tasks = [prefix or task.name for prefix, task in held_out.items() if task.name in trained]
    return {"folders": [str(data.folder)], "split": HELD_OUT, "tasks": tasks, "cache": str(out / "cache")}


def embedder_table(name: str) -> dict[str, Any]:
    """The ``[embedder]`` table for a model's name: who pools is read off its files or, for LLM2CLIP's, its name."""
    if "LLM2CLIP" in name and name.endswith("CC-Finetuned"):
        return {"model": name, "backend": "llm2vec"}
    declared = name != "smollm2" and has_file(name, "modules.json")
    return {"model": name, "backend": "sentence-transformers" if declared else "causal-lm"}


def align(recipe: Recipe, data: ImageCaptions, out: Path, trust_images: bool = False) -> Path:
    """Embed and train both stages; each is measured on held-out images where there are any.

    What can be refused at once is, before the LLM embeds anything. Every step finds what is done already, so the same
    command goes on after an interruption.

    Args:
        recipe: of both stages, or of one.
        data: its data set.
        out: run folder.
        trust_images: do not decode every picture first.

    Returns:
        the folder of the model.
    """
    check_recipe(recipe, out)
    check_images(data.samples)
    held_out = [sample for sample in data.samples if HELD_OUT in sample.splits]
    if not trust_images and not (out / "model" / "config.json").is_file():
        used = [*(data.select(recipe.tune.split) if recipe.tune else []), *held_out]
        with progress("pictures", "decoded") as report:
            own = list({sample.key: sample for sample in used}.values())[rank() :: world_size()]
            check_pictures(own, report)
    embed_recipes([recipe])
    model = train_recipe(recipe, out)
    if recipe.evaluate is None:
        line = f'no row of {data.folder} has "splits": ["{HELD_OUT}"]: nothing to measure on'
        say(line)
    return model
