"""Search: pictures a second against a bare loop, and the time, memory and recall of a query on a million vectors.

python benchmarks/search.py indexing    the whole of `proclip index` against reading, preparing and encoding, in turn
python benchmarks/search.py queries     exact, and through graphs of int8, of bits, of float16
python benchmarks/search.py exact       where exact search is quick enough to be left exact

The vectors are made up: 768 wide, in 2,000 clusters of 96 directions, off the origin as a CLIP's are. Queries are of
two kinds: like the pictures, and moved away from them as texts are. Each kind of search runs in a process of its own.
Results go side by side into one file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from evaluation_speed import draw
from measure import command

from proclip.runs.recipes import environment
from proclip.search import Index, update_index
from proclip.search.catalogue import Catalogue, NewPicture
from proclip.search.encoder import open_encoder
from proclip.search.filling import BATCH
from proclip.search.graph import KINDS
from proclip.search.pictures import PictureFile, read
from proclip.search.upkeep import update_graph
from proclip.search.vectors import Floats, append, mapped

MODEL = "mini-clip"
DIM, CLUSTERS, LATENT, CHUNK = 768, 2000, 96, 50_000
QUERIES, K = 200, 10
EXACT_COUNTS = (25_000, 50_000, 100_000, 175_000, 350_000)


def made_up(count: int, seed: int) -> Iterator[Floats]:
    """Unit vectors, chunk by chunk."""
    space, draws = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    basis = torch.randn(LATENT, DIM, generator=space) / LATENT**0.5
    centres, mean = torch.randn(CLUSTERS, LATENT, generator=space), 0.7 * torch.randn(DIM, generator=space)
    for start in range(0, count, CHUNK):
        n = min(CHUNK, count - start)
        chosen = centres[torch.randint(CLUSTERS, (n,), generator=draws)]
        inside = (chosen + 0.6 * torch.randn(n, LATENT, generator=draws)) @ basis
        yield F.normalize(inside + mean + 0.25 * torch.randn(n, DIM, generator=draws), dim=1).numpy()


def asked() -> dict[str, Floats]:
    """Queries like the pictures, and moved away from them by one step, as texts are."""
    pictures = np.concatenate(list(made_up(QUERIES, 2)))
    step = np.random.default_rng(3).standard_normal(DIM).astype(np.float32)
    texts = pictures - pictures.mean(axis=0) * 0.7 + step / np.linalg.norm(step) * 0.7
    return {"pictures": pictures, "texts": texts / np.linalg.norm(texts, axis=1, keepdims=True)}


def write_index(folder: Path, count: int) -> None:
    """An index of made-up vectors; one of an earlier run is taken as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    with Catalogue(folder, write=True) as catalogue:
        if catalogue.fact("rows") == count:
            return
        start = 0
        for vectors in made_up(count, 1):
            append(folder / "vectors-0.f32", vectors, start)
            numbers = range(start, start + len(vectors))
            with catalogue.changing():
                catalogue.add_pictures(NewPicture(f"{n:064x}", n, 640, 480, None) for n in numbers)
                catalogue.add_files((PictureFile(f"/made up/{n:08d}.jpg", 1, 1), f"{n:064x}") for n in numbers)
            start += len(vectors)
        with catalogue.changing():
            for name, value in (("identity", {}), ("dim", DIM), ("vectors", "vectors-0.f32"), ("rows", count)):
                catalogue.set_fact(name, value)


def truth(folder: Path, count: int) -> dict[str, list[list[int]]]:
    """Rows of the exact ten nearest of every query."""
    vectors, found = mapped(folder / "vectors-0.f32", count, DIM), {}
    for kind, queries in asked().items():
        scores, rows = torch.empty(QUERIES, 0), torch.empty(QUERIES, 0, dtype=torch.long)
        for start in range(0, count, CHUNK):
            block = torch.from_numpy(queries) @ torch.from_numpy(vectors[start : start + CHUNK]).T
            best = block.topk(min(K, block.shape[1]), dim=1)
            scores, rows = torch.cat([scores, best.values], 1), torch.cat([rows, best.indices + start], 1)
            scores, places = scores.topk(K, dim=1)
            rows = rows.gather(1, places)
        found[kind] = rows.tolist()
    return found


def memory() -> dict[str, int]:
    """Megabytes of this process: its own, and of files that it has mapped."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) // 1024 for name, key in (("own_mb", "RssAnon"), ("mapped_mb", "RssFile"))}


def query(folder: str, exact: dict[str, list[list[int]]], threads: int) -> dict[str, Any]:
    """Time, memory and recall of every query, from vector to hits, in this process."""
    torch.set_num_threads(threads)
    before = memory()
    start = time.perf_counter()
    with Index.open(folder) as index:
        row: dict[str, Any] = {"open_s": round(time.perf_counter() - start, 2)}
        for kind, queries in asked().items():
            seconds, right = [], 0
            for number, vector in enumerate(queries):
                start = time.perf_counter()
                hits = index.search_vector(vector, K)
                seconds.append(time.perf_counter() - start)
                right += len({int(hit.path.stem) for hit in hits} & set(exact[kind][number]))
            ordered = sorted(seconds)
            row[kind] = {
                "median_ms": round(1000 * statistics.median(seconds), 2),
                "p95_ms": round(1000 * ordered[int(0.95 * len(ordered))], 2),
                "recall_at_10": round(right / (K * len(queries)), 4),
            }
        after, graph = memory(), index.stats.get("graph", {})
    row["memory"] = {name: after[name] - before[name] for name in after}
    return row | {"graph_mb": round(graph.get("megabytes", 0)), "vectors_mb": 4 * DIM * len(index._nearest) // 10**6}


def build(folder: str, kind: str, threads: int) -> dict[str, Any]:
    """A graph, in this process."""
    torch.set_num_threads(threads)
    start, cpu = time.perf_counter(), time.process_time()
    with Catalogue(Path(folder), write=True) as catalogue:
        update_graph(Path(folder), catalogue, kind, 0, lambda done, total: None)  # type: ignore[arg-type]
        recall = catalogue.fact("graph")["recall"]
    return {
        "build_s": round(time.perf_counter() - start, 1),
        "build_cpu_s": round(time.process_time() - cpu, 1),
        "build_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "stated_recall": recall,
    }


def apart(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call it in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def queries(folder: Path, count: int, kinds: list[str], threads: int) -> dict[str, Any]:
    """Exact search and search through graphs, on the same vectors."""
    write_index(folder, count)
    exact = truth(folder, count)
    with Catalogue(folder, write=True) as catalogue, catalogue.changing():
        catalogue.set_fact("graph", None)
    rows = {"exact": apart(query, str(folder), exact, threads)}
    print("exact", rows["exact"], flush=True)
    for kind in kinds:
        built = apart(build, str(folder), kind, threads)
        rows[kind] = apart(query, str(folder), exact, threads) | built
        print(kind, rows[kind], flush=True)
    return {"count": count, "width": DIM, "rows": rows}


def exact_sizes(repeats: int, threads: int) -> dict[str, Any]:
    """Milliseconds of an exact query by the number of pictures, in turn."""
    torch.set_num_threads(threads)
    vector, rows = asked()["pictures"][0], dict[int, list[float]]()
    with tempfile.TemporaryDirectory() as name:
        for count in EXACT_COUNTS:
            write_index(Path(name) / str(count), count)
        opened = {count: Index.open(Path(name) / str(count)) for count in EXACT_COUNTS}
        for repeat in range(repeats + 1):
            for count, index in opened.items():
                start = time.perf_counter()
                index.search_vector(vector, K)
                if repeat:  # the first round warms up
                    rows.setdefault(count, []).append(1000 * (time.perf_counter() - start))
        for index in opened.values():
            index.close()
    found = {
        f"{count:,}": {
            "median_ms": round(statistics.median(kept), 1),
            "range": [round(min(kept), 1), round(max(kept), 1)],
        }
        for count, kept in rows.items()
    }
    return {"width": DIM, "repeats": repeats, "rows": found}


def indexing(repeats: int, pictures: int, threads: int) -> dict[str, Any]:
    """Rates of `update_index` on new pictures and of the bare loop, in turn, with the ratio of each turn."""
    torch.set_num_threads(threads)
    encoder = open_encoder(MODEL)
    rates: dict[str, list[float]] = {"index": [], "bare loop": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        paths = sorted(draw(folder / "pictures", pictures).paths.values())

        def bare() -> float:
            start = time.perf_counter()
            for first in range(0, len(paths), BATCH):
                encoder.encode_images([encoder.prepare(read(path).image) for path in paths[first : first + BATCH]])
            return len(paths) / (time.perf_counter() - start)

        for repeat in range(repeats + 1):
            report = update_index(folder / f"index{repeat}", [folder / "pictures"], MODEL)
            assert report.encoded == len(paths)
            taken = {"index": len(paths) / report.encoding_seconds, "bare loop": bare()}
            if repeat:  # the first round warms up
                for way, rate in taken.items():
                    rates[way].append(rate)
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    return {
        "model": MODEL, "pictures": pictures, "repeats": repeats,
        "pictures_per_s": {way: round(statistics.median(kept), 1) for way, kept in rates.items()},
        "ratio": round(statistics.median(ratios), 3), "range": [round(min(ratios), 3), round(max(ratios), 3)],
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("indexing", "queries", "exact"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--kinds", default=",".join(reversed(KINDS)), help="graphs (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/search_benchmark"), help="for the made-up index")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search.json"))
    arguments = parser.parse_args()
    start = time.perf_counter()
    if arguments.what == "indexing":
        found = indexing(arguments.repeats, arguments.pictures, arguments.threads)
    elif arguments.what == "queries":
        found = queries(arguments.folder, arguments.count, arguments.kinds.split(","), arguments.threads)
    else:
        found = exact_sizes(arguments.repeats, arguments.threads)
    found |= {
        "threads": arguments.threads,
        "took_s": round(time.perf_counter() - start),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "environment": environment() | {"command": command()},
    }
    result = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result | {arguments.what: found}, indent=2) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "environment"}, indent=2))


if __name__ == "__main__":
    main()
