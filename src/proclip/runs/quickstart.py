"""``proclip quickstart``: the mini world, every method, one table, one page."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ..config import Recipe
from ..evaluate import open_model
from ..evaluate.benchmarks import tasks_folder
from ..files import make_folder, read_json, write_json
from ..mini.concepts import LANGUAGES
from ..models.devices import pick_device
from ..models.embedder import LazyEmbedder
from ..report import Compared, make_tables, print_tables
from ..results import ModelResults
from .embed import embed_recipes
from .evaluate import CACHE, add_figures_to_card, evaluate_model, values, write_gallery
from .mini import build
from .recipes import after_stage1, find_recipe, open_run
from .report import training_curves, write_report_of
from .train import train_recipe

CLIP = "clip"
METHODS = {
    "llm2clip": "LLM2CLIP",
    "lit": "LiT",
    "stage1": "Stage 1 only",
    "stage1_contrastive": "Stage 1 + contrastive",
    "proclip": "ProCLIP",
    "proclip_multilingual": "ProCLIP multilingual",
}
"""Recipe to the name in tables."""
SHORT_METHODS = ("llm2clip", "stage1", "proclip")
CREDITS = (
    "Pictures: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0; "
    "Twemoji, copyright Twitter, Inc and other contributors, CC BY 4.0."
)
SHOWN = (CLIP, "llm2clip", "proclip", "proclip_multilingual")
"""Those in the gallery."""
QUERIES = {"retrieval_long": 2, "retrieval_short": 3, "multilingual/de": 1, "multilingual/ja": 1, "multilingual/ar": 1}
"""Text queries of the gallery, by task."""
TITLE = "ProCLIP on the mini world"
LEFT_OUT = ("retrieval_short_twemoji", "retrieval_long_twemoji")
"""Tasks that only ``proclip eval`` measures: the same question in the other style, 1,578 more texts for the LLM."""
FIGURES = {
    "zero_shot/openmoji": "zero_shot/openmoji/mean_per_class",
    "zero_shot/twemoji": "zero_shot/twemoji/mean_per_class",
    **{key: key for name in ("short", "long") for key in (f"retrieval_{name}/i2t_r@1", f"retrieval_{name}/t2i_r@1")},
    **{f"multilingual/{language}/t2i_r@1": f"multilingual/{language}/t2i_r@1" for language in LANGUAGES},
    "multilingual/mean": "multilingual/mean/t2i_r@1",
    "pairs/mean": "pairs/mean",
    "hard_negatives/mean": "hard_negatives/mean",
    "linear_probe/openmoji": "linear_probe/openmoji/acc1",
    "cka": "cka",
}
"""Figures of ``results.json``, and what they are called in a result file."""
SHORT_TASKS = ("zero_shot/openmoji", "zero_shot/twemoji", "retrieval_short", "multilingual/de", "pairs")


class Steps:
    """Times the steps. A step that finds its work done takes no time; what is kept is how long it took to do.

    Args:
        folder: of the quickstart; ``seconds.json`` is kept there: ``done`` and, of steps that were interrupted,
            ``begun``.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "seconds.json"
        kept = read_json(self.path) if self.path.is_file() else {}
        self.seconds: dict[str, float] = kept.get("done", {})
        self.begun: dict[str, float] = kept.get("begun", {})
        self.console = Console(stderr=True)

    @contextmanager
    def step(self, name: str, reused: bool = False) -> Iterator[None]:
        """Print, time and record a step: with the time of earlier tries that did not get to its end."""
        start, book = time.perf_counter(), self.begun
        try:
            yield
            book = self.seconds
        finally:
            seconds = time.perf_counter() - start
            if not (reused and name in self.seconds):
                book[name] = round(seconds + self.begun.pop(name, 0.0), 1)
                write_json(self.path, {"done": self.seconds, "begun": self.begun})
        found = f" (found; {self.seconds[name]:.0f} s when it was made)" if reused else ""
        self.console.print(f"[bold]{name}[/bold]: {seconds:.1f} s{found}", highlight=False)


def mini_recipe(method: str, seed: int, short: bool = False) -> Recipe:
    """A method's recipe for the mini world; the short form trains one pass."""
    recipe = dataclasses.replace(find_recipe(f"mini/{method}", [f"seed={seed}"]), evaluate=None)
    if not short:
        return recipe
    stages = {s: dataclasses.replace(getattr(recipe, s), epochs=1) for s in ("distill", "tune") if getattr(recipe, s)}
    return dataclasses.replace(recipe, **stages)


def summary(results: Mapping[str, ModelResults], seed: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """What ``results.json`` says: of each method its main figures, 0 to 1, as far as they were measured."""
    world = next(iter(results[CLIP].benchmarks.values()))
    methods = {}
    for method, result in results.items():
        found = values(result)
        methods[method] = {key: found[figure] for key, figure in FIGURES.items() if figure in found}
    benchmark = {key: world.notes[key] for key in ("name", "version", "checksum")}
    return {"benchmark": benchmark, "seed": seed, "seconds": dict(seconds), "methods": methods}


def quickstart(out: Path, seed: int = 0, short: bool = False) -> list[ModelResults]:
    """Everything from emoji to the table. What exists already is reused.

    Args:
        out: folder, of one seed and form; gets a run folder a method, ``results/METHOD.json``, ``results.json`` with
            the main figures of all, and ``report.html``.
        seed: of every run.
        short: three methods, one pass, a few tasks: shows that it runs; its figures mean nothing.

    Returns:
        what is in the result files, the original CLIP first.
    """
    make_folder(out)
    steps = Steps(out)
    recipes = {method: mini_recipe(method, seed, short) for method in (SHORT_METHODS if short else METHODS)}
    first, stage1 = next(iter(recipes.values())), recipes["stage1"]
    recipes = {m: after_stage1(recipe, stage1, out / "stage1" / "model") for m, recipe in recipes.items()}
    for method, recipe in recipes.items():
        open_run(recipe, out / method)  # what another seed or form left there is told before the work
    folder = Path(first.data.sources[0].path)
    with steps.step("mini world", (folder / "manifest.json").is_file()):
        build(folder)
    world = tasks_folder(folder)
    world = world.only(SHORT_TASKS if short else [prefix for prefix in world.tasks if prefix not in LEFT_OUT])
    done = "embed" in steps.seconds and (Path(first.data.store) / "llm").is_dir()
    with steps.step("embed", done), closing(LazyEmbedder(first.embedder, pick_device())) as embedder:
        embed_recipes([*recipes.values()], embedder)
    for method, recipe in recipes.items():
        with steps.step(f"train {method}", (out / method / "model" / "config.json").is_file()):
            train_recipe(recipe, out / method)
    original = dataclasses.replace(open_model(first.clip, pick_device()), name="CLIP")
    results: dict[str, ModelResults] = {}
    for method in (CLIP, *recipes):
        path = out / "results" / f"{method}.json"
        with steps.step(f"evaluate {method}", path.is_file()):
            model = original
            if method != CLIP:
                model = dataclasses.replace(open_model(str(out / method), pick_device()), name=METHODS[method])
            results[method] = evaluate_model(model, [world], path, CACHE, original)
            if method in SHOWN:
                write_gallery(model, [world], path, CACHE, QUERIES)
            model.close()
        if method != CLIP:
            add_figures_to_card(out / method / "model", results[method])
    with steps.step("report"):
        paths = [out / "results" / f"{method}.json" for method in (CLIP, *recipes)]
        curves = {METHODS[method]: training_curves(out / method) for method in recipes}
        write_report_of(paths, out / "report.html", TITLE, curves, CREDITS)
    write_json(out / "results.json", summary(results, seed, steps.seconds))  # last: with the time of every step
    print_tables(make_tables(Compared([*results.values()]))[:1])
    steps.console.print(f"{out / 'results.json'}\n{out / 'report.html'}", highlight=False)
    return [*results.values()]
