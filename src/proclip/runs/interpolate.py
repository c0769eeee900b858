"""``proclip interpolate``: a model between the original and the tuned image encoder, or the curve of all of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..config import load_recipe
from ..errors import ProclipError
from ..evaluate import open_model
from ..evaluate.benchmarks import tasks_folder
from ..files import make_folder, read_json, write_atomically, write_json
from ..models.clip import load_clip
from ..models.devices import pick_device
from ..models.embedder import identity_difference
from ..models.interpolate import interpolated_weights
from ..models.loading import model_folder
from ..models.proclip import ProCLIP
from ..models.tower_identity import weights_digest
from ..report.curves import trade_off
from ..report.drawing import save_drawing
from .columns import COLUMNS, TASKS, cell
from .evaluate import evaluate_path, values
from .provenance import provenance
from .recipes import environment

GAIN, KEPT = "T2I R@1", "zero-shot"
"""Axes of the curve's figure, columns of `columns.COLUMNS`: what tuning gains, and what it may forget."""


def interpolate_command(arguments: Namespace) -> None:
    """``proclip interpolate``, as the command line gives it: one model for ``--alpha``, all of them for ``--curve``.

    Raises:
        ProclipError: ``--curve`` is not numbers, ``--out`` is a file, or what `interpolate` and `curve` raise.
    """
    given = arguments
    if given.out.is_file():
        raise ProclipError(f"--out {given.out} is a file: give a folder, which is made if it is not there")
    if given.curve is None:
        out = interpolate(given.model, given.clip, given.alpha, given.out)
        Console(stderr=True).print(f"model: {out}", highlight=False, soft_wrap=True)
        return
    try:
        alphas = [float(number) for number in given.curve.split(",")]
    except ValueError:
        raise ProclipError(f"--curve takes numbers with commas between, as in 0,0.5,1, not {given.curve!r}") from None
    curve(given.model, given.clip, alphas, given.out, given.data, given.split)


def interpolate(model: str, clip: str | None, alpha: float, out: Path) -> Path:
    """Write the model whose image tower is ``(1 - alpha) original + alpha tuned``; its adapter is the tuned model's.

    Args:
        model: folder or hub id of a proclip model, or a run folder.
        clip: the CLIP that its tuning began with; the one that the model names if None.
        alpha: in [0, 1].
        out: folder to write; it must not hold anything.

    Returns:
        `out`.

    Raises:
        ProclipError: the towers do not fit, they read pictures differently, or `out` is not empty.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ProclipError(f"{out} is not empty: delete it or give another --out")
    tuned = ProCLIP.from_pretrained(model_folder(model))
    name = clip or tuned.clip_name
    if name is None:
        raise ProclipError(f"{model} does not say which CLIP it comes from: give it with --clip")
    original = load_clip(name, tuned.clip_revision if name == tuned.clip_name else None)
    # Where a crop's odd pixel falls the code says that brought the weights: one CLIP comes by more than one.
    if replace(original.preprocess, crop_offset=tuned.preprocess.crop_offset) != tuned.preprocess:
        raise ProclipError(f"{name} and {model} read pictures differently: {original.preprocess}, {tuned.preprocess}")
    weights = interpolated_weights(original.image_tower, tuned.image_tower, alpha)
    tuned.image_tower.load_state_dict(weights)
    source = tuned.loaded_from or model
    made = tuned.provenance or {}
    recipe = Path(model) / "recipe.toml"
    if not made and recipe.is_file():  # a run from before models said so themselves
        made = provenance(load_recipe(recipe), Path(model))
    tuned.provenance = {
        **made,
        "alpha": alpha,
        "parents": [f"original image tower: `{name}` (sha256 {original.identity['sha256']})", f"tuned: `{source}`"],
        "commands": [
            *made.get("commands", []),
            f"proclip interpolate {model} --clip {name} --alpha {alpha:g} --out {out}",
        ],
    }
    tuned.save_pretrained(out)
    return out


def curve(model: str, clip: str | None, alphas: Sequence[float], out: Path, data: Path, split: str) -> Any:
    """Evaluate the mini world along alpha; what was measured is not measured again.

    Args:
        model: folder or hub id of a proclip model, or a run folder.
        clip: the CLIP that its tuning began with; the one that the model names if None.
        alphas: in [0, 1], at least two.
        out: folder; gets a model and its figures an alpha, ``curve.json``, ``curve.md``, ``curve.svg`` and
            ``curve.png``.
        data: the mini world.
        split: ``test`` or ``dev`` concepts.

    Returns:
        what is in ``curve.json``.

    Raises:
        ProclipError: what `interpolate` raises, fewer than two alphas, or a folder made from other models.
    """
    steps = sorted(set(alphas))
    if len(steps) < 2 or not all(0 <= step <= 1 for step in steps):  # nor is NaN in that range
        raise ProclipError(f"--curve takes two or more numbers in [0, 1], not {', '.join(f'{a:g}' for a in alphas)}")
    tuned = ProCLIP.from_pretrained(model_folder(model))
    name = clip or tuned.clip_name or "mini-clip"
    original = open_model(name, pick_device())
    inputs = {
        "clip": original.texts.identity["sha256"],
        "model": weights_digest(tuned),
        "embedder": tuned.embedder_identity,
    }
    del tuned
    make_folder(out)
    path = out / "inputs.json"
    if path.is_file() and (differ := identity_difference(inputs, read_json(path))):
        raise ProclipError(f"{out} was made from other inputs ({differ}); delete it or give another --out")
    write_json(path, inputs)
    world = tasks_folder(data, split)
    world = world.only([task for task in TASKS if task in world.tasks])
    figures: dict[str, dict[str, float]] = {}
    for alpha in steps:
        folder = out / f"alpha-{alpha:g}"
        if not (folder / "config.json").is_file():
            interpolate(model, name, alpha, folder)
        path = out / f"alpha-{alpha:g}-{split}.json"
        figures[f"{alpha:g}"] = values(evaluate_path(str(folder), [world], path, original))
        Console(stderr=True).print(f"alpha {alpha:g}: evaluated", highlight=False)
    result = {
        "benchmark": dict(world.notes), "protocol": world.protocol, "model": model, "clip": name,
        "inputs": inputs, "figures": figures, "environment": environment(),
    }  # fmt: skip
    write_json(out / "curve.json", result)
    columns = {c: keys for c, keys in COLUMNS.items() if all(k in f for k in keys for f in figures.values())}
    text = curve_table(figures, columns)
    write_atomically(out / "curve.md", text)
    if GAIN in columns and KEPT in columns:
        points = {a: (cell([f], columns[KEPT])[0], cell([f], columns[GAIN])[0]) for a, f in figures.items()}
        save_drawing(
            trade_off("curve", "Kept and gained along alpha", points, f"{KEPT}, per cent", f"{GAIN}, per cent"), out
        )
    Console().print(text, highlight=False, markup=False)
    return result


def curve_table(figures: Mapping[str, Mapping[str, float]], columns: Mapping[str, Sequence[str]]) -> str:
    """Markdown, in per cent: a row an alpha, the mean of a column's figures a cell."""
    lines = ["| alpha | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for alpha, of_alpha in figures.items():
        cells = (f"{cell([of_alpha], keys)[0]:.1f}" for keys in columns.values())
        lines.append(f"| {alpha} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
