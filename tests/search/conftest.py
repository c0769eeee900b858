"""Pictures of one's own, as files, and an index of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from picture_files import drawn, save, touch

from proclip.models.proclip import ProCLIP
from proclip.search import update_index


@pytest.fixture(scope="session")
def model(tiny_proclip_path: Path) -> ProCLIP:
    return ProCLIP.from_pretrained(tiny_proclip_path)


@pytest.fixture()
def pictures(tmp_path: Path) -> Path:
    """A folder with a, b and c of 2021 to 2023 (b's date is of its file) and d in a folder below."""
    folder = tmp_path / "pictures"
    save(drawn(1), folder / "a.png", taken="2021:05:01 10:00:00")
    save(drawn(2), folder / "b.png")
    touch(folder / "b.png", "2022-06-01T11:00:00")
    save(drawn(3), folder / "c.jpg", taken="2023:07:01 12:00:00")
    save(drawn(4), folder / "below" / "d.webp", taken="2023:07:02 12:00:00")
    return folder


@pytest.fixture()
def index(pictures: Path, model: ProCLIP, tiny_proclip_path: Path, tmp_path: Path) -> Path:
    """An index of these pictures."""
    update_index(tmp_path / "index", [pictures], str(tiny_proclip_path))
    return tmp_path / "index"
