"""Pictures by key, wherever they lie: files, members of tar archives, rows of a data set."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol, final

from PIL.Image import Image
from PIL.Image import open as open_image

from ..errors import ProclipError
from ..models.image_files import decode_image, read_image
from .pictures import FilePicture, Picture
from .tar_members import PICTURES, CutShort, Member, members_of


class ImageSource(Protocol):
    """Pictures by key. May be called from several threads at once."""

    def open(self, key: str) -> Image:
        """The picture, decoded, RGB.

        Raises:
            ProclipError: it is missing or not an image; the message names the file.
        """

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys that have no picture, in their order; nothing is decoded."""

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """Bytes of each picture as it is kept: tells most replaced pictures, and nothing is read. 0: not known."""


class SampleImages:
    """Pictures of samples, wherever they lie.

    Args:
        pictures: key to picture.
    """

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self.pictures = pictures

    def open(self, key: str) -> Image:
        """The picture, decoded, RGB."""
        if key not in self.pictures:
            raise ProclipError(f"no picture with key {key!r}")
        return self.pictures[key].open()

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys that have no picture, or one whose beginning is no picture's."""
        with ThreadPoolExecutor() as pool:
            there = pool.map(lambda key: key in self.pictures and _begins(self.pictures[key]), keys)
            return [key for key, good in zip(keys, there, strict=True) if not good]

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """The sizes of files, of members, of cells."""
        return [self.pictures[key].size if key in self.pictures else 0 for key in keys]


@final
class ImageFiles(SampleImages):
    """Pictures in files of their own.

    Args:
        paths: key to file.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        super().__init__({key: FilePicture(path) for key, path in paths.items()})
        self.paths = paths


class _Sample(NamedTuple):
    """A sample of an archive."""

    path: Path
    name: str
    members: dict[str, Member]

    @property
    def picture(self) -> str | None:
        return next((extension for extension in PICTURES if extension in self.members), None)


@final
class TarImages:
    """Samples of tar archives in the webdataset layout, read where they lie: nothing is unpacked.

    A sample is all members of a shard that share their name up to the first dot, such as ``s0000012.webp`` and
    ``s0000012.cls``; its key is ``SHARD/s0000012``. The headers are read once, when it is made.

    Args:
        shards: name of a shard to its archive.

    Raises:
        ProclipError: an archive is missing, damaged or cut short, or has a member twice; the message names it.
    """

    def __init__(self, shards: Mapping[str, Path]) -> None:
        self._samples = {
            f"{shard}/{name}": _Sample(path, name, members)
            for shard, path in shards.items()
            for name, members in _index(path).items()
        }

    @property
    def samples(self) -> list[str]:
        """Keys of all samples, shard by shard, in the order of the archives; some may have no picture."""
        return list(self._samples)

    def content(self, key: str, extension: str) -> bytes:
        """The bytes of one of a sample's members, such as ``cls``.

        Raises:
            ProclipError: there is no such sample, it has no such member, or the archive is gone or cut short.
        """
        path, name, members = self._sample(key)
        if extension not in members:
            raise ProclipError(f"{path}: sample {name!r} has no .{extension}, only: {', '.join(members)}")
        try:
            with path.open("rb") as file:  # a handle of its own, so that threads do not share a position
                file.seek(members[extension].offset)
                content = file.read(members[extension].size)
        except OSError as error:
            raise ProclipError(f"{path} cannot be read: {error}") from None
        if len(content) != members[extension].size:
            raise ProclipError(f"{path}: {name}.{extension} is cut short: the archive has changed since it was read")
        return content

    def open(self, key: str) -> Image:
        """The picture, decoded, RGB."""
        sample = self._sample(key)
        if sample.picture is None:
            raise ProclipError(f"{sample.path}: sample {sample.name!r} has no picture ({', '.join(PICTURES)})")
        return decode_image(self.content(key, sample.picture), f"{sample.path}, {sample.name}.{sample.picture}")

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys that are no sample, or whose sample has no picture."""
        return [key for key in keys if key not in self._samples or self._samples[key].picture is None]

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """The members' sizes."""
        found = [self._samples.get(key) for key in keys]
        return [sample.members[sample.picture].size if sample and sample.picture else 0 for sample in found]

    def lacking(self, extension: str) -> list[str]:
        """Keys of the samples without such a member."""
        return [key for key, sample in self._samples.items() if extension not in sample.members]

    def _sample(self, key: str) -> _Sample:
        if key not in self._samples:
            raise ProclipError(f"no picture with key {key!r}")
        return self._samples[key]


def _index(path: Path) -> dict[str, dict[str, Member]]:
    """Members of an archive by sample and extension."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        for member in members_of(path):
            of_sample = samples.setdefault(member.sample, {})
            if member.extension in of_sample:
                raise ProclipError(f"{path} has the member {member.name} twice")
            of_sample[member.extension] = member
    except FileNotFoundError:
        raise ProclipError(f"{path} is missing") from None
    except CutShort as error:
        raise ProclipError(f"{path} is cut short: {error}") from None
    except (tarfile.TarError, OSError) as error:
        last = f" after {list(samples)[-1]}" if samples else ""
        raise ProclipError(f"{path} is not a whole tar archive{last}: {error}") from None
    return samples


@final
class DatasetImages:
    """Pictures in columns of a data set of the library ``datasets``; keys are ``COLUMN/ROW``.

    Args:
        dataset: a ``datasets.Dataset``.
        columns: its columns with the feature ``Image``.
    """

    def __init__(self, dataset: Any, columns: Sequence[str]) -> None:
        from datasets import Image as ImageFeature

        self.columns, self.count = tuple(columns), len(dataset)
        self._rows = dataset.select_columns(list(columns))
        for column in columns:
            self._rows = self._rows.cast_column(column, ImageFeature(decode=False))
        self._whole = {column for column in columns if self._holds_every_picture(column)}

    def open(self, key: str) -> Image:
        """The picture, decoded, RGB."""
        value = self._value(key)
        if value is None:
            raise ProclipError(f"no picture with key {key!r}")
        if value["bytes"] is None:
            return read_image(value["path"])
        return decode_image(value["bytes"], key)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys whose cell is empty or names a file that is not there."""
        absent = []
        for key in keys:
            column, row = self._cell(key)
            if column in self._whole and row is not None:
                continue  # a look at each would read the whole data set
            value = self._value(key)
            if value is None or (value["bytes"] is None and not Path(value["path"]).is_file()):
                absent.append(key)
        return absent

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """Not known: the cells may lie in a table that is not read, and a table is replaced as a whole."""
        return [0 for _ in keys]

    def _holds_every_picture(self, column: str) -> bool:
        from pyarrow.compute import struct_field

        cells = self._rows.data.column(column)
        return bool(cells.null_count == 0 and struct_field(cells, "bytes").null_count == 0)

    def _cell(self, key: str) -> tuple[str, int | None]:
        """Column and row of a key; no row where there is no such cell."""
        column, _, row = key.rpartition("/")
        known = column in self.columns and row.isdecimal() and int(row) < self.count
        return column, int(row) if known else None

    def _value(self, key: str) -> dict[str, Any] | None:
        """``bytes`` and ``path`` of the picture, one of them given; None where there is none."""
        column, row = self._cell(key)
        if row is None:
            return None
        value: dict[str, Any] | None = self._rows[row][column]
        return value if value and (value["bytes"] is not None or value["path"]) else None


def _begins(picture: Picture) -> bool:
    """The same for a picture anywhere."""
    try:
        return _begins_as_picture(picture.path if isinstance(picture, FilePicture) else BytesIO(picture.content()))
    except ProclipError:
        return False


def _begins_as_picture(file: Path | BytesIO) -> bool:
    """Whether a file is there and its header is that of a picture; the pixels are not decoded."""
    try:
        with open_image(file):
            return True
    except (OSError, SyntaxError, ValueError):
        return False
