"""The approximate nearest: usearch's graph over shorter vectors, whose candidates are scored again, exactly.

The graph is a hint and no more. What is found through it is checked against the catalogue and scored with the vectors
themselves, so a graph that is missing, behind or has pictures too many costs time or recall, never a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self, final

import numpy as np
import numpy.typing as npt
import torch

from ..errors import ProclipError
from ..files import replacing
from .vectors import Floats, Numbers

Kind = Literal["float16", "int8", "binary"]
KINDS: tuple[Kind, ...] = ("float16", "int8", "binary")
EXTRA = "pip install 'proclip-align[search]'"
CANDIDATES: dict[Kind, int] = {"float16": 128, "int8": 128, "binary": 512}
"""How many the graph gives at least, to be scored exactly: benchmarks/search.py shows what fewer lose."""
CHUNK = 100_000
"""Vectors that are added before the graph is saved: what an interrupted run goes on from."""
STALE = 0.25
"""Share of pictures gone at which the graph is made anew: their places stay in it."""
CENTRE_ROWS = 20_000
_USEARCH = {"float16": ("f16", "ip"), "int8": ("i8", "ip"), "binary": ("b1", "hamming")}


@dataclass(frozen=True)
class GraphFacts:
    """What the catalogue says of a graph."""

    file: str
    """In the index's folder."""
    kind: Kind
    """What a number of a vector became in it."""
    count: int
    """Pictures in it, those that are gone included."""
    bytes: int
    """Of the file."""
    centre: list[float] = field(default_factory=list)
    """Mean of the vectors [d], of a binary one: a bit says on which side of it a number lies."""
    recall: dict[str, Any] = field(default_factory=dict)
    """``at_10``, and how it was measured."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def installed() -> bool:
    """Whether the extra is there."""
    return find_spec("usearch") is not None


@final
class Graph:
    """A graph in memory or memory-mapped.

    Args:
        kind: what becomes of a number of a vector.
        dim: d.
        centre: of a binary one [d].
    """

    def __init__(self, kind: Kind, dim: int, centre: Floats | None = None) -> None:
        from usearch.index import Index

        dtype, metric = _USEARCH[kind]
        self.kind, self.dim, self.centre = kind, dim, centre
        self._index: Any = Index(ndim=dim, metric=metric, dtype=dtype)

    @classmethod
    def open(cls, folder: Path, facts: GraphFacts, dim: int, view: bool) -> Self:
        """A graph from its file, memory-mapped (`view`) or read whole to be changed.

        Raises:
            ProclipError: the file is not as long as it was written: a mapped one would be read beyond its end.
        """
        path = folder / facts.file
        if not path.is_file() or path.stat().st_size != facts.bytes:
            raise ProclipError(f"{path} is damaged: delete it, and proclip index makes it again")
        graph = cls(facts.kind, dim, np.array(facts.centre, dtype=np.float32) if facts.centre else None)
        (graph._index.view if view else graph._index.load)(str(path))
        return graph

    @property
    def ids(self) -> Numbers:
        """Pictures in it, ascending."""
        return np.sort(np.asarray(self._index.keys, dtype=np.int64))

    def add(self, ids: Numbers, vectors: Floats) -> None:
        """Add pictures: n ids, vectors [n, d], L2-normalised."""
        self._index.add(ids.astype(np.uint64), self._coded(vectors, self.centre), threads=torch.get_num_threads())

    def remove(self, ids: Numbers) -> None:
        """Take pictures away."""
        self._index.remove(ids.astype(np.uint64))

    def candidates(self, queries: Floats, k: int) -> list[Numbers]:
        """For each of the queries [m, d] the ids of at least `k` pictures near to it, as far as there are so many."""
        count = min(max(4 * k, CANDIDATES[self.kind]), len(self._index))
        if not count:
            return [np.empty(0, dtype=np.int64) for _ in queries]
        self._index.expansion_search = count
        # a picture's bits are by the side of the centre; a query's by its own signs, as its product with them counts
        threads = min(len(queries), torch.get_num_threads())
        found = self._index.search(self._coded(queries, None), count, threads=threads)
        keys = np.asarray(found.keys, dtype=np.int64).reshape(len(queries), -1)
        counts = found.counts if len(queries) > 1 else [keys.shape[1]]  # of one query it gives another type
        return [row[:number] for row, number in zip(keys, counts, strict=True)]

    def save(self, folder: Path, name: str) -> GraphFacts:
        """Write it to a new file.

        Returns:
            what the catalogue is to say of it.
        """
        with replacing(folder / name) as draft:
            self._index.save(str(draft))
        size = (folder / name).stat().st_size
        centre = self.centre.tolist() if self.centre is not None else []
        return GraphFacts(file=name, kind=self.kind, count=len(self._index), bytes=size, centre=centre)

    def _coded(self, vectors: Floats, centre: Floats | None) -> npt.NDArray[Any]:
        if self.kind != "binary":
            return vectors
        bits: npt.NDArray[np.uint8] = np.packbits(vectors > (centre if centre is not None else 0), axis=1)
        return bits


def brought_up(
    graph: Graph | None,
    kind: Kind,
    ids: Numbers,
    read: Callable[[Numbers], Floats],
    dim: int,
    keep: Callable[[Graph], None],
    progress: Callable[[int, int], None],
) -> Graph:
    """A graph of exactly these pictures.

    Args:
        graph: the one there is: it is changed, or given up where it is of another kind or too many of its pictures
            left.
        kind: that is wanted.
        ids: pictures, ascending.
        read: positions in `ids` to their vectors.
        dim: d.
        keep: saves the graph; called after each chunk of pictures.
        progress: told how many pictures are in it, and how many will be.
    """
    present = graph.ids if graph is not None else np.empty(0, dtype=np.int64)
    left = np.setdiff1d(present, ids, assume_unique=True)
    if graph is None or graph.kind != kind or len(left) > STALE * len(present):
        centre = _centre(len(ids), read) if kind == "binary" else None
        graph, present, left = Graph(kind, dim, centre), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if len(left):
        graph.remove(left)
    new = np.flatnonzero(~np.isin(ids, present, assume_unique=True))
    for start in range(0, len(new), CHUNK):
        part = new[start : start + CHUNK]
        for small in np.array_split(part, -(-len(part) // 4096)):
            graph.add(ids[small], read(small))
            progress(len(ids) - len(new) + start + int(np.searchsorted(part, small[-1])) + 1, len(ids))
        keep(graph)
    if len(left) and not len(new):
        keep(graph)
    return graph


def _centre(count: int, read: Callable[[Numbers], Floats]) -> Floats:
    sample = np.unique(np.linspace(0, count - 1, min(count, CENTRE_ROWS)).astype(np.int64))
    centre: Floats = read(sample).mean(axis=0, dtype=np.float64).astype(np.float32)
    return centre
