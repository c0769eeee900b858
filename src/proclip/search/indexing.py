"""Bringing an index up to date: what is new is encoded, what is gone leaves, and a kill at any point loses little."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ..errors import ProclipError
from .catalogue import Catalogue
from .encoder import Encoder, Model, check_identity, encoder_of
from .filling import encode_files
from .graph import Kind
from .nearest import EXACT_NUMBERS
from .pictures import PictureFile, is_left_out, walk
from .upkeep import remove_strays, update_graph
from .vectors import append, mapped

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
    model: Model | None = None,
    *,
    forget: Sequence[str | Path] = (),
    graph: Kind | None = None,
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
        model: folder, hub id, a loaded `ProCLIP`, or any `Encoder`; may be left out for an index that is there.
        forget: folders to take out of the index.
        graph: numbers of the vectors that the graph is made of; as before (at first int8) if None.
        device: where the model computes.
        exact_numbers: numbers (pictures times width) above which a graph is made.
        progress: told of progress.

    Raises:
        ProclipError: another process is changing the index, a folder is missing, the model is not the index's, or files
            of the index are damaged. A picture that cannot be read is counted and does not stop the run.
    """
    index = Path(path).resolve()
    with _locked(index), warnings.catch_warnings(), Catalogue(index, write=True) as catalogue:
        warnings.filterwarnings(
            "ignore", module="PIL"
        )  # of odd files, by the thousand; what cannot be read is reported
        run = _Run(index, catalogue, model, device, progress)
        return run.update([_absolute(f) for f in folders], [_absolute(f) for f in forget], graph, exact_numbers)


@final
class _Run:
    def __init__(self, index: Path, catalogue: Catalogue, model: Model | None, device: str, progress: Progress) -> None:
        self.index, self.catalogue, self.device, self.progress = index, catalogue, device, progress
        self.model = model if model is not None else catalogue.fact("model")
        self.new_index = catalogue.fact("identity") is None
        if self.model is None and self.new_index:
            raise ProclipError(f"{index} is a new index: say which model makes its vectors (--model)")
        if self.model is None:
            raise ProclipError(f"{index} was made with a model given as an object: give it again")
        self._given = model is not None
        self._encoder: Encoder | None = None

    def update(self, folders: list[str], forget: list[str], kind: Kind | None, exact_numbers: int) -> IndexReport:
        start, catalogue = time.perf_counter(), self.catalogue
        chosen = self._chosen(folders, forget)
        if self._given:
            self._encoder = self._opened()
        unread, left_out = self._walk(chosen)
        with catalogue.changing():
            for folder in forget:
                catalogue.remove_folder(folder)
            catalogue.add_folders(folders)
        encoding_start, encoded = time.perf_counter(), self._encode(catalogue.to_read())
        encoding_seconds = time.perf_counter() - encoding_start
        with catalogue.changing():
            catalogue.remove_files(catalogue.gone(chosen, not_below=[name for name, _ in unread]))
            removed = catalogue.remove_pictures_without_file()
        self._compact()
        note = update_graph(
            self.index, catalogue, kind, exact_numbers, lambda done, total: self.progress("graph", done, total)
        )
        remove_strays(self.index, catalogue)
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
        encoder = encoder_of(model, self.device)
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

    def _chosen(self, folders: list[str], forget: list[str]) -> list[str]:
        """The folders of this run: those that are asked for, else all that stay in the index.

        Raises:
            ProclipError: one of them is missing or a file, or one to forget is not of the index.
        """
        known = self.catalogue.folders
        for folder in forget:
            if folder not in known:
                raise ProclipError(f"{folder} is not a folder of the index; those are: {', '.join(known) or 'none'}")
        for folder in (chosen := folders or [folder for folder in known if folder not in forget]):
            if Path(folder).is_file():
                raise ProclipError(f"{folder} is a file, a folder is wanted")
            if not Path(folder).is_dir():
                hint = "" if folder in folders else f"; if it is gone for good: proclip index --forget {folder}"
                raise ProclipError(f"the folder {folder} is missing{hint}")
        return chosen

    def _walk(self, folders: list[str]) -> tuple[list[tuple[str, str]], int]:
        """See all files; what could not be read on the way, and how many are left out for want of the extra.

        Raises:
            ProclipError: a folder has no picture where the index has some: a drive that is not mounted must not empty
                the index.
        """
        unread, left_out, present = list[tuple[str, str]](), set[str](), set[str]()

        def files(folder: str) -> Iterator[PictureFile]:
            for file in walk(folder, str(self.index), lambda name, reason: unread.append((name, reason))):
                present.add(folder)
                if is_left_out(file.path):
                    left_out.add(file.path)
                else:
                    yield file

        self.catalogue.see(file for folder in folders for file in files(folder))
        self.catalogue.see_unchanged(left_out)
        for folder in folders:
            if folder not in present and (known := self.catalogue.count_files(folder)):
                raise ProclipError(
                    f"{folder} has no picture now, and the index has {known:,} of it: is its drive mounted? To take "
                    f"the folder out: proclip index --forget {folder}"
                )
        return unread, len(left_out)

    def _encode(self, files: list[PictureFile]) -> int:
        if not files:
            return 0
        told = lambda done, total: self.progress("pictures", done, total)  # noqa: E731
        return encode_files(self.index, self.catalogue, self.encoder, files, told)

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
    return str(Path(folder).expanduser().resolve())
