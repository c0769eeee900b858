"""``proclip align``: any CLIP, any LLM-based embedder and a folder of captioned images, in one command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..config import Recipe, from_dict, merge_settings
from ..data.dataset import ImageCaptions, check_images
from ..embed import TextCache
from ..errors import ProclipError
from ..evaluate.retrieval import retrieval_recall
from ..evaluate.tasks import RetrievalTask
from ..files import write_json
from ..models.clip import load_clip
from ..models.hub import has_file
from ..models.proclip import ProCLIP
from .embed import embed_recipes
from .evaluate import ImageFeatures, clip_encoders, proclip_encoders
from .recipes import environment, pick_device
from .train import train_recipe

ALIGN, HELD_OUT = "align", "test"
"""Splits of a dataset: what is trained on, and what is measured on where rows name it."""
STAGES: dict[str, Any] = {
    "distill": {"batch_size": 128, "optim": {"lr": 5e-4, "warmup_steps": 50}},
    "tune": {
        "batch_size": 256,
        "optim": {"lr": 1e-4, "lr_by_group": {"image_tower": 1e-5}, "warmup_steps": 50, "grad_clip": 1.0},
    },
}
"""For thousands to hundreds of thousands of images; the paper's own settings, for millions, are recipes/paper."""


def common_captions(data: ImageCaptions) -> tuple[str, ...]:
    """The caption columns that every image to be trained on has.

    Raises:
        ProclipError: there is none.
    """
    samples = data.select(ALIGN)
    columns = [c for c in samples[0].captions if all(sample.captions.get(c, "").strip() for sample in samples)]
    if not columns:
        raise ProclipError(f"{data.folder}: no caption column has a text for every image; choose with --captions")
    return tuple(columns)


def align_folder(
    clip: str,
    embedder: str,
    folder: Path,
    out: Path,
    captions: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Both stages on every caption column unless some are named, then retrieval on held-out images.

    Args:
        clip: hub id, folder or ``open_clip:`` name of the CLIP.
        embedder: hub id or folder of the LLM-based embedder, or ``smollm2``.
        folder: captioned images.
        out: run folder; the embeddings go to ``out/embeddings``.
        captions: caption columns; those that every image has if empty.
        settings: ``key.subkey=value`` of the recipe, applied last.

    Returns:
        as `align`.

    Raises:
        ProclipError: a setting is not valid, or the data, the CLIP or the embedder is not.
    """
    data = ImageCaptions(folder)
    recipe = align_recipe(clip, embedder, data, out, captions, settings)
    return align(recipe, data, out)


def align_recipe(
    clip: str, embedder: str, data: ImageCaptions, out: Path, captions: Sequence[str], settings: Sequence[str]
) -> Recipe:
    """The recipe of such a run; the run folder keeps it as ``recipe.toml``, and ``proclip train`` repeats it."""
    columns = list(captions) or list(common_captions(data))
    table = embedder_table(embedder)
    samples = len(data.select(ALIGN))
    values: dict[str, Any] = {
        "name": out.name,
        "clip": clip,
        "embedder": table,
        "adapter": {"input_norm": "standardize" if table["backend"] == "causal-lm" else "l2"},
        "data": {"dataset": str(data.folder), "store": str(out / "embeddings")},
    }
    for stage, defaults in STAGES.items():
        batch = max(2, min(defaults["batch_size"], samples))
        values[stage] = {**defaults, "split": ALIGN, "captions": columns, "batch_size": batch}
    return from_dict(Recipe, merge_settings(values, settings))


def embedder_table(name: str) -> dict[str, Any]:
    """The ``[embedder]`` table for a model's name: who pools is read off its files or, for LLM2CLIP's, its name."""
    if "LLM2CLIP" in name and name.endswith("CC-Finetuned"):
        return {"model": name, "backend": "llm2vec"}
    declared = name != "smollm2" and has_file(name, "modules.json")
    return {"model": name, "backend": "sentence-transformers" if declared else "causal-lm"}


def align(recipe: Recipe, data: ImageCaptions, out: Path) -> dict[str, Any]:
    """Embed, train both stages, and measure retrieval on held-out images where there are any.

    Every step finds what is done already, so the same command goes on after an interruption.

    Returns:
        what is in ``out/retrieval.json``; empty without held-out images.
    """
    check_images(list(data.samples.values()))
    embed_recipes([recipe])
    model = train_recipe(recipe, out)
    held_out = [sample for sample in data.samples.values() if HELD_OUT in sample.splits]
    if not held_out:
        line = f'no row of {data.folder} has "splits": ["{HELD_OUT}"]: nothing to measure on'
        Console(stderr=True).print(line, highlight=False, soft_wrap=True)
        return {}
    assert recipe.tune is not None or recipe.distill is not None
    columns = (recipe.tune or recipe.distill).captions  # type: ignore[union-attr]
    tasks = {
        column: RetrievalTask(
            name=column,
            items=tuple((s.key, (s.captions[column],)) for s in held_out if column in s.captions),
            chance={},
        )
        for column in columns
    }
    figures = measure(recipe, data, model, tasks, out / "embeddings")
    result = {"clip": recipe.clip, "images": len(held_out), "figures": figures, "environment": environment()}
    write_json(out / "retrieval.json", result)
    print_figures(figures)
    return result


def measure(
    recipe: Recipe, data: ImageCaptions, model: Path, tasks: Mapping[str, RetrievalTask], store: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Recall of the original CLIP and of the trained model: method, caption column, figure."""
    device = pick_device()
    clip = load_clip(recipe.clip)
    clip.image_tower.to(device)
    clip.text_tower.to(device)
    ours = ProCLIP.from_pretrained(model, device=device)
    texts = TextCache(store / "texts", ours.embedder)
    encoders = {
        "CLIP": clip_encoders(clip, ImageFeatures(data, clip.image_tower, clip.preprocess)),
        "ProCLIP": proclip_encoders(ours, ImageFeatures(data, ours.image_tower, ours.preprocess), texts, texts),
    }
    return {
        method: {column: retrieval_recall(task, encoder) for column, task in tasks.items()}
        for method, encoder in encoders.items()
    }


def print_figures(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """One row a method and caption column."""
    table = Table("method", "captions", "image to text R@1", "R@5", "text to image R@1", "R@5")
    for method, by_column in figures.items():
        for column, f in by_column.items():
            cells = [f"{100 * f[key]:.1f}" for key in ("i2t_r@1", "i2t_r@5", "t2i_r@1", "t2i_r@5")]
            table.add_row(method, column, *cells)
    Console().print(table)
