"""What a report shows beside figures: training curves, and pictures that a query found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..evaluate.tasks import RetrievalTask, load_tasks
from ..report import GalleryItem
from ..seeding import generator
from .evaluate import World

QUERIES = {
    "retrieval_long": ("long caption", 2),
    "retrieval_short": ("short caption", 3),
    "multilingual_de": ("German", 1),
    "multilingual_ja": ("Japanese", 1),
    "multilingual_ar": ("Arabic", 1),
}
"""Tasks that give queries: what the page calls them, and how many."""
TOP = 5


def curves(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of a run's ``metrics.jsonl`` by stage."""
    stages: dict[str, list[dict[str, Any]]] = {}
    path = run / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        row = json.loads(line)
        stages.setdefault(row["stage"], []).append(row)
    return stages


def gallery(world: World, models: Mapping[str, str | Path]) -> list[GalleryItem]:
    """The top five pictures of every model for queries drawn by a fixed seed, not chosen by hand.

    Args:
        world: pictures and tasks.
        models: method -> model.
    """
    encoders = {method: world.encoders(model) for method, model in models.items()}
    items = []
    available = load_tasks(world.tasks)
    for name, (kind, count) in QUERIES.items():
        task = available.get(name)
        if not isinstance(task, RetrievalTask):
            continue
        keys = [key for key, _ in task.items]
        drawn = torch.randperm(len(keys), generator=generator("gallery", name))[:count].tolist()
        for index in drawn:
            key, captions = task.items[index]
            found = {}
            for method, model in encoders.items():
                scores = model.encode_image(keys) @ model.encode_text([captions[0]])[0]
                top = scores.topk(min(TOP, len(keys))).indices.tolist()
                found[method] = [(world.data[keys[i]].path, keys[i] == key) for i in top]
            items.append(GalleryItem(query=captions[0], kind=kind, answer=world.data[key].path, results=found))
    return items
