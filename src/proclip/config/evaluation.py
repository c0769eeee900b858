"""The part of the schema that says what a training measures of the model it makes."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ProclipError
from .ranges import require


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Benchmarks that are run after every stage, against the original CLIP, and every so many passes within it."""

    folders: tuple[str, ...] = ()
    """Own data, or mini worlds, as ``proclip eval --data``."""
    suite: str | None = None
    """A suite, or benchmarks with commas between, as ``proclip eval --suite``."""
    data_root: str = "data"
    """Folder of the suite's data."""
    split: str | None = None
    """Split of `folders`; None: all rows, of a mini world the test concepts."""
    tasks: tuple[str, ...] = ()
    """Tasks of `folders` that are run, as their figures' keys begin, such as ``zero_shot/openmoji``; empty: all."""
    cache: str = "runs/cache"
    """Folder of vectors, shared by every run."""
    every_epochs: int = 0
    """Passes between two evaluations within a stage; 0: after the stage alone."""

    def __post_init__(self) -> None:
        require(self.every_epochs >= 0, "evaluate.every_epochs", "0 or more", self.every_epochs)
        if not self.folders and not self.suite:
            raise ProclipError("[evaluate] must name folders or a suite")
