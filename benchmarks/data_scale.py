"""What do millions of samples cost before and while they are trained on: seconds and memory, by their number?

    python benchmarks/data_scale.py        # 300,000 and 3 million rows; a quarter of an hour, 3 GB of disk

Indexes of shards of 10,000 samples with two caption columns, 300 characters together, as ``proclip data index`` and
``join`` write them, of archives that are empty files of the right size, and a store of all captions' vectors, of width
8. Every question runs in a process of its own; its memory is what it took beyond mapped files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from measure import command_line, figure, peak_memory, write

from proclip.data.captions import Captions
from proclip.data.columns import batched
from proclip.data.dataset import ImageCaptions, Samples, check_captions
from proclip.data.embed_plan import make_plan
from proclip.data.order import Block, Order
from proclip.data.store import EmbeddingStore, StoreWriter, caption_key
from proclip.data.store_format import Manifest
from proclip.data.stored_rows import StoredRows
from proclip.data.tar_index import ABOUT, OF_CAPTION, ShardAbout, index_path

A_SHARD = 10_000
READS = 20_000
COLUMNS = ("short", "long")
WIDTH = 8


def indexes(folder: Path, shards: int) -> None:
    """Indexes as those of real shards."""
    folder.mkdir()
    for shard in range(shards):
        path = folder / f"{shard:05d}.tar"
        path.touch()
        os.truncate(path, A_SHARD * 40_000)
        index_path(path).parent.mkdir(exist_ok=True)
        status = path.stat()
        about = ShardAbout(status.st_size, status.st_mtime_ns, COLUMNS, A_SHARD, 0, ())
        rows = np.arange(A_SHARD)
        table = pa.table(
            {
                "key": [f"{shard:05d}/{shard:05d}{row:04d}" for row in rows],
                "offset": rows * 40_000, "size": rows * 0 + 39_000, "extension": ["jpg"] * A_SHARD,
                "url": [f"https://pictures.org/of/some/{shard}/{row}.jpg" for row in rows],
                OF_CAPTION + "short": [f"a short caption of picture {row} of shard {shard}" for row in rows],
                OF_CAPTION + "long": [f"picture {row}: {'a long caption that says much ' * 8}" for row in rows],
            }
        )  # fmt: skip
        table = table.replace_schema_metadata({ABOUT: json.dumps(asdict(about))})
        with pa.ipc.new_file(str(index_path(path)), table.schema) as writer:
            writer.write_table(table)


def embedded(folder: Path) -> None:
    """The vectors of all captions."""
    with StoreWriter(folder / "store", {"kind": "zero"}, WIDTH, "float16", shard_size=1 << 20) as writer:
        for chunk in batched(opened(str(folder)).captions(COLUMNS), 1 << 16):
            keys = [caption_key(key, column) for key, column, _ in chunk]
            writer.add(keys, torch.zeros(len(keys), WIDTH), texts=[text or "" for _, _, text in chunk])


def opened(folder: str) -> Samples:
    return ImageCaptions(Path(folder) / "data").select("train")


def opening(folder: str) -> Callable[[], object]:
    return lambda: opened(folder)


def checking(folder: str) -> Callable[[], object]:
    samples = opened(folder)
    return lambda: check_captions(samples, COLUMNS)


def digesting(folder: str) -> Callable[[], object]:
    samples = opened(folder)
    return lambda: samples.digest(COLUMNS)


def digesting_half(folder: str) -> Callable[[], object]:
    samples = opened(folder)[::2]
    return lambda: samples.digest(COLUMNS)


def planning(folder: str) -> Callable[[], object]:
    samples = opened(folder)
    captions = Captions([(samples, column) for column in COLUMNS])
    wanted, plan = Manifest(identity={"kind": "zero"}, dim=WIDTH, dtype="float16"), Path(folder) / "plan"
    shutil.rmtree(plan, ignore_errors=True)
    plan.mkdir()
    return lambda: make_plan(plan, wanted, captions)


def looking_up(folder: str) -> Callable[[], object]:
    shutil.rmtree(Path(folder) / "rows", ignore_errors=True)
    return going_on(folder)


def going_on(folder: str) -> Callable[[], object]:
    samples, store = opened(folder), EmbeddingStore.open(Path(folder) / "store")
    return lambda: StoredRows(Path(folder) / "rows").captions(store, samples, COLUMNS)


def ordering(folder: str) -> Callable[[], object]:
    order = Order([Block(len(opened(folder)))], 4096, 0, "images")
    return lambda: order.epoch(1)


def reading(folder: str) -> Callable[[], object]:
    samples = opened(folder)
    places = np.random.default_rng(0).integers(len(samples), size=READS).tolist()

    def run() -> None:
        for place in places:
            sample = samples[place]
            assert sample.picture.name and sample.captions["short"]

    return run


QUESTIONS = {
    "open, keys checked": opening,
    "captions checked": checking,
    "hash of keys and captions": digesting,
    "hash of every second sample": digesting_half,
    "embedding of both columns planned": planning,
    "rows of all captions in a store": looking_up,
    "the same by a run that goes on": going_on,
    "an epoch's order": ordering,
    f"{READS:,} samples at random": reading,
}


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=3, threads=1)
    few, many = (1, 10) if options.small else (30, 300)
    figures, details = [], {}
    with tempfile.TemporaryDirectory() as name:
        folders = {shards: Path(name) / str(shards) for shards in (few, many)}
        for shards, folder in folders.items():
            folder.mkdir()
            indexes(folder / "data", shards)
            embedded(folder)
        for question, make in QUESTIONS.items():
            turns = [[peak_memory(make, str(folder)) for folder in folders.values()] for _ in range(options.repeats)]
            for rows, found in zip((few * A_SHARD, many * A_SHARD), zip(*turns, strict=True), strict=True):
                details[f"{rows:,}: {question}"] = found
                figures.append(figure(f"{rows:,} rows: {question}", [one["seconds"] for one in found], "s"))
                memory = [one["anonymous"] for one in found]
                figures.append(figure(f"{rows:,} rows: {question}, memory", memory, "MiB"))
            growth = [large["seconds"] / small["seconds"] for small, large in turns]
            figures.append(figure(f"ten times the rows: {question}", growth, "x", aim="at most 10"))
    write(options, __doc__, figures, {"rows_a_shard": A_SHARD, "memory": details})


if __name__ == "__main__":
    main()
