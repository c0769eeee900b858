"""An index that is searched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import torch
from PIL.Image import Image

from ..errors import ProclipError
from ..models.inputs import texts_of
from ..models.weighted_query import check_wanted
from .catalogue import Catalogue, Filter, Found
from .encoder import Encoder, Model, check_identity, encoder_of, open_encoder
from .nearest import Nearest
from .pictures import read, thumbnail
from .query import (
    Minus,
    PictureLike,
    Pictures,
    Texts,
    check_count,
    check_near,
    filter_of,
    parts_of,
    path_of,
    query_vector,
)
from .vectors import DECIMALS, Floats, Numbers

NEAR = 100
"""How many pictures are near to one, for ``near``."""
ATTEMPTS = 5
_ALL = Filter()


@dataclass(frozen=True)
class Hit:
    """A picture that was found."""

    id: int
    """Of the picture in its index; it stays as long as a file of its content is there."""
    path: Path
    """The first of its files, in the order of their paths, that the filters let through."""
    score: float
    """Cosine with the query, in [-1, 1], to six decimals."""
    width: int
    """Pixels, of the upright picture."""
    height: int
    """Likewise."""
    taken: datetime
    """EXIF's DateTimeOriginal, else the file's time of change; local time."""
    copies: tuple[Path, ...] = ()
    """Other files with the same content that the filters let through."""

    def thumbnail(self, side: int = 256) -> bytes:
        """A PNG that fits into a square of so many pixels, of the first of the files that can be read.

        Raises:
            ProclipError: the file and its copies are gone or are no pictures any more.
        """
        fault: ProclipError | None = None
        for path in (self.path, *self.copies):
            try:
                return thumbnail(read(path, at_least=side).image, side)
            except ProclipError as error:
                fault = fault or error
        assert fault is not None
        raise fault


@final
class Index:
    """An index that is searched, from any number of threads; it sees what ``proclip index`` does to it meanwhile.

    `open` makes one. Use it as a context manager, or `close` it.
    """

    def __init__(self, path: Path, model: Model | None, device: str) -> None:
        self.path, self.device = path, device
        self._name = str(model) if isinstance(model, (str, Path)) else None
        self._encoder: Encoder | None = None
        self._lock = threading.RLock()
        self._catalogue = Catalogue(path)
        self._version = -1
        self._matched: tuple[Filter, Numbers] | None = None  # of the last filter: asked again with each letter typed
        try:
            if model is not None and self._name is None:
                self._encoder = self._checked(lambda: encoder_of(model))
            self._nearest = self._current()
        except BaseException:
            self._catalogue.close()
            raise

    @classmethod
    def open(cls, path: str | Path, model: Model | None = None, device: str = "cpu") -> Self:
        """Open an index.

        Args:
            path: its folder.
            model: folder or hub id of its model, or a loaded model; None: as the index says. A folder is loaded
                when a query first needs it: one by pictures of the index does not.
            device: where a model that is loaded here computes.

        Raises:
            ProclipError: there is no index, it is damaged, or a loaded model is not the one that it was made with.
        """
        return cls(Path(path).resolve(), model, device)

    def close(self) -> None:
        """Close its files."""
        self._catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Pictures; files with the same content are one."""
        with self._lock:
            return len(self._current())

    def search(
        self,
        text: Texts | None = None,
        image: Pictures | None = None,
        minus: Minus | None = None,
        weights: Sequence[float] | None = None,
        k: int = 10,
        near: PictureLike | None = None,
        after: str | date | None = None,
        before: str | date | None = None,
        folder: str | Path | None = None,
    ) -> list[Hit]:
        """Find pictures.

        The query is the sum of the L2-normalised vectors of its parts, each times its weight, `minus` subtracted, and
        L2-normalised again; a score is its cosine with a picture. Where several pictures score alike, the first path
        comes first.

        Args:
            text: one or several, of any length that the model reads, in any of its languages.
            image: one or several pictures, as paths or Pillow images.
            minus: what is not wanted: texts (strings), pictures (`Path` or Pillow images).
            weights: one for each text, each picture, each of `minus`, in that order, from 0 to 10; all 1 if None.
            k: how many, at least 1.
            near: only of the 100 pictures (or `k`, if more) that are most like this one; without text and image it is
                the query too.
            after: only taken at the beginning of this date or later, such as ``2024``, ``2024-05`` or ``2024-05-31``.
            before: only taken before the beginning of this date.
            folder: only below this folder, which is on this machine or in the index.

        Returns:
            at most `k` hits, the best first.

        Raises:
            ProclipError: nothing is asked, an argument is not as said here, a picture cannot be read, or the model is
                not the one that the index was made with.
        """
        check_count(k)
        check_near(near)
        wanted = filter_of(after, before, folder)
        self._check_folder(wanted.folder)
        parts = parts_of(text, image, minus, weights)
        if near is not None and not any(part.weight > 0 for part in parts):
            parts = [*parts_of(None, near, None, None), *parts]
        if not parts:
            raise ProclipError("nothing is asked: give a text, a picture, or near")
        check_wanted([part.weight for part in parts])
        query = query_vector(parts, self._encode_texts, self._encode_picture)
        return self.search_vector(query, k, near=near, wanted=wanted)

    def search_vector(
        self, query: Floats, k: int = 10, near: PictureLike | None = None, wanted: Filter = _ALL
    ) -> list[Hit]:
        """The same for a vector [d] of the index's space, of any length above zero."""
        check_count(k)
        check_near(near)
        vector = np.asarray(query, dtype=np.float32)
        length = float(np.linalg.norm(vector))
        with self._lock:
            nearest = self._current()
            if vector.ndim != 1 or (len(nearest) and vector.shape[0] != nearest.vectors.shape[1]):
                raise ProclipError(f"the vector has shape {list(vector.shape)}, wanted [{nearest.vectors.shape[1]}]")
            if not np.isfinite(length) or not length:
                raise ProclipError("the vector is zero, or a number of it is not finite")
            among = self._among(nearest, near, wanted, k)
            if not len(nearest):
                return []
            ids, scores = nearest.find(vector / length, k, among)
            return self._hits(ids, scores, k, wanted)

    def neighbours(self, hit: Hit, k: int = 10) -> list[Hit]:
        """Pictures most like one that was found, which is left out; no model is needed."""
        if (vector := self.vector_of(hit.id)) is None:
            raise ProclipError(f"{hit.path} is not in the index any more")
        return [other for other in self.search_vector(vector, k + 1) if other.id != hit.id][:k]

    def vector_of(self, id: int) -> Floats | None:
        """Vector [d] of a hit's picture by its id, L2-normalised; None where it is not in the index any more."""
        with self._lock:
            return self._current().vector_of(id)

    @property
    def stats(self) -> dict[str, Any]:
        """What is in the index and how it is searched, JSON values."""
        with self._lock:
            nearest, catalogue = self._current(), self._catalogue
            graph = catalogue.fact("graph")
            search: dict[str, Any] = {"search": "exact"}
            if nearest.graph is not None:
                search = {
                    "search": "approximate, scored exactly",
                    "graph": {"kind": graph["kind"], "pictures": graph["count"], "megabytes": graph["bytes"] / 1e6},
                    "recall": graph["recall"],
                }
            return {
                "path": str(self.path),
                **catalogue.counts(),
                "folders": catalogue.folders,
                "model": catalogue.fact("model"),
                "identity": catalogue.fact("identity"),
                "width": catalogue.fact("dim"),
                "vectors_megabytes": nearest.vectors.nbytes / 1e6,
                **search,
            }

    def unreadable(self, most: int = 1000) -> list[tuple[Path, str]]:
        """The first files that cannot be read, with the reason."""
        with self._lock:
            return [(Path(path), reason) for path, reason in self._catalogue.unreadable(most)]

    def recall(self, texts: Sequence[str]) -> dict[str, Any]:
        """Share of the exact ten nearest pictures that these texts find; 1 where search is exact."""
        with self._lock:
            nearest = self._current()
        if nearest.graph is None:
            return {"at_10": 1.0, "queries": len(texts), "of": "texts"}
        return nearest.recall(self._encode_texts(texts_of(texts)))

    def _check_folder(self, folder: str | None) -> None:
        """Refuse a folder that is nowhere; one whose drive is not mounted may be in the index."""
        if folder is None or Path(folder).is_dir():
            return
        with self._lock:
            if not self._catalogue.count_files(folder):
                raise ProclipError(f"folder: there is no folder {folder}, and the index has no picture below it")

    def _current(self) -> Nearest:
        """The vectors as they are now: read again where another process has committed since."""
        version = self._catalogue.version
        for attempt in range(ATTEMPTS):
            if version == self._version:
                break
            try:
                with self._catalogue.reading():
                    self._nearest, self._version = Nearest.open(self.path, self._catalogue), version
                    self._matched = None
            except (ProclipError, OSError):  # a file was replaced between the catalogue's word and ours
                if attempt == ATTEMPTS - 1:
                    raise
                version = self._catalogue.version
        return self._nearest

    def _among(self, nearest: Nearest, near: PictureLike | None, wanted: Filter, k: int) -> Numbers | None:
        """Ids of the pictures that may be found; None for all."""
        among = None
        if wanted != _ALL:
            if self._matched is None or self._matched[0] != wanted:
                self._matched = (wanted, self._catalogue.matching(wanted))
            among = self._matched[1]
        if near is None:
            return among
        ids, scores = nearest.find(self._encode_picture(near), max(NEAR, k), among)
        return np.sort(ids[np.lexsort((ids, -scores))[: max(NEAR, k)]])

    def _hits(self, ids: Numbers, scores: Floats, k: int, wanted: Filter) -> list[Hit]:
        rows = [
            (round(float(score), DECIMALS), self._catalogue.found(int(i), wanted))
            for i, score in zip(ids, scores, strict=True)
        ]
        kept = [(score, found) for score, found in rows if found is not None]
        kept.sort(key=lambda row: (-row[0], row[1].paths))
        return [_hit(found, score) for score, found in kept[:k]]

    def _checked(self, opened: Callable[[], Encoder]) -> Encoder:
        known = self._catalogue.fact("identity")
        if known is None:
            raise ProclipError(f"the index {self.path} has no pictures yet: proclip index FOLDER --model MODEL")
        encoder = opened()
        check_identity(encoder, known, self._catalogue.fact("model"), self.path)
        return encoder

    def _loaded(self) -> Encoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = self._checked(self._opened)
            return self._encoder

    def _opened(self) -> Encoder:
        name = self._name or self._catalogue.fact("model")
        if name is None:
            raise ProclipError(f"the index {self.path} was made with a model given as an object: give it again")
        return open_encoder(name, self.device)

    def _encode_texts(self, texts: list[str]) -> Floats:
        found: Floats = self._loaded().encode_texts(texts).numpy()
        return found

    def _encode_picture(self, picture: str | Path | Image) -> Floats:
        """From the index where the file is in it and unchanged, else through the model."""
        if not isinstance(picture, Image):
            path = path_of(picture, "picture")
            if (known := self._stored(path)) is not None:
                return known
            picture = read(path).image
        encoder = self._loaded()
        with torch.no_grad():
            found: Floats = encoder.encode_images([encoder.prepare(picture)])[0].numpy()
        return found

    def _stored(self, path: Path) -> Floats | None:
        try:
            about = path.stat()
        except OSError:
            return None
        with self._lock:
            nearest = self._current()
            picture = self._catalogue.picture_at(str(path), about.st_size, about.st_mtime_ns)
            return nearest.vector_of(picture) if picture is not None else None


def _hit(found: Found, score: float) -> Hit:
    first, *others = map(Path, found.paths)
    return Hit(found.id, first, score, found.width, found.height, found.taken, tuple(others))
