"""``proclip ablate``: the paper's component table, lambda table (Tables 5 and 7) and controls, on the mini world."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..config import Recipe, config_hash
from ..data.store import EmbeddingStore
from ..evaluate import open_model
from ..evaluate.benchmarks import tasks_folder
from ..files import write_atomically, write_json
from ..mini.concepts import LANGUAGES
from ..models.devices import pick_device
from .columns import COLUMNS, TASKS, cell
from .embed import embed_recipes
from .evaluate import evaluate_model, evaluate_path, values
from .mini import build
from .recipes import after_stage1, environment, find_recipe
from .train import train_recipe

CLIP = "CLIP itself"
STAGE1 = "stage 1, L_ins + L_struct"
PROCLIP = "+ stage 2, L_info + L_reg"
MULTILINGUAL = "ProCLIP, stage 1 in seven languages"
COMPONENTS = {
    "LLM2CLIP: contrastive only, adapter from scratch": ("llm2clip", ()),
    "stage 1, L_ins": ("stage1", ("distill.loss.structure_weight=0",)),
    STAGE1: ("stage1", ()),
    "+ stage 2, L_info": ("stage1_contrastive", ()),
    PROCLIP: ("proclip", ()),
}
"""Rows of Table 5: recipe and settings."""
ALIGN_ONLY = 'distill.split="align"', "distill.epochs=20"
CLASS_WORDS = ('tune.captions=["short", "long", "raw", "kind"]',)
CONTROLS = {
    "ProCLIP, stage 1 on the captions of the 1,000 align pictures": ("proclip", ALIGN_ONLY),
    "LLM2CLIP, its captions also name the classes": ("llm2clip", CLASS_WORDS),
    "ProCLIP, stage 2's captions also name the classes": ("proclip", CLASS_WORDS),
    MULTILINGUAL: ("proclip_multilingual", ()),
}
"""Ours, not the paper's: what of the gain is owed to the text that stage 1 alone reads, and to that naming classes.

Stage 1 on the align captions reads about as many texts (20 passes over 1,000 pictures' as 4 over 5,710).
"""
LAMBDA_FACTORS = (0.0, 0.5, 1.0, 1.5, 2.5)
"""Rows of Table 7, over the recipe's lambda: the paper's 0, 2e-4, 4e-4, 6e-4, 1e-3 over 4e-4."""


def variants(seed: int, folder: Path) -> dict[str, Recipe]:
    """Every run of one seed, by name, stage 1 before what starts from it (the same as training it again, but cheaper).

    A lambda of 0 and the recipe's own are rows of Table 5.
    """
    stage1 = folder / run_name(seed, STAGE1) / "model"
    runs: dict[str, Recipe] = {}
    for row, (name, settings) in {**COMPONENTS, **CONTROLS}.items():
        recipe = find_recipe(f"mini/{name}", [f"seed={seed}", *settings])
        recipe = dataclasses.replace(recipe, evaluate=None)  # measured below, on the split that is asked for
        runs[row] = after_stage1(recipe, runs.get(STAGE1, recipe), stage1)
    full = runs[PROCLIP]
    assert full.tune is not None
    for factor in LAMBDA_FACTORS:
        if factor not in (0.0, 1.0):
            tune = dataclasses.replace(full.tune, distillation_weight=factor * full.tune.distillation_weight)
            runs[f"lambda x {factor:g}"] = dataclasses.replace(full, tune=tune)
    return runs


def run_name(seed: int, row: str) -> str:
    """Folder of a run below the ablation's."""
    return f"seed{seed}/" + re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def _rows(figures: Mapping[str, Sequence[Mapping[str, float]]], rows: Mapping[str, str]) -> list[str]:
    lines, most = [], max(map(len, figures.values()))
    for label, run in rows.items():
        if run not in figures:
            continue
        cells, count = [cell(figures[run], keys) for keys in COLUMNS.values()], len(figures[run])
        text = [f"{mean:.1f}" if count == 1 else f"{mean:.1f} ± {spread:.1f}" for mean, spread in cells]
        fewer = f" ({count} of {most} seeds)" if count < most and run != CLIP else ""
        lines.append(f"| {label}{fewer} | " + " | ".join(text) + " |")
    return ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS), *lines] if lines else []


def _languages(figures: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Text-to-image R@1 by language, those that the multilingual stage 1 reads first."""
    distill = find_recipe("mini/proclip_multilingual").distill
    assert distill is not None
    read = [name.removeprefix("name_") for name in distill.captions if name.startswith("name_")]
    ordered = [*read, *(language for language in LANGUAGES if language not in read)]
    rows = [row for row in (CLIP, PROCLIP, MULTILINGUAL) if row in figures]
    lines = ["| | " + " | ".join(ordered) + " |", "|---|" + "---|" * len(ordered)]
    for row in rows:
        means = [cell(figures[row], [f"multilingual/{language}/t2i_r@1"])[0] for language in ordered]
        lines.append(f"| {row} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return [f"Stage 1 in seven languages reads {', '.join(read)}.", "", *lines]


def tables(figures: Mapping[str, Sequence[Mapping[str, float]]], weight: float) -> str:
    """The tables as Markdown, those of which a row is there: points, mean and standard deviation over seeds."""
    runs = {0.0: "+ stage 2, L_info", 1.0: PROCLIP}
    of_lambda = {f"{factor * weight:g}": runs.get(factor, f"lambda x {factor:g}") for factor in LAMBDA_FACTORS}
    components = {row: row for row in (CLIP, *COMPONENTS)}
    shown = {
        "Components (the paper's Table 5)": _rows(figures, components),
        "lambda (the paper's Table 7)": _rows(figures, of_lambda),
        "Controls (ours)": _rows(figures, {row: row for row in CONTROLS}),
    }
    sections = [[f"### {title}", "", *lines, ""] for title, lines in shown.items() if lines]
    if MULTILINGUAL in figures:
        sections.append(["### Names in other languages, T2I R@1", "", *_languages(figures), ""])
    return "\n".join(line for section in sections for line in section)


def ablate(out: Path, seeds: int = 5, split: str = "test") -> dict[str, Any]:
    """Train and evaluate every row with every seed; runs that are there are not done again.

    Args:
        out: folder; gets ``ablation.json``, ``ablation.md`` and a run folder a row and seed.
        seeds: how many.
        split: concepts that are measured on.

    Returns:
        what is in ``ablation.json``.
    """
    console = Console(stderr=True)
    plan = {seed: variants(seed, out) for seed in range(seeds)}
    first = next(iter(plan[0].values()))
    folder = Path(first.data.sources[0].path)
    benchmark = build(folder)["benchmark"]
    embed_recipes(list(plan[0].values()))
    world = tasks_folder(folder, split).only(TASKS)
    original = open_model(first.clip, pick_device())
    of_clip = evaluate_model(original, [world], out / f"clip-{split}.json", reference=original)
    (measured,) = of_clip.benchmarks.values()
    about = {
        "benchmark": benchmark, "split": split, "protocol": measured.protocol, "clip": of_clip.model,
        "embedder": EmbeddingStore.open(Path(first.data.store) / "llm").identity, "seeds": seeds,
    }  # fmt: skip
    figures: dict[str, list[dict[str, float]]] = {CLIP: [values(of_clip)]}
    hashes: dict[str, list[str]] = {}
    tune = find_recipe("mini/proclip").tune
    assert tune is not None
    runs = [(seed, row, recipe) for seed, rows in plan.items() for row, recipe in rows.items()]
    for seed, row, recipe in sorted(runs, key=lambda run: run[1] not in COMPONENTS):  # the first table first
        run = out / run_name(seed, row)
        console.print(f"[bold]seed {seed}: {row}[/bold]", highlight=False)
        train_recipe(recipe, run)
        of_run = evaluate_path(str(run), [world], run / f"results-{split}.json", original)
        figures.setdefault(row, []).append(values(of_run))
        hashes.setdefault(row, []).append(config_hash(recipe))
        result = {**about, "config_hashes": hashes, "figures": figures, "environment": environment()}
        write_json(out / "ablation.json", result)
        text = tables(figures, tune.distillation_weight)
        write_atomically(out / "ablation.md", text)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    return result
