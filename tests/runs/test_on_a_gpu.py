"""From files to a model on a GPU, and what the GPU computes against the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_recipe import HEAD, STAGES, with_tasks

from proclip.config import EmbedderConfig
from proclip.data.store import EmbeddingStore
from proclip.models.embedder import load_embedder
from proclip.models.proclip import ProCLIP

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CAPTIONS = [f"{'a very ' * (n % 9)}red kite over {n} boats" for n in range(100)]


@pytest.mark.filterwarnings("default")  # torch's own, of what its compiler uses
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("settings", [{"layer": 1}, {"pooling": "last_token", "padding_side": "left"}])
def test_an_embedder_gives_the_vectors_of_the_cpu(
    tiny_llm_path: Path, settings: dict[str, object], compiled: bool
) -> None:
    config = {"model": str(tiny_llm_path), "dtype": "float32", **settings}
    plain = load_embedder(EmbedderConfig(**config), "cpu")  # type: ignore[arg-type]
    found = load_embedder(EmbedderConfig(**config, compile=compiled), "cuda")  # type: ignore[arg-type]
    assert found.identity == plain.identity
    torch.testing.assert_close(found.encode(CAPTIONS).embeds, plain.encode(CAPTIONS).embeds, rtol=1e-3, atol=1e-3)


def proclip(device: str, *arguments: str) -> None:
    """Run a command that sees the GPU, or none."""
    seen = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-m", "proclip.cli", *arguments], env={**os.environ, **seen}, check=True)


def test_files_to_a_model(tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> None:
    world = with_tasks(tiny_world, tmp_path / "world")
    first: dict[str, list[float]] = {}
    for device in ("cuda", "cpu"):
        path, run, store = tmp_path / f"{device}.toml", tmp_path / device, tmp_path / f"store-{device}"
        path.write_text(HEAD.format(clip=tiny_clip_path, llm=tiny_llm_path, world=world, store=store) + STAGES)
        cache = ("--cache", str(tmp_path / f"cache-{device}"))
        proclip(device, "embed", str(path))
        proclip(device, "train", str(path), "--out", str(run), "--set", "log.every_steps=1")
        proclip(device, "eval", str(run / "model"), "--data", str(world), "--out", str(run / "results.json"), *cache)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        first[device] = [next(row["loss"] for row in rows if row["stage"] == stage) for stage in ("distill", "tune")]
    stores = [EmbeddingStore.open(tmp_path / f"store-{device}" / "llm") for device in first]
    keys = list(stores[0].keys)
    torch.testing.assert_close(stores[0].rows(keys), stores[1].rows(keys), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(first["cuda"], first["cpu"], rtol=2e-2, atol=1e-3)
    models = [ProCLIP.from_pretrained(tmp_path / "cuda" / "model", device=device) for device in ("cpu", "cuda")]
    embeds = [model.embed_texts(CAPTIONS) for model in models]
    torch.testing.assert_close(embeds[1], embeds[0], rtol=1e-3, atol=1e-3)
