"""What the tests of `proclip convert` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_open_clip import register_tiny_timm_models

from proclip.cli import main
from proclip.models.proclip import ProCLIP


@pytest.fixture(scope="session")
def tiny_timm(torchvision_operators: None) -> None:
    """open_clip can be imported, and timm knows the tiny towers."""
    import open_clip  # noqa: F401

    register_tiny_timm_models()


@pytest.fixture
def convert(tiny_llm_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., ProCLIP]:
    """Run the command with the tiny LLM, which has the adapters' width, and load what it wrote."""

    def run(source: Path, *options: str) -> ProCLIP:
        out = tmp_path / f"converted-{len(list(tmp_path.iterdir()))}"
        llm = ["--set", f"embedder.model={tiny_llm_path}", "--set", "embedder.dtype=float32"]
        code = main(["convert", str(source), str(out), *llm, *options])
        assert code == 0, capsys.readouterr().err
        return ProCLIP.from_pretrained(out)

    return run
