"""Exact ranks of retrieval against what they could cost at least, and against the one-hot method.

python benchmarks/recall.py             in turn, several times, with the ratio of each turn
python benchmarks/recall.py --large     100,000 x 100,000, once, with the memory that it takes
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from proclip.metrics import ranks_of_first_positive
from proclip.runs.recipes import environment

WIDTH, CHUNK, KS = 768, 1024, (1, 5, 10)
SIZES = {
    "5,000 x 25,000, as COCO": (5000, 25_000, 1.0),
    "5,000 x 25,000, untrained model": (5000, 25_000, None),
    "20,000 x 20,000": (20_000, 20_000, 1.0),
    "2,048 x 100,000": (2048, 100_000, 1.0),
}
"""Queries, gallery items, and the noise on queries that else are their first positive; None: unrelated vectors."""
ONE_HOT_BYTES = 2**30
"""Largest score and positive matrices that the one-hot method is given."""
LARGE = 100_000

Search = tuple[Tensor, Tensor, list[list[int]]]


def search(queries: int, gallery: int, noise: float | None) -> Search:
    """Unit vectors, and 1 to 9 positives a query."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(gallery, WIDTH, generator=generator)
    items /= items.norm(dim=1, keepdim=True)
    first = [(i * gallery // queries) for i in range(queries)]
    asked = items[first] * (0.0 if noise is None else 1.0)
    for part in asked.split(4096):
        part += (noise or 1.0) * 0.25 * torch.randn(part.shape, generator=generator)
    asked /= asked.norm(dim=1, keepdim=True)
    positives = [[(start + j) % gallery for j in range(1 + i % 9)] for i, start in enumerate(first)]
    return asked, items, positives


def ours(asked: Tensor, items: Tensor, positives: list[list[int]]) -> list[float]:
    ranks = ranks_of_first_positive(asked, items, positives)
    return [float((ranks <= k).double().mean()) for k in KS]


def bare(asked: Tensor, items: Tensor, positives: list[list[int]]) -> None:
    """The products in chunks and the ten best of each: not yet a figure."""
    for part in asked.split(CHUNK):
        (part @ items.T).topk(max(KS), dim=1)


def one_hot(asked: Tensor, items: Tensor, positives: list[list[int]]) -> list[float]:
    """The method of the common evaluators: all scores, a matrix of positives, one-hot tensors of the k best."""
    scores = asked @ items.T
    right = torch.zeros(scores.shape, dtype=torch.bool)
    for query, rows in enumerate(positives):
        right[query, rows] = True
    recalls = []
    for k in KS:
        hits = []
        for part, wanted in zip(scores.split(64), right.split(64), strict=True):
            best = F.one_hot(part.topk(k, dim=1).indices, items.shape[0])  # [64, k, gallery]
            hits.append((best * wanted[:, None]).sum(dim=(1, 2)) > 0)
        recalls.append(float(torch.cat(hits).double().mean()))
    return recalls


def seconds(method: Callable[[Tensor, Tensor, list[list[int]]], object], data: Search) -> tuple[float, float]:
    """By the clock, and of processor time, which other programs disturb less."""
    start, cpu = time.perf_counter(), time.process_time()
    method(*data)
    return time.perf_counter() - start, time.process_time() - cpu


def spread(values: list[float]) -> dict[str, float | list[float]]:
    return {"median": round(statistics.median(values), 3), "range": [round(min(values), 3), round(max(values), 3)]}


def compare(name: str, repeats: int) -> dict[str, object]:
    """Every method in turn; ratios are of the same turn, so that what else the machine does strikes all alike."""
    data = search(*SIZES[name])
    methods = {"ours": ours, "bare": bare}
    if data[0].shape[0] * data[1].shape[0] * 5 <= ONE_HOT_BYTES and SIZES[name][2] is not None:
        methods["one_hot"] = one_hot
    times: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for repeat in range(repeats + 1):
        for method, run in methods.items():
            taken = seconds(run, data)
            if repeat:  # the first round warms up
                times[method].append(taken)
    row: dict[str, object] = {"size": name}
    for place, clock in enumerate(("seconds", "cpu_seconds")):
        row[clock] = {method: spread([pair[place] for pair in taken]) for method, taken in times.items()}
        row[f"ratios_of_{clock}"] = {
            f"ours_to_{other}": spread([a[place] / b[place] for a, b in zip(times["ours"], times[other], strict=True)])
            for other in methods if other != "ours"
        }  # fmt: skip
    if "one_hot" in methods:
        row["recall"] = {"ours": ours(*data), "one_hot": one_hot(*data)}
    return row


def large(threads: int) -> dict[str, object]:
    """One search of 100,000 x 100,000, in a process of its own."""
    torch.set_num_threads(threads)
    data = search(LARGE, LARGE, 1.0)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    cpu = time.process_time()
    recall = ours(*data)
    return {
        "size": f"{LARGE:,} x {LARGE:,}",
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_mb_before": before // 1024,
        "embeds_mb": 2 * LARGE * WIDTH * 4 // 2**20,
        "recall": recall,
        "load_average": round(os.getloadavg()[1], 1),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--large", action="store_true", help="only the largest; kept beside what is measured already")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recall.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    about = {"date": date.today().isoformat(), "threads": arguments.threads, "environment": environment()}
    if arguments.large:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            result["large"] = pool.submit(large, arguments.threads).result() | about
        print(result["large"])
    else:
        rows = []
        for name in SIZES:
            rows.append(compare(name, arguments.repeats) | {"load_average": round(os.getloadavg()[0], 1)})
            print(rows[-1], flush=True)
        result = {"width": WIDTH, "repeats": arguments.repeats, "rows": rows, **about} | (
            {"large": result["large"]} if "large" in result else {}
        )
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
