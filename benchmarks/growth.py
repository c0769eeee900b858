"""Ten times the data: not more than ten times the time, and no more memory?

    python benchmarks/growth.py            # half an hour on two cores

Each part runs at a size and at ten times it, in processes of their own, in turn. Small models, so that it is the data
that shows: mini-clip, an LLM width of 576. Memory is the most that a process took beyond its imports; pages of
memory-mapped files are not counted, for the system drops them when it needs the room. glibc keeps of freed memory what
it likes, tens of MiB and never the same; here it gives pieces above 64 KiB back at once, so that the data show.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from limits import photograph
from measure import command_line, figure, peak_memory, write
from torch import nn

from proclip.config import AdapterConfig, DistillConfig, LogConfig, TuneConfig
from proclip.data.captions import Captions
from proclip.data.dataset import ImageCaptions
from proclip.data.images import ImageFiles
from proclip.data.loaders import DistillBatches, TuneBatches
from proclip.data.store import EmbeddingStore, StoreWriter, caption_key
from proclip.embed import embed_captions
from proclip.evaluate.encoding import EncodingCounts, ImageFeatures
from proclip.evaluate.open_model import open_model
from proclip.metrics import ranks_of_first_positive
from proclip.models.adapter import Adapter
from proclip.models.clip import load_clip
from proclip.train.loop import fit
from proclip.train.metric_log import MetricLogger
from proclip.train.stages import ImageTextTuning, TextDistillation

TEN, FIRST = 10, 128
LLM_DIM, TEACHER_DIM = 576, 256
DISTINCT_PICTURES = 64
LOG = LogConfig(every_steps=1_000_000, checkpoint_every_steps=1_000_000)
SIZES = {
    "metadata": 20_000, "stage 1": 8192, "stage 2": 512, "evaluation": 1024, "embedding": 2048, "recall": 10_000,
}  # fmt: skip
KEYS = "8, keys' hashes while they are compared"
OWN = {
    "metadata": KEYS, "stage 1": "32: keys' hashes, rows of two stores, the order", "stage 2": "24: the same of one",
    "evaluation": "1,024, the embeddings, and paths", "embedding": "100, the plan's hashes and keys, and its sorting",
    "recall": "1,024, the gallery",
}  # fmt: skip
"""What memory a row may take, bytes."""
SMALL = {"metadata": 50, "stage 1": 16, "stage 2": 4, "evaluation": 4, "embedding": 8, "recall": 50}


def captions_in(folder: Path, rows: int) -> list[str]:
    """A dataset's metadata, without pictures; its captions' keys."""
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(rows):
            short = f"picture number {number} of a large collection, with a caption of the usual length"
            file.write(json.dumps({"file_name": f"{number:08d}.jpg", "key": f"{number:08d}", "short": short}) + "\n")
    return [caption_key(f"{number:08d}", "short") for number in range(rows)]


def pictures_in(folder: Path, rows: int) -> None:
    files = [photograph(number, (256, 256)) for number in range(min(rows, DISTINCT_PICTURES))]
    for number in range(rows):
        (folder / f"{number:08d}.jpg").write_bytes(files[number % len(files)])


def vectors_in(folder: Path, captions: list[str], dim: int) -> None:
    torch.manual_seed(0)
    with StoreWriter(folder, {"kind": "random"}, dim, "float16") as writer:
        for start in range(0, len(captions), 16384):
            part = captions[start : start + 16384]
            writer.add(part, F.normalize(torch.randn(len(part), dim), dim=-1))


def prepare(part: str, folder: Path, rows: int) -> None:
    """Write what a part reads."""
    captions = captions_in(folder, rows)
    if part in ("stage 1", "stage 2"):
        vectors_in(folder / "llm", captions, LLM_DIM)
    if part == "stage 1":
        vectors_in(folder / "teacher", captions, TEACHER_DIM)
    if part in ("stage 2", "evaluation"):
        pictures_in(folder, rows)


def metadata(folder: Path, rows: int) -> None:
    """Read and check a dataset's metadata."""
    assert len(ImageCaptions(folder).select("align")) == rows


def stage1(folder: Path, rows: int) -> None:
    """One epoch of stage 1 from the stores, from the dataset's opening on."""
    config = DistillConfig(epochs=1, batch_size=min(1024, rows // 4))
    llm, teacher = (EmbeddingStore.open(folder / name) for name in ("llm", "teacher"))
    batches = DistillBatches(ImageCaptions(folder).select("align"), llm, teacher, config, seed=0)
    stage = TextDistillation(Adapter(LLM_DIM, TEACHER_DIM, AdapterConfig()), config)
    with MetricLogger(folder, LOG) as logger:
        fit(stage, batches, name="distill", epochs=1, optim=config.optim, log=LOG, run_dir=folder, logger=logger)


def stage2(folder: Path, rows: int) -> None:
    """One epoch of stage 2 on pictures in files, from the dataset's opening on."""
    clip, config = load_clip("mini-clip"), TuneConfig(captions=("short",), epochs=1, batch_size=min(64, rows // 2))
    llm = EmbeddingStore.open(folder / "llm")
    batches = TuneBatches(ImageCaptions(folder).select("align"), llm, clip.preprocess, config, seed=0)
    adapter = Adapter(LLM_DIM, clip.dim, AdapterConfig())
    stage = ImageTextTuning(clip.image_tower, adapter, nn.Parameter(torch.tensor(clip.logit_scale)), config)
    with MetricLogger(folder, LOG) as logger:
        fit(stage, batches, name="tune", epochs=1, optim=config.optim, log=LOG, run_dir=folder, logger=logger)


def evaluation(folder: Path, rows: int) -> None:
    """Encode pictures in files as `proclip eval` does, into its cache."""
    images = ImageFiles({f"{number:08d}": folder / f"{number:08d}.jpg" for number in range(rows)})
    encode = ImageFeatures(open_model("mini-clip").images, images, folder / "cache", EncodingCounts())
    assert len(encode(list(images.paths))) == rows


def embedding(folder: Path, rows: int) -> None:
    """Embed captions into a store, with mini-clip's text tower in the LLM's place."""
    clip = load_clip("mini-clip")
    captions = Captions([(ImageCaptions(folder).select("align"), "short")])
    assert embed_captions(captions, clip, folder / "embeds").rows == rows


def recall(folder: Path, rows: int) -> None:
    """Exact ranks of 1,000 queries in a gallery; the gallery's own vectors are counted."""
    gallery = torch.randn(rows, TEACHER_DIM, generator=torch.Generator().manual_seed(0))
    gallery /= gallery.norm(dim=-1, keepdim=True)
    queries = min(1000, rows)
    ranks_of_first_positive(gallery[:queries], gallery, [[number] for number in range(queries)])


PARTS: Mapping[str, Callable[[Path, int], None]] = {
    "metadata": metadata, "stage 1": stage1, "stage 2": stage2, "evaluation": evaluation, "embedding": embedding,
    "recall": recall,
}  # fmt: skip


def ready(part: str, folder: str, rows: int) -> Callable[[], object]:
    """What a fresh process measures, once it has done the part on a few rows."""
    first, few = Path(folder).with_name("first"), min(FIRST, rows)
    prepare(part, first, few)
    PARTS[part](first, few)
    return lambda: PARTS[part](Path(folder), rows)


def measured(part: str, rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        prepare(part, folder, rows)
        return peak_memory(ready, part, str(folder), rows)


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=3, extend=lambda p: p.add_argument("--parts", nargs="+", choices=PARTS))
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)  # of the processes that are measured
    sizes, figures, found = SMALL if options.small else SIZES, [], {}
    for part in options.parts or PARTS:
        rows = sizes[part]
        turns = [(measured(part, rows), measured(part, TEN * rows)) for _ in range(options.repeats)]
        times = [many["seconds"] / few["seconds"] for few, many in turns]
        more = [(many["anonymous"] - few["anonymous"]) * 2**20 / ((TEN - 1) * rows) for few, many in turns]
        figures.append(figure(f"{part}: time of {TEN * rows:,} over that of {rows:,}", times, "x", aim="at most 10"))
        figures.append(figure(f"{part}: memory that each further row takes", more, "bytes", aim=OWN[part]))
        found[part] = [{"rows": rows, **few, f"{TEN}x": many} for few, many in turns]
    write(options, __doc__, figures, {"found": found})


if __name__ == "__main__":
    main()
