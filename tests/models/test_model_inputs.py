"""What people hand to a model: arrays of paths, whole numbers of numpy, empty paths; pictures are looked at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proclip.errors import ProclipError
from proclip.models.image_files import read_image
from proclip.models.inputs import check_batch_size, pictures_of
from proclip.models.proclip import ProCLIP


def test_arrays_of_paths_are_paths() -> None:
    for paths in (np.array(["a.png", "b.png"]), np.array([Path("a.png"), Path("b.png")])):
        found, single = pictures_of(paths)
        assert [str(path) for path in found] == ["a.png", "b.png"] and not single


def test_batch_sizes() -> None:
    check_batch_size(np.int64(3))  # type: ignore[arg-type]
    wrong: list[Any] = [True, 0, -1, 2.0, "2", None]
    for size in wrong:
        with pytest.raises(ProclipError, match=f"batch_size is {size!r}"):
            check_batch_size(size)


def test_paths_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="an image's path is empty"):
        read_image("")
    with pytest.raises(ProclipError, match=rf"image {tmp_path} is a folder, a file is wanted"):
        read_image(tmp_path)


def test_zero_shot_misses_a_picture_before_it_loads_the_llm(
    tiny_proclip_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(self: ProCLIP) -> None:
        raise AssertionError("the LLM is loaded")

    monkeypatch.setattr(ProCLIP, "embedder", property(loads))
    with pytest.raises(ProclipError, match=r"image nowhere\.png is missing"):
        ProCLIP.from_pretrained(tiny_proclip_path).zero_shot("nowhere.png", ["red", "blue"])
