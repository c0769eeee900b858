"""``proclip quickstart``: the mini world, every method, one table, one page."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ..config import Recipe, config_hash
from ..errors import ProclipError
from ..evaluate.tasks import load_tasks
from ..files import read_json, write_json
from ..models.embedder import LazyEmbedder
from ..report import print_table, write_report
from .embed import embed_recipes, progress
from .evaluate import World, add_figures_to_card, evaluated
from .gallery import curves, gallery
from .mini import build
from .recipes import environment, find_recipe, pick_device
from .train import train_recipe

CLIP = "clip"
METHODS = ("llm2clip", "lit", "stage1", "stage1_contrastive", "proclip", "proclip_multilingual")
SHORT_METHODS = ("llm2clip", "stage1", "proclip")
CREDITS = (
    "Pictures: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0; "
    "Twemoji, copyright Twitter, Inc and other contributors, CC BY 4.0."
)
SHOWN = ("llm2clip", "proclip", "proclip_multilingual")
"""Beside the original CLIP in the gallery."""
LEFT_OUT = ("retrieval_short_twemoji", "retrieval_long_twemoji")
"""Tasks that only ``proclip eval`` measures: the same question in the other style, and 1,578 more texts for the LLM."""
SHORT_TASKS = ("zero_shot_openmoji", "zero_shot_twemoji", "retrieval_short", "multilingual_de", "pairs")


class Steps:
    """Times the steps. A step that finds its work done takes no time; what is kept is how long it took to do.

    Args:
        folder: of the quickstart; ``seconds.json`` is kept there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "seconds.json"
        self.seconds: dict[str, float] = read_json(self.path) if self.path.is_file() else {}
        self.console = Console(stderr=True)

    @contextmanager
    def step(self, name: str, reused: bool = False) -> Iterator[None]:
        """Print, time and record a step; one that finds its work done keeps the time of when it was."""
        start = time.perf_counter()
        yield
        seconds, before = round(time.perf_counter() - start, 1), self.seconds.get(name, 0.0)
        if not reused:
            self.seconds[name] = seconds
            write_json(self.path, self.seconds)
        found = f" (found; {before:.0f} s when it was made)" if reused else ""
        self.console.print(f"[bold]{name}[/bold]: {seconds:.1f} s{found}", highlight=False)


def mini_recipe(method: str, seed: int, short: bool = False) -> Recipe:
    """A method's recipe for the mini world; the short form trains one pass."""
    recipe = find_recipe(f"mini/{method}", [f"seed={seed}"])
    if not short:
        return recipe
    stages = {s: dataclasses.replace(getattr(recipe, s), epochs=1) for s in ("distill", "tune") if getattr(recipe, s)}
    return dataclasses.replace(recipe, **stages)


def share_stage1(recipes: Mapping[str, Recipe], out: Path) -> dict[str, Recipe]:
    """The same recipes, those with the stage 1 of ``stage1`` starting from its model instead of training it again."""
    shared = {}
    for method, recipe in recipes.items():
        if method != "stage1" and recipe.tune and recipe.distill == recipes["stage1"].distill:
            recipe = dataclasses.replace(recipe, distill=None, init=str(out / "stage1" / "model"))
        shared[method] = recipe
    return shared


def quickstart(out: Path, seed: int = 0, short: bool = False) -> dict[str, Any]:
    """Everything from emoji to the table. What exists already is reused.

    Args:
        out: folder; gets ``results.json``, ``report.html`` and a run folder a method.
        seed: of every run.
        short: two methods, one pass, a few tasks: shows that it runs; its figures mean nothing.

    Returns:
        what is in ``results.json``.
    """
    out.mkdir(parents=True, exist_ok=True)
    steps = Steps(out)
    recipes = {method: mini_recipe(method, seed, short) for method in (SHORT_METHODS if short else METHODS)}
    first = next(iter(recipes.values()))
    folder, store = Path(first.data.dataset), Path(first.data.store)
    with steps.step("mini world", (folder / "manifest.json").is_file()):
        benchmark = build(folder)["benchmark"]
    world = World(folder, store, "test", first.clip)
    tasks = SHORT_TASKS if short else [name for name in load_tasks(world.tasks) if name not in LEFT_OUT]
    done = "embed" in steps.seconds and (store / "texts").is_dir()
    with steps.step("embed", done), closing(LazyEmbedder(first.embedder, pick_device())) as embedder:
        embed_recipes(list(recipes.values()), embedder)
        with progress("LLM") as report:
            world.embed_tasks(embedder, tasks, report)
    recipes = share_stage1(recipes, out)
    for method, recipe in recipes.items():
        with steps.step(f"train {method}", (out / method / "model" / "config.json").is_file()):
            train_recipe(recipe, out / method)
    methods: dict[str, dict[str, float]] = {}
    for method in (CLIP, *recipes):
        path = out / f"{method}.json"
        model = first.clip if method == CLIP else out / method
        with steps.step(f"evaluate {method}", path.is_file()):
            methods[method] = evaluated(world, model, path, recipes.get(method), tasks)
        if method != CLIP:
            add_figures_to_card(out / method / "model", methods[method], world)
    hashes = {method: config_hash(recipe) for method, recipe in recipes.items()}
    results = {
        "benchmark": benchmark,
        "protocol": "short form: no figures" if short else "mini world, test concepts",
        "seed": seed,
        "config_hash": hashes,
        "seconds": steps.seconds,
        "methods": methods,
        "chance": {key: level for key, level in world.chance().items() if key in methods[CLIP]},
        "measured_at": {name: read_json(out / f"{name}.json")["environment"]["commit"] for name in methods},
        "environment": environment(),
    }
    with steps.step("report"):
        write_page(out, results, world)
    write_json(out / "results.json", results)  # last, so that it has the time of every step
    print_table(results)
    steps.console.print(f"{out / 'results.json'}\n{out / 'report.html'}", highlight=False)
    return results


def write_page(out: Path, results: dict[str, Any], world: World) -> None:
    """Write ``report.html`` from the results, the runs' curves and a fresh retrieval gallery."""
    trained = [method for method in results["methods"] if method != CLIP]
    shown = {method: out / method for method in SHOWN if method in trained}
    write_report(
        results,
        curves={method: curves(out / method) for method in trained},
        gallery=gallery(world, {CLIP: world.clip_name, **shown}),
        out=out / "report.html",
        acknowledgement=CREDITS,
    )


def report_again(folder: Path) -> None:
    """``proclip report``: the page of a finished quickstart, from its files.

    Raises:
        ProclipError: there is no ``results.json``.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ProclipError(f"{path} is missing: proclip quickstart --out {folder} writes it")
    results = read_json(path)
    if absent := [key for key in ("benchmark", "seed", "methods", "chance") if key not in results]:
        raise ProclipError(f"{path} lacks {', '.join(absent)}: run  proclip quickstart --out {folder}  again")
    recipe = mini_recipe("proclip", results["seed"])
    world = World(Path(recipe.data.dataset), Path(recipe.data.store), "test", recipe.clip)
    write_page(folder, results, world)
    print_table(results)
