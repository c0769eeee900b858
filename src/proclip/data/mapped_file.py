"""Safetensors files as NumPy sees them on disk: mapped read-only, whatever their size, or laid out to be filled.

The library maps a file so that it could be written to, which systems refuse for files larger than their memory; so the
header, which is a length and JSON, is read here.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ProclipError

Array = NDArray[Any]
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8, "U8": np.uint8, "I64": np.int64,
          "BOOL": np.bool_}  # fmt: skip
"""NumPy has no bfloat16: its bits come as uint16."""
PAGE = 4096
LONGEST_HEADER = 1 << 30


def map_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors of a file, read-only and left on disk, and its metadata.

    Raises:
        FileNotFoundError: no such file.
        ProclipError: the file is no safetensors file, or is damaged.
    """
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < min(LONGEST_HEADER, path.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
            metadata: dict[str, str] = header.pop("__metadata__", {})
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return {name: _view(mapped, 8 + length, entry) for name, entry in header.items()}, metadata
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProclipError(f"{path} is damaged ({error})") from None


def _view(mapped: mmap.mmap, start: int, entry: Mapping[str, Any]) -> Array:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    first, last = entry["data_offsets"]
    count = int(np.prod(shape, dtype=np.int64))
    if last - first != count * dtype.itemsize:
        raise ValueError("a tensor whose size is not that of its shape")
    return np.frombuffer(mapped, dtype, count, start + first).reshape(shape)


@dataclass(frozen=True)
class Layout:
    """Where the rows of a file's tensors lie, so that they can be written in any order."""

    header: bytes
    """What the file begins with."""
    places: dict[str, tuple[int, int]]
    """Of each tensor, the offset of its first row and the bytes of a row."""
    size: int
    """Bytes of the file."""

    @classmethod
    def of(cls, tensors: Mapping[str, tuple[str, Sequence[int]]]) -> Layout:
        """Lay tensors out one after the other, the first at the beginning of a page.

        Args:
            tensors: name -> type as safetensors names it, and shape.
        """
        header: dict[str, Any] = {}
        widths, end = {}, 0
        for name, (dtype, shape) in tensors.items():
            widths[name] = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(DTYPES[dtype]).itemsize
            start, end = end, end + shape[0] * widths[name]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        length = -(-(8 + len(text)) // PAGE) * PAGE - 8
        first = 8 + length
        places = {name: (first + header[name]["data_offsets"][0], widths[name]) for name in header}
        return cls(length.to_bytes(8, "little") + text.ljust(length), places, first + end)

    def create(self, path: Path) -> None:
        """Make the file; what is not written reads as zeros and takes no room on most file systems."""
        with path.open("wb") as file:
            file.write(self.header)
            file.truncate(self.size)

    def write_rows(self, file: int, name: str, first: int, rows: Array) -> None:
        """Write some of a tensor's rows.

        Args:
            file: descriptor.
            name: of the tensor.
            first: number of the first of the rows.
            rows: [n, ...].
        """
        start, width = self.places[name]
        content = memoryview(np.ascontiguousarray(rows)).cast("B") if rows.size else memoryview(b"")
        done = 0
        while done < len(content):
            done += os.pwrite(file, content[done:], start + first * width + done)
