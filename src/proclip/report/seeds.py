"""Results of one setting under several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..results import ModelResults


def seed_name(name: str, seed: object) -> str:
    """What the results of one of several seeds are called."""
    return f"{name}, seed {seed}"


def by_setting(results: Sequence[ModelResults]) -> dict[str, list[ModelResults]]:
    """The results of each seed by the name that they share, for `ablation_table`; empty if no name has several."""
    settings: dict[str, list[ModelResults]] = {}
    for model in results:
        settings.setdefault(model.name, []).append(model)
    return settings if any(_are_seeds(seeds) for seeds in settings.values()) else {}


def told_apart(results: Sequence[ModelResults]) -> list[ModelResults]:
    """The same results, of which seeds of one name are called as `seed_name` says; other names stay."""
    settings = by_setting(results)
    return [
        replace(model, name=seed_name(model.name, model.model["seed"]))
        if settings and _are_seeds(settings[model.name])
        else model
        for model in results
    ]


def first_seed(results: Sequence[ModelResults], name: str | None) -> str | None:
    """What `told_apart` calls the first of the results of a name; the name as it is where it has not several seeds."""
    pairs = zip(results, told_apart(results), strict=True)
    return next((apart.name for model, apart in pairs if model.name == name), name)


def _are_seeds(models: Sequence[ModelResults]) -> bool:
    """Whether results of one name are of several seeds, each known and none there twice."""
    seeds = [model.model.get("seed") for model in models]
    return len(models) > 1 and None not in seeds and len({str(seed) for seed in seeds}) == len(seeds)
