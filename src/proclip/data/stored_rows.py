"""Which row of a store each caption or picture has: looked up and compared once a run, by all processes, and kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import final

import numpy as np

from .. import distributed
from ..errors import ProclipError
from ..files import make_folder, name_file
from .columns import batched
from .dataset import Samples
from .embed_plan import Skip
from .key_table import Ints
from .mapped_file import PAGE, Layout, map_tensors
from .store import EmbeddingStore, caption_key

Report = Callable[[int, int], None]
"""Called with captions looked up, and all that this process looks up."""
LookUp = Callable[[Samples], Iterator[Ints]]
"""Rows of some samples, bit by bit."""
ROWS = "rows"
ALIGNED = PAGE // np.dtype(np.int64).itemsize
"""Samples whose rows are whole pages of the file, so that no two processes write into one."""


@final
class StoredRows:
    """Finds rows in stores, and refuses captions that were not embedded or have changed since.

    Hashing thirty million captions takes minutes. So each process looks up its share of the samples and writes it into
    a file in `folder`, which all of them map; a run that goes on finds it there. The file's name follows from what the
    store and the data hold.

    Args:
        folder: that every process sees; None: in memory, and every process looks up all.
        report: called now and then by every process.
    """

    def __init__(self, folder: Path | None = None, report: Report | None = None) -> None:
        self.folder, self._report = folder, report

    def captions(
        self, store: EmbeddingStore, samples: Samples, columns: Sequence[str], skip: Skip | None = None
    ) -> Ints:
        """The row of every caption: of sample i in column j at i c + j, of c columns; [n c] int64.

        Args:
            store: of the captions' vectors.
            samples: n of them.
            columns: c caption columns; every sample has a text in each.
            skip: which of some texts are not looked up: -1 stands for their rows.

        Raises:
            ProclipError: a caption is not in the store, or another text was embedded under its key.
        """

        def look_up(own: Samples) -> Iterator[Ints]:
            done, total = 0, len(own) * len(columns)
            for chunk in batched(own.captions(columns)):
                keys = [caption_key(key, column) for key, column, _ in chunk]
                texts = [text or "" for _, _, text in chunk]
                left_out = np.zeros(len(chunk), dtype=bool) if skip is None else np.asarray(skip(texts), dtype=bool)
                rows, wanted = np.full(len(chunk), -1), np.flatnonzero(~left_out).tolist()
                if wanted:
                    rows[wanted] = store.find([keys[n] for n in wanted], [texts[n] for n in wanted]).numpy()
                yield rows
                done += len(chunk)
                if self._report is not None:
                    self._report(done, total)

        facts = (samples.digest(columns), *columns, "all" if skip is None else "some")
        return self._rows(store, samples, len(columns), look_up, facts)

    def pictures(self, store: EmbeddingStore, samples: Samples) -> Ints:
        """The row of every sample's picture, [n] int64; -1 where the store has none."""

        def look_up(own: Samples) -> Iterator[Ints]:
            for keys in batched(own.keys()):
                yield store.look_up(keys).numpy()

        return self._rows(store, samples, 1, look_up, (samples.digest(()), "pictures"))

    def _rows(self, store: EmbeddingStore, samples: Samples, width: int, look_up: LookUp, facts: Sequence[str]) -> Ints:
        """What is kept, or looked up now: `width` rows a sample, which follow from store and facts."""
        if self.folder is None:
            return np.concatenate([np.empty(0, np.int64), *look_up(samples)])
        name = sha256(repr((store.manifest.state, *facts)).encode()).hexdigest()[:16]
        path, count = self.folder / f"{name}.safetensors", len(samples) * width
        if not distributed.from_main(_kept(path, count) is not None):
            _write(path, samples, width, look_up)
        rows = _kept(path, count)
        if rows is None:
            raise ProclipError(f"{path} cannot be read on every process: the run folder must be a shared one")
        return rows


def _write(path: Path, samples: Samples, width: int, look_up: LookUp) -> None:
    """Write the file, each process its share."""
    layout = Layout.of({ROWS: ("I64", (len(samples) * width,))})
    draft = path.with_name(f".{path.name}.part")
    if distributed.is_main():
        make_folder(path.parent)
        layout.create(draft)
    distributed.barrier()
    own = _share(len(samples))
    place, file = own.start * width, os.open(draft, os.O_WRONLY)
    try:
        for rows in look_up(samples[own]):
            layout.write_rows(file, ROWS, place, rows)
            place += len(rows)
        os.fsync(file)
    finally:
        os.close(file)
    distributed.barrier()
    if distributed.is_main():
        name_file(draft, path)
    distributed.barrier()


def _share(count: int) -> slice:
    """The samples that this process looks up, of `count`."""
    units, number, world = -(-count // ALIGNED), distributed.rank(), distributed.world_size()
    first, last = (units * one // world * ALIGNED for one in (number, number + 1))
    return slice(min(first, count), min(last, count))


def _kept(path: Path, count: int) -> Ints | None:
    """What a file holds; None where there is none, or it is damaged."""
    try:
        rows = map_tensors(path)[0][ROWS]
    except (FileNotFoundError, ProclipError, KeyError):
        return None
    return rows if rows.shape == (count,) else None
