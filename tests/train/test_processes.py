"""Several processes train as one does."""

from __future__ import annotations

from pathlib import Path

import tiny_tune
import torch
import torch.multiprocessing
from safetensors.torch import load_file
from tiny_tune import Share, tiny_stage

from proclip.train.checkpoint import latest_checkpoint

PROCESSES = 2


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    try:
        tiny_tune.train(folder / "run", Share(rank, PROCESSES), tiny_stage(dropout=0.0))
        torch.manual_seed(rank)
        again = tiny_tune.train(folder / "run", Share(rank, PROCESSES), tiny_stage(dropout=0.0))
        assert again.resumed_at == again.steps
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=PROCESSES)
    tiny_tune.train(tmp_path / "one", stage=tiny_stage(dropout=0.0))
    paths = [latest_checkpoint(tmp_path / name / "checkpoints" / "tune") for name in ("one", "run")]
    one, two = (load_file(p / "stage.safetensors") for p in paths if p is not None)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    lines = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("one", "run")]
    assert lines[0] == lines[1]
