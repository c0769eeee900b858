"""An index of made-up vectors: no pictures, no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from proclip.search.catalogue import Catalogue, NewPicture
from proclip.search.graph import Kind
from proclip.search.pictures import PictureFile
from proclip.search.upkeep import update_graph
from proclip.search.vectors import Floats, append


def clustered(count: int, dim: int, seed: int = 0, latent: int = 12) -> Floats:
    """Unit vectors in clusters, off the origin, as a CLIP's are."""
    rng, space = np.random.default_rng(seed), np.random.default_rng(99)
    basis, mean = space.standard_normal((latent, dim)), space.standard_normal(dim)
    centres = space.standard_normal((50, latent))
    found = (centres[rng.integers(0, 50, count)] + 0.5 * rng.standard_normal((count, latent))) @ basis
    found += mean + 0.2 * rng.standard_normal((count, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def add_vectors(folder: Path, vectors: Floats) -> None:
    """Add pictures with these vectors; the n-th of all is of the file ``/made up/n.jpg``."""
    folder.mkdir(parents=True, exist_ok=True)
    with Catalogue(folder, write=True) as catalogue:
        start = int(catalogue.fact("rows") or 0)
        append(folder / "vectors-0.f32", vectors, start)
        numbers = range(start, start + len(vectors))
        with catalogue.changing():
            catalogue.add_pictures(NewPicture(f"{n:064x}", n, 4, 3, None) for n in numbers)
            catalogue.add_files((PictureFile(path_of(n), 1, 1), f"{n:064x}") for n in numbers)
            facts = {"identity": {}, "dim": vectors.shape[1], "vectors": "vectors-0.f32", "rows": start + len(vectors)}
            for name, value in facts.items():
                catalogue.set_fact(name, value)


def make_graph(folder: Path, kind: Kind) -> str:
    """Make or update the graph, however few the vectors are."""
    with Catalogue(folder, write=True) as catalogue:
        return update_graph(folder, catalogue, kind, 0, lambda done, total: None)


def path_of(number: int) -> str:
    """File of a picture."""
    return f"/made up/{number:07d}.jpg"
