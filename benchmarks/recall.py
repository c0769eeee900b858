"""Exact ranks of retrieval against what they could cost at least, and against the one-hot method.

    python benchmarks/recall.py            # COCO's size and others, 100,000 x 100,000 once; twenty minutes on two cores

The limit is the products of matrices in chunks with the ten best of each: not yet a figure, and no method that looks at
all scores can be below it. The one-hot method, of the common evaluators, takes part where its matrices fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measure import command_line, figure, in_turn, peak_memory, write
from torch import Tensor

from proclip.metrics import ranks_of_first_positive

CHUNK, KS = 1024, (1, 5, 10)
SIZES: dict[str, tuple[int, int, float | None]] = {
    "5,000 x 25,000, as COCO": (5000, 25_000, 1.0),
    "5,000 x 25,000, untrained model": (5000, 25_000, None),
    "20,000 x 20,000": (20_000, 20_000, 1.0),
    "2,048 x 100,000": (2048, 100_000, 1.0),
}
"""Queries, gallery items, and the noise on queries that else are their first positive; None: unrelated vectors."""
SMALL: dict[str, tuple[int, int, float | None]] = {"50 x 250": (50, 250, 1.0)}
ONE_HOT_BYTES = 2**30
"""Largest score and positive matrices that the one-hot method is given."""

Search = tuple[Tensor, Tensor, list[list[int]]]


def search(queries: int, gallery: int, noise: float | None, width: int) -> Search:
    """Unit vectors, and 1 to 9 positives a query."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(gallery, width, generator=generator)
    items /= items.norm(dim=1, keepdim=True)
    first = [(i * gallery // queries) for i in range(queries)]
    asked = items[first] * (0.0 if noise is None else 1.0)
    for part in torch.split(asked, 4096):
        part += (noise or 1.0) * 0.25 * torch.randn(part.shape, generator=generator)
    asked /= asked.norm(dim=1, keepdim=True)
    positives = [[(start + j) % gallery for j in range(1 + i % 9)] for i, start in enumerate(first)]
    return asked, items, positives


def ours(asked: Tensor, items: Tensor, positives: list[list[int]]) -> list[float]:
    ranks = ranks_of_first_positive(asked, items, positives)
    return [float((ranks <= k).double().mean()) for k in KS]


def bare(asked: Tensor, items: Tensor, positives: list[list[int]]) -> None:
    """The products in chunks and the ten best of each."""
    for part in torch.split(asked, CHUNK):
        (part @ items.T).topk(max(KS), dim=1)


def one_hot(asked: Tensor, items: Tensor, positives: list[list[int]]) -> list[float]:
    """All scores, a matrix of positives, one-hot tensors of the k best."""
    scores = asked @ items.T
    right = torch.zeros(scores.shape, dtype=torch.bool)
    for query, rows in enumerate(positives):
        right[query, rows] = True
    recalls = []
    for k in KS:
        hits = []
        for part, wanted in zip(torch.split(scores, 64), torch.split(right, 64), strict=True):
            best = F.one_hot(part.topk(k, dim=1).indices, items.shape[0])  # [64, k, gallery]
            hits.append((best * wanted[:, None]).sum(dim=(1, 2)) > 0)
        recalls.append(float(torch.cat(hits).double().mean()))
    return recalls


def compare(name: str, data: Search, repeats: int, noise: float | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every method in turn: figures and details."""
    ways: dict[str, Callable[[], object]] = {"ours": lambda: ours(*data), "bare": lambda: bare(*data)}
    if data[0].shape[0] * data[1].shape[0] * 5 <= ONE_HOT_BYTES and noise is not None:
        ways["one-hot"] = lambda: one_hot(*data)
    turns = in_turn(ways, repeats)
    figures = [figure(f"{name}: ours over products and the ten best", turns.ratio("ours", "bare"), "x")]
    details: dict[str, Any] = {"turns": turns.values()}
    if "one-hot" in ways:
        figures.append(figure(f"{name}: one-hot over ours", turns.ratio("one-hot", "ours"), "x"))
        details["recall"] = {"ours": ours(*data), "one-hot": one_hot(*data)}
    return figures, details


def large(count: int, width: int) -> Callable[[], object]:
    data = search(count, count, 1.0, width)
    return lambda: ours(*data)


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=2)
    sizes, width, most = (SMALL, 16, 500) if options.small else (SIZES, 768, 100_000)
    figures, details = [], {}
    for name, (queries, gallery, noise) in sizes.items():
        data = search(queries, gallery, noise, width)
        rows, details[name] = compare(name, data, options.repeats, noise)
        figures += rows
    once = peak_memory(large, most, width)
    size, embeds = f"{most:,} x {most:,}", 2 * most * width * 4 / 2**20
    figures.append(figure(f"{size}: seconds", once["seconds"], "s"))
    figures.append(figure(f"{size}: memory beside the {embeds:,.0f} MiB of embeddings", once["added"], "MiB"))
    write(options, __doc__, figures, {"width": width, "sizes": details, "large": once})


if __name__ == "__main__":
    main()
