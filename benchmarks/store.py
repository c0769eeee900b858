"""Embedding store: random rows against a raw memory map, and how look-ups, opening and memory grow with the keys.

    python benchmarks/store.py                 # five minutes, 1 GB of disk, 6 GB of memory
    python benchmarks/store.py --quality       # what each number format costs stage 1 on the mini world: half an hour

Reading: 4,096 rows at random, as float32. The raw map is NumPy's own over the same file, given the row numbers, widened
by torch in one call; ours by row number (``at``: a loop that looked its keys up before), likewise as stored (as stage 1
reads), and by key (``rows``: hashes, search, then the same). All rows are in the page cache, where what a store adds is
seen; from a disk both wait for it.
Growth: a store of so many keys with narrow vectors, planned and written as ``proclip embed`` does.
Quality: the recipe mini/stage1 from a store of float32 vectors and from the same vectors in each other format, on the
development concepts; layer 9 as shipped, and the last layer, whose dimensions are more alike.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import command_line, figure, in_turn, peak_memory, spread, write
from torch import Tensor

from proclip.data.key_table import INDEX
from proclip.data.mapped_file import map_tensors
from proclip.data.store import EmbeddingStore, StoreWriter
from proclip.data.store_format import TORCH_DTYPES
from proclip.embed import embed_captions
from proclip.errors import ProclipError
from proclip.evaluate import open_model
from proclip.evaluate.benchmarks import tasks_folder
from proclip.models.embedder import Encoded
from proclip.runs.columns import COLUMNS, cell
from proclip.runs.embed import embed_recipes, of_clip
from proclip.runs.evaluate import evaluate_path, values
from proclip.runs.recipes import find_recipe
from proclip.runs.train import train_recipe

DTYPES = ("float32", "float16", "bfloat16", "int8")
WIDTHS = (4096, 576)
BATCH = 4096
TASKS = ("zero_shot/openmoji", "zero_shot/twemoji", "retrieval_short", "retrieval_long", "multilingual/de",
         "multilingual/ja", "pairs", "hard_negatives")  # fmt: skip
LAYERS = (9, -1)
SHOWN = ("zero-shot", "I2T R@1", "T2I R@1")
"""Columns of the quality that are figures; the result file has all."""


class Numbered(Sequence[tuple[str, str]]):
    """Captions that are made when they are asked for."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        if number >= self.length:
            raise IndexError(number)
        return f"cc12m/{number // 10000:05d}/{number:09d}#short", f"text {number}"


class RandomEmbedder:
    """Normally distributed vectors, the same for the same first text."""

    def __init__(self, dim: int) -> None:
        self.dim, self.identity = dim, {"kind": "random", "dim": dim}

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors that depend on the first text alone."""
        seed = int.from_bytes(hashlib.sha256(texts[0].encode()).digest()[:7], "big")
        embeds = torch.randn(len(texts), self.dim, generator=torch.Generator().manual_seed(seed))
        return Encoded(embeds, torch.zeros(len(texts), dtype=torch.bool))

    def for_classes(self) -> RandomEmbedder:
        """Itself."""
        return self


def raw_map(folder: Path, dtype: torch.dtype) -> Callable[[np.ndarray[Any, Any]], Tensor]:
    """Rows as NumPy's memory map and torch give them, written in two lines."""
    path = folder / "shard-00000.safetensors"
    tensors, _ = map_tensors(path)
    stored, scale = tensors["embeds"], tensors.get("scale")
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")  # the vectors come first
    mapped = np.memmap(path, stored.dtype, "r", header, stored.shape)

    def read(rows: np.ndarray[Any, Any]) -> Tensor:
        embeds = torch.from_numpy(mapped[rows]).view(dtype).float()
        return embeds * torch.from_numpy(scale[rows]).unsqueeze(1) if scale is not None else embeds

    return read


def reading(folder: Path, width: int, dtype: Any, rows: int, repeats: int) -> tuple[list[dict[str, Any]], Any]:
    """Ratios of one width and number format."""
    captions = Numbered(rows)
    embed_captions(captions, RandomEmbedder(width), folder, dtype)
    store, raw = EmbeddingStore.open(folder), raw_map(folder, TORCH_DTYPES[dtype])
    numbers = [np.random.default_rng(n).permutation(rows)[:BATCH] for n in range(8)]
    keys = [[captions[int(n)][0] for n in batch] for batch in numbers]
    found = [store.find(batch) for batch in keys]
    for batch, known in zip(keys, found, strict=True):
        assert torch.equal(store.rows(batch), raw(known.numpy()))
    ways: dict[str, Callable[[], object]] = {
        "raw": lambda: [raw(known.numpy()) for known in found],
        "at": lambda: [store.at(known) for known in found],
        "rows": lambda: [store.rows(batch) for batch in keys],
        "as stored": lambda: [store.at(known, as_stored=True) for known in found],
    }
    turns = in_turn(ways, repeats)
    name = f"{width} wide, {dtype}"
    figures = [
        figure(f"{name}: rows a second by number over a raw map's", turns.ratio("raw", "at"), "x", aim="at least 0.8"),
        figure(f"{name}: by key over a raw map's", turns.ratio("raw", "rows"), "x", aim="at least 0.8"),
    ]
    if dtype in ("float16", "bfloat16"):
        figures.append(figure(f"{name}: by number as stored over as float32", turns.ratio("at", "as stored"), "x"))
    shutil.rmtree(folder)
    return figures, {**turns.values(), "rows_a_call": BATCH * len(numbers)}


def opened(folder: str) -> Callable[[], object]:
    """For a process of its own: open a store and look a batch up."""
    keys = [key for key, _ in map(Numbered(BATCH).__getitem__, range(BATCH))]
    return lambda: EmbeddingStore.open(folder).find(keys)


def growth(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """Sizes and seconds of a store of so many keys."""
    start = time.perf_counter()
    embed_captions(Numbered(count), RandomEmbedder(4), folder, "float16")
    written = time.perf_counter() - start
    keys = [Numbered(count)[int(n)][0] for n in np.random.default_rng(0).permutation(count)[:BATCH]]
    store = EmbeddingStore.open(folder)
    ways = {"open": lambda: EmbeddingStore.open(folder), "find": lambda: store.find(keys)}
    turns = in_turn(ways, max(repeats, 3))
    memory = peak_memory(opened, str(folder))
    state = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != ".lock"}
    (folder / INDEX).unlink()
    start = time.perf_counter()
    EmbeddingStore.open(folder)
    rebuilt = time.perf_counter() - start
    shutil.rmtree(folder)
    return {
        "keys": count,
        "written_s": round(written, 1),
        "index_bytes_a_key": round(state[INDEX] / count, 1),
        "table_bytes_a_key": round(state["keys-00000.safetensors"] / count, 1),
        "open_s": spread(turns.seconds["open"]),
        f"find_{BATCH}_s": spread(turns.seconds["find"]),
        "open_without_index_s": round(rebuilt, 2),
        "memory_mib": memory,
    }


def quality(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The development figures of mini/stage1 from each store."""
    rows = []
    for layer in options.layers:
        base = options.runs / f"layer{layer}"
        common = [f"embedder.layer={layer}", f"data.dataset={options.data}"]
        whole = find_recipe("mini/stage1", [*common, "data.store_dtype=float32", f"data.store={base / 'float32'}"])
        embed_recipes([whole])
        for dtype in DTYPES:
            row: dict[str, Any] = {"layer": layer, "dtype": dtype}
            rows.append(row)
            try:
                converted(base, dtype, whole.clip)
            except ProclipError as error:
                row["refused"] = str(error)
                continue
            per_seed = []
            for seed in range(options.seeds):
                own = [f"data.store_dtype={dtype}", f"data.store={base / dtype}", f"seed={seed}"]
                recipe = find_recipe("mini/stage1", [*common, *own])
                run = base / f"run-{dtype}-{seed}"
                train_recipe(replace(recipe, evaluate=None), run)
                world = tasks_folder(Path(options.data), "dev").only(TASKS)
                per_seed.append(values(evaluate_path(str(run), [world], run / "dev.json", open_model(recipe.clip))))
            row["cells"] = {name: cell(per_seed, keys) for name, keys in COLUMNS.items()}
            row["figures"] = per_seed
            print(
                layer, dtype, "  ".join(f"{n} {mean:.1f}±{s:.1f}" for n, (mean, s) in row["cells"].items()), flush=True
            )
    return rows


def points(per_seed: Sequence[Mapping[str, float]], column: str) -> list[float]:
    """A column of the tables over runs, of each seed."""
    return [cell([figures], COLUMNS[column])[0] for figures in per_seed]


def converted(base: Path, dtype: Any, clip: str) -> None:
    """The float32 stores with the LLM's vectors in another format."""
    source, target = base / "float32", base / dtype
    if (target / "llm").exists():
        return
    store = EmbeddingStore.open(source / "llm")
    keys = list(store.keys)
    shutil.copytree(of_clip(source / "teacher", clip), of_clip(target / "teacher", clip), dirs_exist_ok=True)
    with StoreWriter(target / "llm", store.identity, store.dim, dtype) as writer:
        for start in range(0, len(keys), BATCH):
            writer.add(keys[start : start + BATCH], store.rows(keys[start : start + BATCH]))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the quality part."""
    parser.add_argument("--quality", action="store_true", help="train stage 1 from each format instead")
    parser.add_argument("--data", default="runs/mini", help="the mini world (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/store_quality"), help="stores and runs")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS, help="of the LLM (default: 9 -1)")
    parser.add_argument("--seeds", type=int, default=3)


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=9, extend=add_options, threads=1)
    if options.quality:
        if options.out is not None and options.out.name == "store.json":
            options.out = options.out.with_name("store_quality.json")
        rows = quality(options)
        figures = [
            figure(f"layer {row['layer']}, {row['dtype']}: {name}", points(row["figures"], name), "points")
            for row in rows
            for name in SHOWN
            if "figures" in row
        ]
        write(options, __doc__, figures, {"seeds": options.seeds, "split": "dev", "rows": rows})
        return
    with tempfile.TemporaryDirectory() as name:
        folder, figures, details = Path(name), [], {}
        for width in WIDTHS:
            for dtype in DTYPES:
                size = 5000 if options.small else 40_000 * 4096 // width // (2 if dtype == "float32" else 1)
                more, found = reading(folder / "s", width, dtype, size, options.repeats)
                figures += more
                details[f"{width} {dtype}"] = found
        sizes = (5000, 50_000) if options.small else (100_000, 1_000_000, 10_000_000)
        grown = [growth(folder / "s", count, options.repeats) for count in sizes]
    last = grown[-1]
    figures += [
        figure(f"opening a store of {last['keys']:,} keys", last["open_s"]["median"], "s"),
        figure(f"looking {BATCH:,} of them up", last[f"find_{BATCH}_s"]["median"], "s"),
        figure("memory that opening and looking up adds", last["memory_mib"]["anonymous"], "MiB"),
    ]
    write(options, __doc__, figures, {"reading": details, "growth": grown, "cores": os.cpu_count()})


if __name__ == "__main__":
    main()
