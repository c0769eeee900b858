"""Embeds in processes of its own, which are killed at random moments and started again; what is left is compared.

python embedding_job.py FOLDER PROCESSES KILLS SEED [MODEL | pictures]

With ``pictures`` it is those of a data set that are embedded, of which one in ten is broken. PROCESSES is a list of
counts, as in 1,2: each start takes one of them, so that runs are gone on with by other numbers.
Imports are done once; each run is a fork of this process. As torchrun does, the others get SIGTERM when one dies.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fake_embedder import FakeEmbedder
from PIL import Image
from torch import Tensor, nn

from proclip import embed
from proclip.config import EmbedderConfig
from proclip.data import embed_plan
from proclip.data.dataset import ImageCaptions, Samples
from proclip.errors import Preempted, ProclipError
from proclip.models.embedder import Encoded, TextEmbedder, load_embedder
from proclip.models.preprocess import ImagePreprocess
from proclip.models.towers import ImageTower
from proclip.train.interruption import stopping

CAPTIONS = [(f"{n}#short", f"{'a rather ' * (n * 7 % 11)}long text {n % 450}") for n in range(600)]
LONGEST_RUN, GRACE = 120.0, 2.0
"""Seconds; who has not ended so long after SIGTERM is killed, as one that waits for others to join does not hear it."""


class Slow(FakeEmbedder):
    """Takes its time, so that a kill comes in the middle."""

    def encode(self, texts: Any) -> Encoded:
        time.sleep(0.002)
        return super().encode(texts)


class Colours(ImageTower):
    """Mean colours of a picture; takes its time."""

    family, embed_dim = "clip", 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    @property
    def blocks(self) -> nn.ModuleList:
        return nn.ModuleList()

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> Colours:
        return cls()

    def forward(self, pixels: Tensor) -> Tensor:
        time.sleep(0.002)
        return self.scale * pixels.mean((2, 3))


def pictures(folder: Path) -> Samples:
    """A data set."""
    folder.mkdir()
    for n in range(200):
        Image.new("RGB", (8, 8), (n, 255 - n, n // 2)).save(folder / f"{n}.png")
        if n % 10 == 3:
            (folder / f"{n}.png").write_bytes(b"broken")
    rows = (json.dumps({"file_name": f"{n}.png", "key": str(n)}) for n in range(200))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return ImageCaptions(folder).select("any")


Job = Callable[[Path], object]
"""Embeds everything into a folder."""


def job(folder: Path, what: str | None) -> Job:
    """What is to be done."""
    if what == "pictures":
        samples, tower = pictures(folder / "data"), Colours()
        preprocess = ImagePreprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        embed.PICTURES = 3
        return lambda store: embed.embed_pictures(samples, tower, preprocess, store, {"kind": "colours"})
    embedder: TextEmbedder = Slow()
    if what is not None:
        embedder = load_embedder(EmbedderConfig(model=what, dtype="float32", layer=1))
    return lambda store: embed.embed_captions(CAPTIONS, embedder, store, "float16")


def start(embed_all: Job, folder: Path, number: int, processes: int, meeting: Path) -> int:
    """One process of a run; its id."""
    if process := os.fork():
        return process
    status = 1
    try:
        with stopping():
            if processes > 1:
                dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=processes)
            embed_all(folder)
        status = 0
    except Preempted:
        status = 143
    except (ProclipError, RuntimeError):  # another process is gone
        status = 2
    finally:
        os._exit(status)


def run(embed_all: Job, folder: Path, processes: int, kill_after: float | None = None) -> bool:
    """A run, of which one process is killed after some seconds; whether it came to its end before."""
    meeting = folder.parent / f"meeting-{time.monotonic_ns()}"
    running = {start(embed_all, folder, number, processes, meeting): number for number in range(processes)}
    begin, victim, codes, ended = time.monotonic(), random.choice(list(running)), [], 0.0
    while running:
        now = time.monotonic()
        if kill_after is not None and now - begin > kill_after and victim in running:
            os.kill(victim, signal.SIGKILL)
        if (ended and now - ended > GRACE) or now - begin > LONGEST_RUN:
            for other in running:
                os.kill(other, signal.SIGKILL)
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            time.sleep(0.001)
            continue
        del running[process]
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[-1] and not ended:
            ended = now
            for other in running:
                os.kill(other, signal.SIGTERM)
    if kill_after is None and any(codes):
        raise SystemExit(f"exit codes {codes}")
    return not any(codes)


def files(folder: Path) -> dict[str, bytes]:
    """Everything that a run leaves but its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def main() -> None:
    """Kill until there were enough kills, and compare whenever a run has come to its end."""
    folder, counts, kills = Path(sys.argv[1]), [int(count) for count in sys.argv[2].split(",")], int(sys.argv[3])
    random.seed(int(sys.argv[4]))
    torch.set_num_threads(1)
    embed_plan.WINDOW, embed_plan.CHUNK, embed_plan.SYNC_SECONDS = 30, 6, 0.0
    embed_all = job(folder, sys.argv[5] if len(sys.argv) > 5 else None)
    begin = time.monotonic()
    run(embed_all, folder / "whole", 1)
    seconds, whole = time.monotonic() - begin, files(folder / "whole")
    done = ends = 0
    while done < kills or not ends:
        killed = folder / f"killed-{ends}"
        after = random.uniform(0, seconds) if done < kills else None
        ended = run(embed_all, killed, random.choice(counts), after)
        done += after is not None and not ended
        if ended:
            ends += 1
            if files(killed) != whole:
                raise SystemExit(f"{killed} differs from {folder / 'whole'}")
    print(f"{done} kills, {ends} runs ended")


if __name__ == "__main__":
    main()
