"""Compare settings of a recipe on the mini world's development concepts: how the shipped settings were chosen.

    python benchmarks/dev_sweep.py mini/proclip "" "tune.ema_decay=0.99" "tune.optim.lr=3e-3;tune.epochs=5" --seeds 2

Every argument after the recipe is one row: settings joined by ``;``, the empty string being the recipe as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from measure import command

from proclip.config import config_hash
from proclip.evaluate import open_model
from proclip.evaluate.benchmarks import tasks_folder
from proclip.runs.columns import COLUMNS, cell
from proclip.runs.embed import embed_recipes
from proclip.runs.evaluate import evaluate_path, values
from proclip.runs.recipes import environment, find_recipe
from proclip.runs.train import train_recipe

TASKS = ("zero_shot/openmoji", "zero_shot/twemoji", "retrieval_short", "retrieval_long", "multilingual/de",
         "multilingual/ja", "pairs", "hard_negatives")  # fmt: skip


def main() -> None:
    """Train and evaluate every row with every seed; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/sweep"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    table = []
    for row in arguments.rows:
        per_seed, start = [], time.perf_counter()
        for seed in range(arguments.seeds):
            recipe = find_recipe(arguments.recipe, [f"seed={seed}", *filter(None, row.split(";"))])
            recipe = dataclasses.replace(recipe, evaluate=None)
            embed_recipes([recipe])
            (source,) = recipe.data.sources
            world = tasks_folder(Path(source.path), "dev").only(TASKS)
            run = arguments.runs / config_hash(recipe)
            train_recipe(recipe, run)
            original = open_model(recipe.clip)
            per_seed.append(values(evaluate_path(str(run), [world], run / "results-dev.json", original)))
        seconds = (time.perf_counter() - start) / arguments.seeds
        cells = {name: cell(per_seed, keys) for name, keys in COLUMNS.items()}
        table.append({"settings": row, "seconds": round(seconds, 1), "cells": cells, "figures": per_seed})
        line = "  ".join(f"{name} {mean:.1f}±{spread:.1f}" for name, (mean, spread) in cells.items())
        print(f"{arguments.recipe} [{row}] {seconds:.0f} s: {line}", flush=True)
    if arguments.out:
        result = {
            "recipe": arguments.recipe,
            "seeds": arguments.seeds,
            "split": "dev",
            "rows": table,
            "environment": environment() | {"command": command()},
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
