"""A data set of captions alone, in two sources, and a store of their vectors in another order."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from proclip.config import MixtureConfig
from proclip.data.dataset import ImageCaptions, Samples
from proclip.data.store import EmbeddingStore, StoreWriter, caption_key

ROWS = (700, 500)
"""Of the sources, together more than the rows of one page of a file."""
COLUMNS = ("short", "long")


def write_world(folder: Path) -> None:
    """Sources ``a`` and ``b``, and ``store`` with the captions' vectors, shuffled, in several shards."""
    for name, count in zip("ab", ROWS, strict=True):
        (folder / name).mkdir()
        rows = ({"file_name": f"{n}.png", "key": f"{name}{n}", "short": f"{name} {n}", "long": f"{name} long {n}"}
                for n in range(count))  # fmt: skip
        (folder / name / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {caption_key(s.key, c): s.captions[c] for s in samples_of(folder) for c in COLUMNS}
    keys = [list(texts)[n] for n in torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()]
    with StoreWriter(folder / "store", {"kind": "random"}, 2, shard_size=1000) as writer:
        for start in range(0, len(keys), 400):
            part = keys[start : start + 400]
            writer.add(part, torch.randn(len(part), 2), texts=[texts[key] for key in part])


def samples_of(folder: Path) -> Samples:
    """All samples of both sources."""
    return ImageCaptions([MixtureConfig(path=str(folder / name)) for name in "ab"]).select("any")


def slow_rows(samples: Samples, store: EmbeddingStore) -> list[int]:
    """Rows as a loop finds them, one caption after the other, in the order of the samples."""
    return [int(store.find([caption_key(s.key, c)])) for s in samples for c in COLUMNS]
