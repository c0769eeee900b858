"""Tar shards as img2dataset writes them, made by the tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

Member = tuple[str, bytes]


def picture(number: int = 0, kind: str = "JPEG", size: tuple[int, int] = (40, 32)) -> bytes:
    """A picture of its own for every number."""
    colour = (37 * number % 256, 91 * number % 256, 151 * number % 256)
    image = Image.new("RGB", size, colour)
    image.paste((255 - colour[0], 10, 10), (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def sample(key: str, number: int, caption: str | None = None, **fields: Any) -> list[Member]:
    """Members of one sample, in img2dataset's order: picture, txt, json."""
    about = {"caption": caption, "url": f"https://pictures.org/{number}.jpg", "key": key, "status": "success", **fields}
    members = [(f"{key}.jpg", picture(number))]
    if caption is not None:
        members.append((f"{key}.txt", caption.encode()))
    return [*members, (f"{key}.json", json.dumps(about).encode())]


def write_shard(path: Path, members: Iterable[Member]) -> Path:
    """An archive of them, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def write_shards(folder: Path, shards: int = 2, samples: int = 5) -> Path:
    """Shards 00000.tar, ... with what img2dataset leaves beside them; sample n has the caption ``caption n``."""
    for shard in range(shards):
        numbers = range(shard * samples, (shard + 1) * samples)
        keys = [f"{shard:05d}{n - numbers.start:04d}" for n in numbers]
        write_shard(
            folder / f"{shard:05d}.tar",
            [m for key, n in zip(keys, numbers, strict=True) for m in sample(key, n, f"caption {n}", alt=f"alt {n}")],
        )
        (folder / f"{shard:05d}_stats.json").write_text("{}")
        (folder / f"{shard:05d}.parquet").write_bytes(b"not read")
    return folder
