"""Runs of `update_index` that are killed, each in a process of its own: forked, so that a kill costs milliseconds.

python killed_runs.py FOLDER PICTURES EVERY: tries every so many moments, from a random one on, and prints
``{"points": N, "last": CODE, "wrong": [...]}``.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock  # noqa: F401  here, and not in every child
import numpy as np
import torch
import usearch.index  # noqa: F401  likewise
from PIL import Image

from proclip.search import Encoder, filling, graph, indexing, update_index, upkeep
from proclip.search.catalogue import Catalogue
from proclip.search.vectors import append, mapped

RANDOM_KILLS = 8


def start(work: Callable[[], object]) -> int:
    """Run in a forked process; its number."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
    return child


def end(child: int) -> int:
    """Wait for it; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_a_child(work: Callable[[], object]) -> int:
    """Run in a forked process to the end."""
    return end(start(work))


def kill_at(point: int) -> None:
    """Die by SIGKILL at the n-th of the moments at which something on disk changes: before it, half way, after it."""
    passed = 0

    def moment() -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            moment()
            found = function(*arguments, **named)
            moment()
            return found

        return wrapped

    def torn_append(path: Path, vectors: np.ndarray, start: int) -> None:
        moment()
        append(path, vectors[: len(vectors) // 2], start)
        moment()
        append(path, vectors, start)
        moment()

    filling.append = indexing.append = torn_append  # type: ignore[assignment]
    for name in ("add_pictures", "add_files", "remove_files", "remove_pictures_without_file", "move_vectors"):
        setattr(Catalogue, name, around(getattr(Catalogue, name)))
    upkeep.remove_strays = around(upkeep.remove_strays)
    graph.Graph.save = around(graph.Graph.save)  # type: ignore[method-assign]
    graph.replacing = around(graph.replacing)  # type: ignore[attr-defined]


def content(index: Path) -> tuple[list[tuple[Any, ...]], np.ndarray, list[Any], list[str], set[int]]:
    """What an index holds, whatever its rows are numbered: files, vectors by file, unreadable, stray files, graph."""
    with Catalogue(index) as catalogue:
        rows = catalogue._db.execute(
            "SELECT path, sha256, width, height, taken, vector FROM files JOIN pictures ON picture = id ORDER BY path"
        ).fetchall()
        vectors = mapped(index / catalogue.fact("vectors"), catalogue.fact("rows"), catalogue.fact("dim"))
        facts, files = catalogue.fact("graph"), {catalogue.fact("vectors")}
        missing = 0
        if facts:
            files.add(facts["file"])
            opened = graph.Graph.open(index, graph.GraphFacts(**facts), catalogue.fact("dim"), view=True)
            missing = len(set(opened.ids.tolist()) ^ set(catalogue.vectors()[0].tolist()))
        strays = sorted(
            {path.name for path in index.iterdir() if path.name.strip(".")[:5] in ("vecto", "graph")} - files
        )
        return (
            [row[:-1] for row in rows],
            vectors[[row[-1] for row in rows]],
            catalogue.unreadable(99),
            strays,
            {missing},
        )


def differs(index: Path, wanted: Any) -> str:
    """What is not as it should be, '' for nothing."""
    found = content(index)
    for name, ours, theirs in zip(("files", "vectors", "unreadable", "strays", "graph"), found, wanted, strict=True):
        same = np.allclose(ours, theirs, atol=1e-5) if name == "vectors" else ours == theirs
        if not same:
            return f"{name}: {ours} for {theirs}"
    return ""


def tiny_model() -> Encoder:
    """Vectors of a picture's own pixels: nothing heavy is imported for it."""

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image.resize((4, 4)), dtype=np.float32)).flatten() - 128

    return Encoder(
        name=None, identity={"kind": "pixels"}, dim=48, prepare=prepare,
        encode_images=lambda prepared: torch.nn.functional.normalize(torch.stack(list(prepared)), dim=1),
        encode_texts=lambda texts: torch.ones(len(texts), 48),
    )  # fmt: skip


def main(folder: Path, pictures: Path, every: int) -> None:
    torch.set_num_threads(1)
    model = tiny_model()
    Image.init()  # like what else every child would do again
    filling.BATCH, filling.COMMIT_SECONDS = 3, 0.0
    before = folder / "before"
    in_a_child(lambda: update_index(before, [pictures / "old"], model, exact_numbers=0))
    (pictures / "old" / "0.png").unlink()
    (pictures / "old" / "1.png").rename(pictures / "new" / "moved.png")

    def update(index: Path) -> Callable[[], object]:
        return lambda: update_index(index, [pictures / "old", pictures / "new"], model, exact_numbers=0)

    def fresh(name: str) -> Path:
        return Path(shutil.copytree(before, folder / name))

    began = time.perf_counter()
    assert in_a_child(update(fresh("whole"))) == 0
    duration, wanted = time.perf_counter() - began, content(folder / "whole")
    wrong, point, code, points = [], random.randint(1 - every, 0), -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        point, points = point + every, points + 1
        index = fresh(f"point {point}")
        code = in_a_child(lambda index=index, point=point: (kill_at(point), update(index)()))  # type: ignore[misc]
        again = in_a_child(update(index))
        if again or differs(index, wanted):
            wrong.append(f"point {point}: {again} {differs(index, wanted)}")
    index = fresh("random")
    for _ in range(RANDOM_KILLS):
        child = start(update(index))
        time.sleep(random.random() * duration)
        os.kill(child, signal.SIGKILL)
        end(child)
    if in_a_child(update(index)) or differs(index, wanted):
        wrong.append(f"random: {differs(index, wanted)}")
    index = fresh("together")
    together = [start(update(index)) for _ in range(3)]
    codes = sorted(map(end, together))
    if codes[0] or set(codes) - {0, 2} or differs(index, wanted):
        wrong.append(f"together: {codes} {differs(index, wanted)}")
    print(json.dumps({"points": points - 1, "last": code, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
