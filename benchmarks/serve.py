"""How much of the offline encode rate does ``proclip serve`` keep, with 64 clients at once?

Server, clients and the offline loop share one machine and its cores: the clients' work counts against the server. The
model is mini-clip, with ``--large`` a ViT-B/32, with nine blocks of SmolLM2 and an adapter of random weights (whose
speed is that of a trained one).

- Throughput: 64 connections of one process, each with one text (or one picture) a request, the next once the answer is
  there, over the same texts (pictures) through ``encode_text`` (``encode_image``) in one list.
- Overload: more connections than the server takes at once, eight texts a request.
- Memory: the server's resident memory after half of the requests and after all of them, texts and pictures in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measure import command_line, figure, in_turn, write
from PIL import Image
from training import random_clip

from proclip.config import AdapterConfig, EmbedderConfig
from proclip.models.adapter import Adapter
from proclip.models.clip import load_clip
from proclip.models.clip_transformers import ClipImageTower
from proclip.models.embedder import embedder_identity
from proclip.models.image_files import decode_image
from proclip.models.proclip import ProCLIP

CLIENTS, CROWD = 64, 400
WORDS = ("a", "the", "red", "small", "wooden", "boat", "dog", "street", "market", "child", "bridge", "under", "snow")
Sent = tuple[list[float], dict[int, int], float]
"""Seconds of each answered request, answers by status, seconds of all."""


def texts(count: int, seed: int) -> list[str]:
    """Sentences of 5 to 40 words, no two alike."""
    random = np.random.default_rng(seed)
    return [f"{n} " + " ".join(random.choice(WORDS, random.integers(5, 40))) for n in range(count)]


def pictures(count: int) -> list[bytes]:
    """JPEG files of 320 x 240 pixels, some 10 kB each."""
    random, files = np.random.default_rng(0), []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        stream = BytesIO()
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=88)
        files.append(stream.getvalue())
    return files


def request(inputs: Any) -> bytes:
    body = json.dumps({"input": inputs, "encoding_format": "base64"}).encode()
    lines = ["POST /v1/embeddings HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def picture_input(content: bytes) -> dict[str, str]:
    return {"image": "data:image/jpeg;base64," + base64.b64encode(content).decode()}


def send(port: int, requests: Sequence[bytes], clients: int) -> Sent:
    """Send requests over some connections, each its next once the answer to the last is there."""
    seconds: list[float] = []
    statuses: Counter[int] = Counter()

    async def client(left: Iterator[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for content in left:
            start = time.perf_counter()
            writer.write(content)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            status = int(head[9:12])
            statuses[status] += 1
            if status == 200:
                seconds.append(time.perf_counter() - start)
            else:
                await asyncio.sleep(0.05)
        writer.close()

    async def all_of_them() -> float:
        left = iter(requests)
        start = time.perf_counter()
        await asyncio.gather(*(client(left) for _ in range(clients)))
        return time.perf_counter() - start

    took = asyncio.run(all_of_them())
    return seconds, dict(statuses), took


def make_model(folder: Path, large: bool) -> Path:
    """mini-clip, or a ViT-B/32 of random weights, and SmolLM2, with an adapter of random weights."""
    clip = load_clip("mini-clip")
    tower, preprocess = clip.image_tower, clip.preprocess
    if large:
        random = random_clip("ViT-B/32")
        tower = ClipImageTower(random.vision_model, random.visual_projection)
        preprocess = dataclasses.replace(preprocess, size=224)
    config = EmbedderConfig(model="smollm2", layer=9)
    torch.manual_seed(0)
    adapter = Adapter(576, tower.embed_dim, AdapterConfig())
    model = ProCLIP(tower, adapter, 3.0, preprocess, config, embedder_identity(config), "ViT-B/32" if large else "mini")
    model.save_pretrained(folder)
    return folder


@contextmanager
def serving(model: Path, threads: int) -> Iterator[tuple[int, int]]:
    """A server of its own; its port and process id."""
    command = [sys.executable, "-m", "proclip.cli", "serve", "--model", str(model), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    said = ""
    while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", said)):
        line = process.stderr.readline()
        if not line:
            raise SystemExit(said)
        said += line
    try:
        yield int(found[1]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


def resident_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


def main() -> None:
    def extend(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--large", action="store_true", help="a ViT-B/32 instead of mini-clip")
        parser.add_argument("--inputs", type=int, default=768, help="texts and pictures (default: %(default)s)")
        parser.add_argument("--requests", type=int, default=10_000, help="for the memory (default: %(default)s)")

    options = command_line(__doc__, repeats=5, extend=extend)
    count, total = (16, 100) if options.small else (options.inputs, options.requests)
    sentences, files = texts(count, 0), pictures(count)
    last: dict[str, Sent] = {}
    with TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        path = make_model(Path(folder) / "model", options.large)
        model = ProCLIP.from_pretrained(path)
        bodies = {
            "texts": [request(text) for text in sentences],
            "pictures": [request(picture_input(content)) for content in files],
        }

        with serving(path, options.threads) as (port, process):

            def served(name: str) -> None:
                last[name] = pool.submit(send, port, bodies[name], CLIENTS).result()

            def offline_pictures() -> None:
                model.encode_image([decode_image(content, "") for content in files])

            turns = in_turn(
                {
                    "offline texts": lambda: model.encode_text(sentences),
                    "served texts": lambda: served("texts"),
                    "offline pictures": offline_pictures,
                    "served pictures": lambda: served("pictures"),
                },
                options.repeats,
            )
            crowd = [request(texts(8, seed)) for seed in range(total // 16)]
            overload = pool.submit(send, port, crowd, CROWD).result()
            mixed = [bodies["texts" if n % 2 else "pictures"][n % count] for n in range(total // 2)]
            memory = [resident_mib(process)]
            mixed_sent = []
            for _ in range(2):
                mixed_sent.append(pool.submit(send, port, mixed, CLIENTS).result())
                memory.append(resident_mib(process))
    errors = sum(
        number
        for sent in (*last.values(), overload, *mixed_sent)
        for status, number in sent[1].items()
        if status not in (200, 429)
    )
    figures = []
    for name in ("texts", "pictures"):
        ratio = turns.ratio(f"offline {name}", f"served {name}")
        figures.append(figure(f"served over offline, {name}, {CLIENTS} clients", ratio, "x", aim="at least 0.8"))
        figures.append(figure(f"served {name} a second", turns.rate(f"served {name}", count), "inputs/s"))
        for share in (50, 99):
            value = float(np.percentile(last[name][0], share)) * 1000
            figures.append(figure(f"p{share} of a request, {name}, {CLIENTS} clients", value, "ms"))
    figures.append(figure("answers other than 200 and 429, overload included", errors, "", aim="none"))
    figures.append(figure("429 of all under overload", overload[1].get(429, 0) / sum(overload[1].values()), "share"))
    figures.append(
        figure(f"growth of memory from {total // 2} to {total} requests", memory[2] - memory[1], "MiB", aim="flat")
    )
    details = {"inputs": count, "turns": turns.values(), "overload": overload[1], "resident_mib": memory}
    write(options, __doc__, figures, details)


if __name__ == "__main__":
    main()
