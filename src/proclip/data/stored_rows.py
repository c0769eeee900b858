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
from .columns import ROWS_A_BATCH, batched
from .dataset import Samples
from .embed_plan import Skip
from .key_table import LOOKED_UP, Ints
from .mapped_file import PAGE, Layout, map_tensors
from .store import EmbeddingStore, caption_key
from .store_format import hash_of

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
    store and the data hold, and from its own content.

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
            for chunk in batched(own.captions(columns), LOOKED_UP if skip is None else ROWS_A_BATCH):
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

    def pictures(self, store: EmbeddingStore, samples: Samples, stamps: bool = False) -> Ints:
        """The row of every sample's picture, [n] int64; -1 where the store has none.

        Args:
            store: of the pictures' vectors.
            samples: n of them.
            stamps: whether the pictures are looked at: one that has changed since counts as absent.

        Raises:
            ProclipError: a picture is missing.
        """

        def look_up(own: Samples) -> Iterator[Ints]:
            for keys in batched(own.keys(), LOOKED_UP):
                yield store.look_up(keys).numpy()

        def compare(own: Samples) -> Iterator[Ints]:
            done = 0
            for chunk in batched(own):
                yield store.look_up([s.key for s in chunk], [s.stamp() for s in chunk]).numpy()
                done += len(chunk)
                if self._report is not None:
                    self._report(done, len(own))

        return self._rows(store, samples, 1, compare if stamps else look_up, _facts_of_pictures(samples, stamps))

    def has_pictures(self, store: EmbeddingStore, samples: Samples) -> bool:
        """Whether `pictures` was asked for these before, by this run."""
        name = _name(store, _facts_of_pictures(samples, stamps=False))
        return self.folder is not None and self._kept(name, _layout(samples, 1)) != ""

    def _rows(self, store: EmbeddingStore, samples: Samples, width: int, look_up: LookUp, facts: Sequence[str]) -> Ints:
        """What is kept, or looked up now: `width` rows a sample, which follow from store and facts."""
        if self.folder is None:
            return np.concatenate([np.empty(0, np.int64), *look_up(samples)])
        name, layout = _name(store, facts), _layout(samples, width)
        file = self._kept(name, layout) or self._write(name, layout, samples, width, look_up)
        try:
            return map_tensors(self.folder / file)[0][ROWS]
        except FileNotFoundError:
            raise ProclipError(f"{self.folder / file} is not seen by every process: share the run folder") from None

    def _kept(self, name: str, layout: Layout) -> str:
        """The file that holds the rows, whole; empty where there is none. The main process looks."""
        assert self.folder is not None
        found = ""
        if distributed.is_main():
            for path in self.folder.glob(f"{name}-*.safetensors"):
                if path.stat().st_size == layout.size and path.name == _with_hash(name, path):
                    found = path.name
        return distributed.from_main(found)

    def _write(self, name: str, layout: Layout, samples: Samples, width: int, look_up: LookUp) -> str:
        """Write the file, each process its share; its name."""
        assert self.folder is not None
        draft, file_name = self.folder / f".{name}.part", ""
        if distributed.is_main():
            make_folder(self.folder)
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
            file_name = _with_hash(name, draft)
            name_file(draft, self.folder / file_name)
        return distributed.from_main(file_name)


def _facts_of_pictures(samples: Samples, stamps: bool) -> Sequence[str]:
    return (samples.digest(()), "stamps of pictures" if stamps else "pictures")


def _layout(samples: Samples, width: int) -> Layout:
    """Of a file of `width` rows a sample."""
    return Layout.of({ROWS: ("I64", (len(samples) * width,))})


def _name(store: EmbeddingStore, facts: Sequence[str]) -> str:
    """Of what follows from a store's content and some facts."""
    return sha256(repr((store.manifest.state, store.identity, *facts)).encode()).hexdigest()[:16]


def _with_hash(name: str, path: Path) -> str:
    """The name of a file with this content."""
    return f"{name}-{hash_of(path)[:16]}.safetensors"


def _share(count: int) -> slice:
    """The samples that this process looks up, of `count`."""
    own = distributed.share(-(-count // ALIGNED))
    return slice(min(own.start * ALIGNED, count), min(own.stop * ALIGNED, count))
