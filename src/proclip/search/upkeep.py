"""Keeping an index's graph as its pictures are, and its folder free of files that nothing names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import ProclipError
from .catalogue import Catalogue
from .graph import EXTRA, Graph, GraphFacts, Kind, brought_up, installed
from .nearest import Nearest
from .vectors import mapped


def update_graph(
    index: Path, catalogue: Catalogue, kind: Kind | None, exact_numbers: int, progress: Callable[[int, int], None]
) -> str:
    """Make the graph of an index, bring it up to date, or drop it, and measure its recall.

    Args:
        index: its folder.
        catalogue: open for writing.
        kind: numbers that it is made of; as before if None, at first int8.
        exact_numbers: numbers (pictures times width) up to which there is none.
        progress: told how many pictures are in it, and how many will be.

    Returns:
        what the user should know, '' for nothing.
    """
    dim, wanted = int(catalogue.fact("dim") or 0), kind or catalogue.fact("graph_kind") or "int8"
    ids, rows = catalogue.vectors()
    small = len(ids) * dim <= exact_numbers
    with catalogue.changing():
        catalogue.set_fact("graph_kind", wanted)
        if small:
            catalogue.set_fact("graph", None)
    if small:
        return ""
    if not installed():
        return (
            f"{len(ids):,} pictures are many to compare with each query: {EXTRA}, then run proclip index again, which "
            "makes a graph for it"
        )
    vectors = mapped(index / str(catalogue.fact("vectors")), int(catalogue.fact("rows")), dim)
    brought_up(
        _present(index, catalogue, dim), wanted, ids, lambda places: np.array(vectors[rows[places]]), dim,
        lambda graph: _keep(index, catalogue, graph), progress,
    )  # fmt: skip
    kept = GraphFacts(**catalogue.fact("graph"))
    if not kept.recall:
        recall = Nearest.open(index, catalogue).recall()
        with catalogue.changing():
            catalogue.set_fact("graph", replace(kept, recall=recall).to_json())
    return ""


def remove_strays(index: Path, catalogue: Catalogue) -> None:
    """Delete graphs and vectors that the catalogue does not name: replaced, or left by a run that was killed."""
    graph = catalogue.fact("graph")
    named = {catalogue.fact("vectors"), graph["file"] if graph else None}
    for pattern in ("graph-*", ".graph-*", "vectors-*"):
        for path in index.glob(pattern):
            if path.name not in named:
                with contextlib.suppress(OSError):  # where a mapped file cannot go, the next run tries again
                    path.unlink()


def _present(index: Path, catalogue: Catalogue, dim: int) -> Graph | None:
    facts = catalogue.fact("graph")
    try:
        return Graph.open(index, GraphFacts(**facts), dim, view=False) if facts else None
    except ProclipError:  # it is only made anew
        return None


def _keep(index: Path, catalogue: Catalogue, graph: Graph) -> None:
    """Save a graph beside the one there is, which readers may have mapped, and then name it."""
    serial = int(catalogue.fact("graph_serial") or 0) + 1
    saved = graph.save(index, f"graph-{serial}.usearch")
    with catalogue.changing():
        catalogue.set_fact("graph", saved.to_json())
        catalogue.set_fact("graph_serial", serial)
    remove_strays(index, catalogue)
