"""Two processes that train the tiny stage 2 together, to be killed: forked from a server that has torch loaded."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import tiny_tune
import torch
from tiny_tune import Share, tiny_stage

from proclip.train.checkpoint import latest_checkpoint

PROCESSES = 2
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["proclip.train.loop", "torch.distributed", "torch._dynamo"]
)  # what takes seconds to import


def work(rank: int, run_dir: Path, meeting: Path, epochs: int, seconds_per_batch: float, dropout: float) -> None:
    """One of the two; quiet, for its fellow may die."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=PROCESSES)
    stage = tiny_stage(dropout)
    torch.manual_seed(rank)  # each has its own dropout
    tiny_tune.train(run_dir, Share(rank, PROCESSES, seconds_per_batch), stage, epochs=epochs)
    torch.distributed.destroy_process_group()


def start(
    run_dir: Path, meeting: Path, epochs: int, seconds_per_batch: float = 0.0, dropout: float = 0.2
) -> list[BaseProcess]:
    """Both processes, started; they meet at a file that must be new. The log ends where they go on."""
    log, began = run_dir / "metrics.jsonl", saved_step(run_dir)
    if log.is_file():
        lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
        log.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= began))
    arguments = run_dir, meeting, epochs, seconds_per_batch, dropout
    processes = [CONTEXT.Process(target=work, args=(rank, *arguments), daemon=True) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    return list(processes)


def saved_step(run_dir: Path) -> int:
    """The step of the last whole checkpoint, 0 without one."""
    path = latest_checkpoint(run_dir / "checkpoints" / "tune")
    return int(path.name.removeprefix("step-")) if path else 0


def last_step(run_dir: Path) -> int:
    """The step of the last whole line of the log, 0 without one."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
    return steps[-1] if steps else 0


def wait_for_step(run_dir: Path, step: int, processes: Sequence[BaseProcess]) -> bool:
    """Whether the run gets to a step before a process of it ends."""
    deadline = time.monotonic() + 120
    while last_step(run_dir) < step:
        assert time.monotonic() < deadline
        if any(process.exitcode is not None for process in processes):
            return False
        time.sleep(0.003)
    return True


def kill_one_or_both(processes: Sequence[BaseProcess], rng: random.Random) -> None:
    """SIGKILL to one, the other or both; what is left fails by itself, or is killed too after a moment."""
    for victim in rng.choice([processes, processes[:1], processes[1:]]):
        victim.kill()
    time.sleep(rng.random() * 0.1)
    for process in processes:
        process.kill()
        process.join()
