"""The catalogue of an index: SQLite with a write-ahead log. What it says is committed counts, nothing else."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self, final

import numpy as np

from ..errors import ProclipError
from .pictures import PictureFile
from .vectors import Numbers

NAME = "catalogue.sqlite"
FORMAT_VERSION = 1
BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE folders (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sha256 TEXT NOT NULL UNIQUE,
    vector INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    taken TEXT
);
CREATE TABLE files (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    picture INTEGER NOT NULL REFERENCES pictures (id)
) WITHOUT ROWID;
CREATE INDEX files_picture ON files (picture);
CREATE TABLE unreadable (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
"""


class NewPicture(NamedTuple):
    """A picture that was encoded."""

    sha256: str
    vector: int
    width: int
    height: int
    taken: str | None


class Found(NamedTuple):
    """A picture as a hit shows it."""

    id: int
    paths: tuple[str, ...]
    width: int
    height: int
    taken: datetime


class Filter(NamedTuple):
    """Which files may be found."""

    after: str | None = None
    """Taken then or later, as a prefix of ``2024-05-31T18:20:05``."""
    before: str | None = None
    """Taken earlier."""
    folder: str | None = None
    """Below that folder; absolute."""

    @property
    def sql(self) -> tuple[str, list[str | int]]:
        """A condition on ``files`` joined with ``pictures``, and its values."""
        terms, values = ["TRUE"], list[str | int]()
        for moment, sign in ((self.after, ">="), (self.before, "<")):
            if moment is not None:
                terms.append(f"(CASE WHEN taken IS NULL THEN mtime_ns {sign} ? ELSE taken {sign} ? END)")
                values += [_nanoseconds(moment), moment]
        if self.folder is not None:
            terms.append(_BELOW.format("files.path"))
            values += _span(self.folder)
        return " AND ".join(terms), values


@final
class Catalogue:
    """Files, pictures and facts of one index.

    A file is of one picture; files with the same content are of the same one. A picture has one row among the vectors.

    Args:
        folder: of the index.
        write: whether it may change; made if it is not there. Only who holds the index's lock may.

    Raises:
        ProclipError: there is no index (or a damaged one, or of another version) to read.
    """

    def __init__(self, folder: Path, write: bool = False) -> None:
        self.folder, path = folder, folder / NAME
        if not write and not path.is_file():
            raise ProclipError(f"{folder} is no index: {NAME} is missing; make one: proclip index FOLDER --model MODEL")
        self._db = _connect(path, write)
        with self._explained():
            if write and not self._db.execute("PRAGMA user_version").fetchone()[0]:
                with self.changing():
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found != FORMAT_VERSION:
            raise ProclipError(f"{path}: format version {found}, this code reads {FORMAT_VERSION}")

    def close(self) -> None:
        """Close the file; the last to close it puts the log into it."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ProclipError(f"{self.folder / NAME}: {error}") from None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction: all of the block's changes or none."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is read in the block is of one moment, whatever another process commits."""
        with self._explained():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    @property
    def version(self) -> int:
        """Changes whenever another process has committed."""
        with self._explained():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    # facts

    def fact(self, name: str) -> Any:
        """A JSON value, None where there is none."""
        with self._explained():
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_fact(self, name: str, value: Any) -> None:
        """Keep a JSON value; None takes it away. Within `changing`."""
        if value is None:
            self._db.execute("DELETE FROM facts WHERE name = ?", (name,))
        else:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    @property
    def folders(self) -> list[str]:
        """Folders whose pictures are here."""
        with self._explained():
            return [row[0] for row in self._db.execute("SELECT path FROM folders ORDER BY path")]

    def add_folders(self, folders: Iterable[str]) -> None:
        """Within `changing`."""
        self._db.executemany("INSERT OR IGNORE INTO folders VALUES (?)", ((folder,) for folder in folders))

    def counts(self) -> dict[str, int]:
        """Of pictures with a file, files and unreadable files."""
        of = {"pictures": "DISTINCT picture) FROM files", "files": "*) FROM files", "unreadable": "*) FROM unreadable"}
        with self._explained():
            return {name: self._db.execute(f"SELECT COUNT({what}").fetchone()[0] for name, what in of.items()}

    # what a walk saw

    def see(self, files: Iterable[PictureFile]) -> None:
        """Keep what a walk sees for the methods below, as long as this is open."""
        with self._explained():
            self._db.execute(
                "CREATE TEMP TABLE IF NOT EXISTS seen "
                "(path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID"
            )
            rows = ((file.path, file.size, file.mtime_ns) for file in files)
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def see_unchanged(self, paths: Iterable[str]) -> None:
        """Files that a walk saw and that cannot be read now: those that are here count as seen, as they were."""
        sql = "INSERT OR REPLACE INTO seen SELECT path, size, mtime_ns FROM files WHERE path = ?"
        with self._explained():
            self._db.executemany(sql, ((path,) for path in paths))

    def count_files(self, folder: str) -> int:
        """How many files below a folder are here."""
        sql = f"SELECT COUNT(*) FROM files WHERE {_BELOW.format('path')}"
        with self._explained():
            return int(self._db.execute(sql, _span(folder)).fetchone()[0])

    def to_read(self) -> list[PictureFile]:
        """Files seen that are new, or whose size or time has changed; in the order of their paths."""
        known = "path = seen.path AND size = seen.size AND mtime_ns = seen.mtime_ns"
        with self._explained():
            rows = self._db.execute(
                f"SELECT path, size, mtime_ns FROM seen WHERE NOT EXISTS (SELECT 1 FROM files WHERE {known}) "
                f"AND NOT EXISTS (SELECT 1 FROM unreadable WHERE {known}) ORDER BY path"
            )
            return [PictureFile(*row) for row in rows]

    def gone(self, folders: Sequence[str], not_below: Sequence[str] = ()) -> list[str]:
        """Files here or unreadable, below some folders, that were not seen; but none below `not_below`."""
        found: set[str] = set()
        with self._explained():
            for table in ("files", "unreadable"):
                for folder in folders:
                    below = _BELOW.format("path")
                    sql = f"SELECT path FROM {table} WHERE {below} AND path NOT IN (SELECT path FROM seen)"
                    found.update(row[0] for row in self._db.execute(sql, _span(folder)))
        return sorted(path for path in found if not any(_is_below(path, folder) for folder in not_below))

    # changes, within `changing`

    def add_pictures(self, pictures: Iterable[NewPicture]) -> None:
        """Pictures whose vectors are on disk."""
        sql = "INSERT INTO pictures (sha256, vector, width, height, taken) VALUES (?, ?, ?, ?, ?)"
        self._db.executemany(sql, pictures)

    def add_files(self, files: Iterable[tuple[PictureFile, str]]) -> None:
        """Files, each with the hash of its content, whose picture is here."""
        for file, sha256 in files:
            row = (file.path, file.size, file.mtime_ns, sha256)
            self._db.execute("INSERT OR REPLACE INTO files SELECT ?, ?, ?, id FROM pictures WHERE sha256 = ?", row)
            self._db.execute("DELETE FROM unreadable WHERE path = ?", (file.path,))

    def add_unreadable(self, files: Iterable[tuple[PictureFile, str]]) -> None:
        """Files with the reason why they cannot be read."""
        for file, reason in files:
            row = (file.path, file.size, file.mtime_ns, reason)
            self._db.execute("INSERT OR REPLACE INTO unreadable VALUES (?, ?, ?, ?)", row)
            self._db.execute("DELETE FROM files WHERE path = ?", (file.path,))

    def remove_files(self, paths: Iterable[str]) -> None:
        """Files that are there no more."""
        for path in paths:
            self._db.execute("DELETE FROM files WHERE path = ?", (path,))
            self._db.execute("DELETE FROM unreadable WHERE path = ?", (path,))

    def remove_folder(self, folder: str) -> None:
        """A folder and all that is below it, but what another folder here holds."""
        self._db.execute("DELETE FROM folders WHERE path = ?", (folder,))
        kept = [other for other in self.folders if _is_below(other, folder) or _is_below(folder, other)]
        for table in ("files", "unreadable"):
            paths = [
                row[0]
                for row in self._db.execute(f"SELECT path FROM {table} WHERE {_BELOW.format('path')}", _span(folder))
            ]
            gone = [(path,) for path in paths if not any(_is_below(path, other) for other in kept)]
            self._db.executemany(f"DELETE FROM {table} WHERE path = ?", gone)

    def remove_pictures_without_file(self) -> int:
        """How many pictures left."""
        sql = "DELETE FROM pictures WHERE id NOT IN (SELECT picture FROM files)"
        return self._db.execute(sql).rowcount

    def move_vectors(self, ids: Numbers) -> None:
        """The vector of the n-th of these pictures is now row n."""
        self._db.executemany("UPDATE pictures SET vector = ? WHERE id = ?", enumerate(map(int, ids)))

    # questions

    def has_content(self, sha256: str) -> bool:
        """Whether a picture of that content is here."""
        with self._explained():
            return self._db.execute("SELECT 1 FROM pictures WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def vectors(self) -> tuple[Numbers, Numbers]:
        """Pictures with a file by id, ascending, and their rows among the vectors.

        Those without one wait for the end of the run that took their last file, or for the next run.
        """
        sql = "SELECT id, vector FROM pictures WHERE EXISTS (SELECT 1 FROM files WHERE picture = id) ORDER BY id"
        with self._explained():
            found = self._db.execute(sql).fetchall()
        both = np.array(found, dtype=np.int64).reshape(-1, 2)
        return both[:, 0].copy(), both[:, 1].copy()

    def picture_at(self, path: str, size: int, mtime_ns: int) -> int | None:
        """The picture in a file, None where the file is not here or has changed."""
        sql = "SELECT picture FROM files WHERE path = ? AND size = ? AND mtime_ns = ?"
        with self._explained():
            row = self._db.execute(sql, (path, size, mtime_ns)).fetchone()
        return int(row[0]) if row else None

    def matching(self, wanted: Filter) -> Numbers:
        """Pictures with a file that may be found, by id, ascending."""
        terms, values = wanted.sql
        dated = "JOIN pictures ON picture = id" if wanted.after or wanted.before else ""
        sql = f"SELECT picture FROM files {dated} WHERE {terms}"
        with self._explained():
            rows = self._db.execute(sql, values)
            return np.unique(np.fromiter((row[0] for row in rows), dtype=np.int64))

    def found(self, picture: int, wanted: Filter) -> Found | None:
        """A picture with those of its files that may be found, in order; None where there is none (any more)."""
        terms, values = wanted.sql
        sql = (
            "SELECT path, width, height, taken, mtime_ns FROM files JOIN pictures ON picture = id "
            f"WHERE picture = ? AND {terms} ORDER BY path"
        )
        with self._explained():
            rows = self._db.execute(sql, [picture, *values]).fetchall()
        if not rows:
            return None
        _, width, height, taken, mtime_ns = rows[0]
        moment = datetime.fromisoformat(taken) if taken else datetime.fromtimestamp(mtime_ns // 10**9)
        return Found(picture, tuple(row[0] for row in rows), width, height, moment)

    def unreadable(self, most: int) -> list[tuple[str, str]]:
        """The first files that cannot be read, with the reason."""
        with self._explained():
            return self._db.execute("SELECT path, reason FROM unreadable ORDER BY path LIMIT ?", (most,)).fetchall()


_BELOW = "{0} >= ? AND {0} < ?"


def _span(folder: str) -> tuple[str, str]:
    """Paths below a folder are from the first of these to before the second."""
    stem = folder.rstrip(os.sep)
    return stem + os.sep, stem + chr(ord(os.sep) + 1)


def _nanoseconds(moment: str) -> int:
    """Since the epoch, of the beginning of a local date such as ``2024-05``; within what SQLite holds."""
    when = datetime.fromisoformat(moment + "0000-01-01T00:00:00"[len(moment) :])
    try:
        seconds = int(when.timestamp())
    except (ValueError, OverflowError, OSError):  # years that the system's clock does not know
        seconds = (when - datetime(1970, 1, 1)) // timedelta(seconds=1)
    return max(-(2**63), min(seconds * 10**9, 2**63 - 1))


def _is_below(path: str, folder: str) -> bool:
    first, end = _span(folder)
    return first <= path < end


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    modes = ["mode=rwc"] if write else ["mode=ro", "mode=ro&immutable=1"]  # the last: on a medium that is read-only
    for mode in modes:
        try:
            db = sqlite3.connect(
                f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
            db.execute("PRAGMA schema_version")
            if write:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
            return db
        except sqlite3.OperationalError as error:
            if mode == modes[-1]:
                raise ProclipError(f"{path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise ProclipError(f"{path}: {error}") from None
    raise AssertionError
