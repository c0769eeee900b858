"""The tiny model of the tests, exported once."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from proclip.export import export_onnx, onnx_folder
from proclip.models.proclip import ProCLIP


@pytest.fixture(autouse=True, scope="package")
def no_trace_log() -> Iterator[None]:
    """pytest's handlers at a logger that does not propagate would make torch write down every step of its traces."""
    log = logging.getLogger("torch.__trace")
    kept, log.handlers, log.propagate = log.handlers, [], True
    yield
    log.handlers, log.propagate = kept, False


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_proclip_path: Path) -> Path:
    """The tiny CLIP, adapter and Llama in float32."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_onnx(ProCLIP.from_pretrained(tiny_proclip_path), folder)
    return folder


@pytest.fixture
def graphs_at_hand(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the tiny model take the graphs of `exported` in place of tracing their own: seconds each."""

    def copied(graph: object, path: Path, precision: str, what: str) -> None:
        shutil.copyfile(exported / path.name, path)

    monkeypatch.setattr(onnx_folder, "write_graph", copied)
