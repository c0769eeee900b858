"""The nearest pictures to a vector: exact where that is quick, through the graph where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from .catalogue import Catalogue
from .graph import Graph, GraphFacts, installed
from .vectors import Floats, Numbers, best, mapped, scores_of

EXACT_NUMBERS = 1 << 27
"""Numbers (pictures times width) up to which every vector is compared: 175,000 pictures of width 768."""
RECALL_AT, RECALL_QUERIES = 10, 200


@dataclass(frozen=True)
class Nearest:
    """The vectors of an index as they were at one moment."""

    ids: Numbers
    """Pictures, ascending, n of them."""
    rows: Numbers
    """Of each, its row among the vectors."""
    vectors: Floats
    """[at least n, d], memory-mapped; L2-normalised."""
    graph: Graph | None
    """None where every vector is compared."""
    later: Numbers
    """Positions in `ids` of the pictures that the graph does not have."""

    @classmethod
    def open(cls, folder: Path, catalogue: Catalogue) -> Self:
        """What the catalogue says is there; a graph that cannot be used is left out.

        Raises:
            ProclipError: the vectors are damaged.
        """
        ids, rows = catalogue.vectors()
        dim = int(catalogue.fact("dim") or 0)
        vectors = mapped(folder / str(catalogue.fact("vectors")), int(catalogue.fact("rows") or 0), dim)
        kept = catalogue.fact("graph")
        graph = Graph.open(folder, GraphFacts(**kept), dim, view=True) if kept and installed() else None
        there = graph.ids if graph is not None else ids
        return cls(ids, rows, vectors, graph, np.flatnonzero(~np.isin(ids, there, assume_unique=True)))

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, query: Floats, k: int, among: Numbers | None = None) -> tuple[Numbers, Floats]:
        """The `k` nearest pictures, and all as near as the last of them.

        Args:
            query: [d], L2-normalised.
            k: at least 1.
            among: pictures that may be found, ascending; then, and where there is no graph, the answer is exact.

        Returns:
            their ids and cosines, in any order.
        """
        if among is not None:
            places = self.places(among)
        elif self.graph is not None:
            near = self.places(np.sort(self.graph.candidates(query[None], k)[0]))
            places = np.union1d(near, self.later)
        else:
            scores = self._all_scores(query)
            chosen = best(scores, k)
            return self.ids[chosen], scores.numpy()[chosen]
        scores = scores_of(self.vectors, query, self.rows[places])
        chosen = best(scores, k)
        return self.ids[places[chosen]], scores.numpy()[chosen]

    def vector_of(self, picture: int) -> Floats | None:
        """Of a picture, [d]; None where it is not here."""
        places = self.places(np.array([picture], dtype=np.int64))
        return np.array(self.vectors[self.rows[places[0]]]) if len(places) else None

    def places(self, ids: Numbers) -> Numbers:
        """Positions of those of the pictures that are here."""
        where = np.searchsorted(self.ids, ids)
        where[where == len(self.ids)] = 0
        found: Numbers = where[self.ids[where] == ids] if len(self.ids) else np.empty(0, dtype=np.int64)
        return found

    def _all_scores(self, query: Floats) -> torch.Tensor:
        """Of every picture; rows of pictures that are gone are computed and left out, which is quicker than a copy."""
        scores = scores_of(self.vectors, query)
        dense = len(self.rows) == len(scores) and bool((self.rows == np.arange(len(scores))).all())
        return scores if dense else scores[torch.from_numpy(self.rows)]

    def recall(self, queries: Floats | None = None) -> dict[str, Any]:
        """Share of the exact ten nearest that the graph finds.

        Args:
            queries: [m, d]; without them, pictures of the index, of which each is left out of its own answer.
        """
        own = queries is None
        if own:
            sample = np.unique(np.linspace(0, len(self) - 1, min(len(self), RECALL_QUERIES)).astype(np.int64))
            queries = np.array(self.vectors[self.rows[sample]])
        assert queries is not None and self.graph is not None
        k = RECALL_AT + own
        exact = self._exact_top(queries, k)
        shares = []
        for number, truth in enumerate(exact):
            found, scores = self.find(queries[number], k)
            order = np.lexsort((found, -scores))[:k]
            itself = {int(self.ids[sample[number]])} if own else set()
            wanted = [i for i in truth if i not in itself][:RECALL_AT]
            shares.append(len(set(wanted) & (set(found[order].tolist()) - itself)) / len(wanted) if wanted else 1.0)
        of = "pictures of the index" if own else "texts"
        return {f"at_{RECALL_AT}": round(float(np.mean(shares)), 4), "queries": len(shares), "of": of}

    def _exact_top(self, queries: Floats, k: int) -> list[list[int]]:
        """Ids of the exact `k` nearest of each query; one pass over the vectors."""
        asked = torch.from_numpy(queries)
        scores, ids = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
        for part in np.array_split(np.arange(len(self)), max(1, len(self) // 16384)):
            block = asked @ torch.from_numpy(self.vectors[self.rows[part]]).T
            scores = torch.cat([scores, block.round(decimals=6)], dim=1)
            ids = torch.cat([ids, torch.from_numpy(self.ids[part]).expand(len(queries), -1)], dim=1)
            scores, chosen = scores.topk(min(k, scores.shape[1]), dim=1)
            ids = ids.gather(1, chosen)
        found: list[list[int]] = ids.tolist()
        return found
