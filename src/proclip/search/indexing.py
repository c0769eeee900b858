"""Bringing an index up to date: what is new is encoded, what is gone leaves, and a kill at any point loses little.

Vectors go to disk first, then the catalogue says so in one transaction; what it does not say does not count.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
from torch import Tensor

from ..data.ahead import ahead
from ..errors import ProclipError, one_line
from ..models.embedder import check_vectors
from ..models.hub import lasting_name
from ..models.proclip import ProCLIP
from . import graph as graphs
from .catalogue import Catalogue, NewPicture
from .encoder import Encoder, check_identity, of_proclip, open_encoder
from .nearest import EXACT_NUMBERS, Nearest
from .pictures import HEIC_EXTRA, PictureFile, content_hash, decode, is_left_out, walk
from .vectors import append, mapped

BATCH = 64
"""Pictures that the model sees at once; twice as many more wait, decoded and prepared."""
THREADS = min(16, os.cpu_count() or 1)
COMMIT_SECONDS = 5.0
"""What a killed run loses at most, beside the batch it was at."""
DEAD_ROWS = 0.25
"""Share of rows without a picture at which the vectors are written anew."""
LOCK = ".lock"
NAMED = 10
Progress = Callable[[str, int, int], None]
"""Called with ``pictures`` or ``graph``, how many are done, and how many there are."""


@dataclass(frozen=True)
class IndexReport:
    """What a run of `update_index` did."""

    pictures: int
    """In the index now; of files with the same content there is one."""
    files: int
    """In the index now."""
    encoded: int
    """Pictures that the model saw."""
    removed: int
    """Pictures that left: no file has them any more."""
    unreadable: int
    """Files that could not be read, now or by an earlier run."""
    first_unreadable: list[tuple[str, str]]
    """The first of them, with the reason."""
    left_out: int
    """HEIC files, without the extra."""
    seconds: float
    """All of it."""
    encoding_seconds: float
    """From the first picture read to the last vector on disk."""
    note: str = ""
    """What the user should know."""


def update_index(
    path: str | Path,
    folders: Sequence[str | Path] = (),
    model: str | ProCLIP | None = None,
    *,
    forget: Sequence[str | Path] = (),
    graph: graphs.Kind | None = None,
    device: str = "cpu",
    exact_numbers: int = EXACT_NUMBERS,
    progress: Progress = lambda kind, done, total: None,
) -> IndexReport:
    """Make an index, or bring it up to date.

    Files are known by path, size and time of change; one that is new or changed is read, and encoded unless a picture
    of the same content is there. Files that are there no more leave, below the folders of this run.

    Args:
        path: the index, a folder; made if it is not there.
        folders: of pictures; they stay in the index. Without any: all that are in it already.
        model: folder, hub id or a loaded model; may be left out for an index that is there.
        forget: folders to take out of the index.
        graph: numbers of the vectors that the graph is made of; as before (at first int8) if None.
        device: where the model computes.
        exact_numbers: numbers (pictures times width) above which a graph is made.
        progress: told of progress.

    Raises:
        ProclipError: another process is changing the index, a folder is missing, the model is not the index's, or files
            of the index are damaged. A picture that cannot be read is counted and does not stop the run.
    """
    index = Path(path).absolute()
    with _locked(index), warnings.catch_warnings(), Catalogue(index, write=True) as catalogue:
        warnings.filterwarnings("ignore", module="PIL")  # of odd files, by the thousand; what cannot be read is reported
        run = _Run(index, catalogue, model, device, progress)
        return run.update([_absolute(f) for f in folders], [_absolute(f) for f in forget], graph, exact_numbers)


@final
class _Run:
    def __init__(
        self, index: Path, catalogue: Catalogue, model: str | ProCLIP | None, device: str, progress: Progress
    ) -> None:
        self.index, self.catalogue, self.device, self.progress = index, catalogue, device, progress
        self.model = model if model is not None else catalogue.fact("model")
        self.new_index = catalogue.fact("identity") is None
        if self.model is None and self.new_index:
            raise ProclipError(f"{index} is a new index: say which model makes its vectors (--model)")
        if self.model is None:
            raise ProclipError(f"{index} was made with a model given as an object: give it again")
        self._encoder = self._opened() if model is not None else None

    def update(
        self, folders: list[str], forget: list[str], kind: graphs.Kind | None, exact_numbers: int
    ) -> IndexReport:
        start, catalogue = time.perf_counter(), self.catalogue
        self._forget(forget)
        with catalogue.changing():
            catalogue.add_folders(folders)
        chosen = folders or catalogue.folders
        unread, left_out = self._walk(chosen, asked=set(folders))
        encoding_start, encoded = time.perf_counter(), self._encode(catalogue.to_read())
        encoding_seconds = time.perf_counter() - encoding_start
        with catalogue.changing():
            catalogue.remove_files(catalogue.gone(chosen, not_below=[name for name, _ in unread]))
            removed = catalogue.remove_pictures_without_file()
        self._compact()
        note = self._update_graph(kind, exact_numbers)
        graphs.remove_strays(self.index, self._named_files())
        counts = catalogue.counts()
        return IndexReport(
            pictures=counts["pictures"],
            files=counts["files"],
            encoded=encoded,
            removed=removed,
            unreadable=counts["unreadable"] + len(unread),
            first_unreadable=[*unread, *catalogue.unreadable(NAMED)][:NAMED],
            left_out=left_out,
            seconds=time.perf_counter() - start,
            encoding_seconds=encoding_seconds,
            note=note,
        )

    def _opened(self) -> Encoder:
        assert self.model is not None
        model, known = self.model, self.catalogue.fact("identity")
        encoder = of_proclip(model) if isinstance(model, ProCLIP) else open_encoder(model, self.device)
        if known is not None:
            check_identity(encoder, known, self.catalogue.fact("model"), self.index)
        with self.catalogue.changing():
            for name, value in (("identity", dict(encoder.identity)), ("dim", encoder.dim), ("model", encoder.name)):
                if value is not None:
                    self.catalogue.set_fact(name, value)
            if known is None:
                self.catalogue.set_fact("vectors", "vectors-0.f32")
                self.catalogue.set_fact("rows", 0)
        return encoder

    @property
    def encoder(self) -> Encoder:
        """Loaded when the first picture is to be encoded."""
        if self._encoder is None:
            self._encoder = self._opened()
        return self._encoder

    def _forget(self, folders: list[str]) -> None:
        for folder in folders:
            if folder not in self.catalogue.folders:
                known = ", ".join(self.catalogue.folders) or "none"
                raise ProclipError(f"{folder} is not a folder of the index; those are: {known}")
            with self.catalogue.changing():
                self.catalogue.remove_folder(folder)

    def _walk(self, folders: list[str], asked: set[str]) -> tuple[list[tuple[str, str]], int]:
        """See all files; what could not be read on the way, and how many are left out for want of the extra.

        Raises:
            ProclipError: a folder is missing, or has no picture where the index has some: a drive that is not mounted
                must not empty the index.
        """
        unread: list[tuple[str, str]] = []
        left_out = 0

        def files(folder: str) -> Iterator[PictureFile]:
            nonlocal left_out
            for file in walk(folder, str(self.index), lambda name, reason: unread.append((name, reason))):
                if is_left_out(file.path):
                    left_out += 1
                else:
                    yield file

        for folder in folders:
            if not os.path.isdir(folder):
                hint = "" if folder in asked else "; if it is gone for good: proclip index --forget FOLDER"
                raise ProclipError(f"the folder {folder} is missing{hint}")
        self.catalogue.see(file for folder in folders for file in files(folder))
        for folder in folders:
            if not self.catalogue.count_seen(folder) and (known := self.catalogue.count_files(folder)):
                raise ProclipError(
                    f"{folder} has no picture now, and the index has {known:,} of it: is its drive mounted? To take the "
                    f"folder out: proclip index --forget {folder}"
                )
        return unread, left_out

    def _encode(self, files: list[PictureFile]) -> int:
        """Read and encode what is new; the number of pictures encoded."""
        if not files:
            return 0
        writer = _Writer(self.index, self.catalogue, self.encoder)
        pool = ThreadPoolExecutor(THREADS)
        try:
            claimed: set[str] = set()
            reads = ahead(pool, _read, files, 2 * THREADS)
            claims = (self._claim(read, claimed) for read in reads)
            for done, item in enumerate(ahead(pool, self._prepare, claims, 2 * BATCH), 1):
                writer.add(item)
                self.progress("pictures", done, len(files))
            writer.finish()
        finally:
            pool.shutdown(cancel_futures=True)
        return writer.encoded

    def _claim(self, read: _Item, claimed: set[str]) -> _Item:
        """The same, without content where a picture of it is known or on its way."""
        if read.reason:
            return read
        if read.sha256 in claimed or self.catalogue.has_content(read.sha256):
            return replace(read, content=b"")
        claimed.add(read.sha256)
        return read

    def _prepare(self, item: _Item) -> _Item:
        if not item.content:
            return item
        try:
            picture = decode(item.content, Path(item.file.path).name)
            pixels = self.encoder.prepare(picture.image)
        except (ProclipError, ValueError, OSError, MemoryError) as error:
            return replace(item, content=b"", reason=one_line(error))
        width, height = picture.image.size
        about = NewPicture(item.sha256, -1, width, height, picture.taken)
        return replace(item, content=b"", pixels=pixels, picture=about)

    def _compact(self) -> None:
        """Write the vectors anew, in the order of the pictures, where many rows are of none."""
        rows, (ids, places) = int(self.catalogue.fact("rows") or 0), self.catalogue.vectors()
        if rows - len(ids) <= max(DEAD_ROWS * rows, 1):
            return
        old, dim = str(self.catalogue.fact("vectors")), int(self.catalogue.fact("dim"))
        name = f"vectors-{int(old.removesuffix('.f32').rsplit('-', 1)[1]) + 1}.f32"
        vectors = mapped(self.index / old, rows, dim)
        append(self.index / name, vectors[:0], 0)
        for start in range(0, len(ids), 1 << 16):
            append(self.index / name, vectors[places[start : start + (1 << 16)]], start)
        with self.catalogue.changing():
            self.catalogue.move_vectors(ids)
            self.catalogue.set_fact("vectors", name)
            self.catalogue.set_fact("rows", len(ids))

    def _update_graph(self, kind: graphs.Kind | None, exact_numbers: int) -> str:
        """Bring the graph up to date, and measure its recall; what the user should know."""
        catalogue, dim = self.catalogue, int(self.catalogue.fact("dim") or 0)
        before = catalogue.fact("graph")
        facts = graphs.GraphFacts(**before) if before else None
        wanted: graphs.Kind = kind or catalogue.fact("graph_kind") or "int8"
        if wanted != catalogue.fact("graph_kind"):
            with catalogue.changing():
                catalogue.set_fact("graph_kind", wanted)
        ids, rows = catalogue.vectors()
        if len(ids) * dim <= exact_numbers:
            with catalogue.changing():
                catalogue.set_fact("graph", None)
            return ""
        if not graphs.installed():
            return (
                f"{len(ids):,} pictures are many to compare each time a query comes: {graphs.EXTRA}, then run proclip "
                "index again, which makes a graph for it"
            )
        vectors = mapped(self.index / str(catalogue.fact("vectors")), int(catalogue.fact("rows")), dim)
        serial = int(catalogue.fact("graph_serial") or 0)

        def keep(graph: graphs.Graph) -> None:
            nonlocal serial
            serial += 1
            saved = graph.save(self.index, f"graph-{serial}.usearch")
            with catalogue.changing():
                catalogue.set_fact("graph", saved.to_json())
                catalogue.set_fact("graph_serial", serial)
            graphs.remove_strays(self.index, self._named_files())

        old = self._old_graph(facts, dim)
        graphs.brought_up(
            old, wanted, ids, lambda places: np.array(vectors[rows[places]]), dim, keep,
            lambda done, total: self.progress("graph", done, total),
        )  # fmt: skip
        kept = graphs.GraphFacts(**catalogue.fact("graph"))
        if not kept.recall:
            recall = Nearest.open(self.index, catalogue).recall()
            with catalogue.changing():
                catalogue.set_fact("graph", replace(kept, recall=recall).to_json())
        return ""

    def _old_graph(self, facts: graphs.GraphFacts | None, dim: int) -> graphs.Graph | None:
        try:
            return graphs.Graph.open(self.index, facts, dim, view=False) if facts is not None else None
        except ProclipError:  # it is only made anew
            return None

    def _named_files(self) -> set[str]:
        graph = self.catalogue.fact("graph")
        return {str(self.catalogue.fact("vectors")), *([graph["file"]] if graph else [])}


@dataclass(frozen=True)
class _Item:
    """A file on its way into the index."""

    file: PictureFile
    content: bytes = b""
    """Until it is decoded; empty where there is no need."""
    sha256: str = ""
    reason: str = ""
    """Why it cannot be read."""
    pixels: Tensor | None = None
    picture: NewPicture | None = None


def _read(file: PictureFile) -> _Item:
    try:
        content = Path(file.path).read_bytes()
    except OSError as error:
        return _Item(file, reason=str(error.strerror))
    return _Item(file, content, content_hash(content)) if content else _Item(file, reason="the file is empty")


@final
class _Writer:
    """Takes prepared pictures in the order of their files, encodes them in batches, and commits now and then."""

    def __init__(self, index: Path, catalogue: Catalogue, encoder: Encoder) -> None:
        self.catalogue, self.encoder, self.encoded = catalogue, encoder, 0
        self.rows, self.path = int(catalogue.fact("rows")), index / str(catalogue.fact("vectors"))
        self._items: list[_Item] = []
        self._batch: list[_Item] = []
        self._vectors: list[Tensor] = []
        self._pictures: list[NewPicture] = []
        self._faults: dict[str, str] = {}
        self._committed = time.monotonic()

    def add(self, item: _Item) -> None:
        """Take one; encode a batch when there is one."""
        self._items.append(replace(item, pixels=None))
        if item.reason and item.sha256:
            self._faults[item.sha256] = item.reason
        if item.pixels is not None:
            self._batch.append(item)
        if len(self._batch) == BATCH:
            self._encode()
        if not self._batch and (time.monotonic() - self._committed > COMMIT_SECONDS):
            self._commit()

    def finish(self) -> None:
        """Encode and commit what waits."""
        if self._batch:
            self._encode()
        self._commit()

    def _encode(self) -> None:
        pixels = [item.pixels for item in self._batch if item.pixels is not None]
        vectors = self.encoder.encode_images(pixels)
        check_vectors(vectors, [item.file.path for item in self._batch])
        for item in self._batch:
            assert item.picture is not None
            self._pictures.append(item.picture._replace(vector=self.rows + len(self._pictures)))
        self._vectors.append(vectors)
        self._batch = []

    def _commit(self) -> None:
        if self._vectors:
            append(self.path, np.concatenate([part.numpy() for part in self._vectors]), self.rows)
        there, faults = list[tuple[PictureFile, str]](), list[tuple[PictureFile, str]]()
        for item in self._items:
            reason = item.reason or self._faults.get(item.sha256, "")
            faults += [(item.file, reason)] if reason else []
            there += [(item.file, item.sha256)] if not reason else []
        with self.catalogue.changing():
            self.catalogue.add_pictures(self._pictures)
            self.catalogue.add_files(there)
            self.catalogue.add_unreadable(faults)
            self.catalogue.set_fact("rows", self.rows + len(self._pictures))
        self.rows += len(self._pictures)
        self.encoded += len(self._pictures)
        self._items, self._vectors, self._pictures, self._committed = [], [], [], time.monotonic()


@contextmanager
def _locked(index: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    if index.exists() and not index.is_dir():
        raise ProclipError(f"{index} is a file: an index is a folder")
    index.mkdir(parents=True, exist_ok=True)
    lock = FileLock(index / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ProclipError(f"another process is changing the index {index}: wait for its end") from None
    try:
        yield
    finally:
        lock.release()


def _absolute(folder: str | Path) -> str:
    return os.path.abspath(os.path.expanduser(folder))
