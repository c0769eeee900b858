"""The part of the schema that says where images, captions and embeddings are, and which images are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .ranges import require

LARGEST = 178_956_970
"""Pixels above which Pillow refuses a picture, whatever is asked of it."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """One source of a mixture."""

    path: str
    """Folder, list or ``hf:ID``."""
    weight: float = 1.0
    """How often each of its samples is drawn in an epoch: 2 twice, 0.5 every other epoch, each half in its turn."""
    name: str | None = None
    """Comes before its keys, ``NAME/KEY``, where two sources have equal keys."""

    def __post_init__(self) -> None:
        require(0 < self.weight <= 1000, "data.dataset: weight", "above 0, at most 1000", self.weight)
        require(self.name is None or bool(self.name), "data.dataset: name", "a text that is not empty", self.name)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images, captions and embeddings are."""

    dataset: str | tuple[MixtureConfig, ...] = "runs/mini"
    """Folder with ``metadata.jsonl`` and the images it names, folder of tar shards, list, ``hf:ID``; or several, as in
    ``[{path = "data/cc3m", weight = 2}, {path = "data/cc12m"}]`` (docs/data_format.md)."""
    store: str = "runs/embeddings"
    """Folder with the embedding stores ``llm/`` and ``teacher/CLIP/`` that ``proclip embed`` wrote."""
    store_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float16"
    """How the LLM's vectors are stored (docs/data_format.md: size and loss of each)."""
    incomplete: Literal["refuse", "leave_out"] = "refuse"
    """Rows without a text in every caption column that a stage reads: an error, or left out."""
    max_pixels: int = 89_478_485
    """A picture of more is refused: it would be a decompression bomb, or of no use."""
    max_broken_share: float = 0.01
    """Share of a pass's images that may turn out broken and be replaced by others before training stops."""
    jpeg_draft: bool = True
    """Decode large JPEGs of the training at 1/2, 1/4 or 1/8 of their size, at least twice what the crop is scaled to
    (docs/data_format.md: what that changes). Evaluation and cached teachers never do."""

    def __post_init__(self) -> None:
        require(bool(self.dataset), "data.dataset", "a path, or a list of at least one source", self.dataset)
        require(1 <= self.max_pixels <= LARGEST, "data.max_pixels", f"from 1 to {LARGEST}", self.max_pixels)
        require(0 <= self.max_broken_share < 1, "data.max_broken_share", "in [0, 1)", self.max_broken_share)

    @property
    def sources(self) -> tuple[MixtureConfig, ...]:
        """Of the dataset, one or several."""
        return (MixtureConfig(path=self.dataset),) if isinstance(self.dataset, str) else self.dataset

    @property
    def named(self) -> str:
        """The dataset in words, such as ``2 x data/cc3m + data/cc12m``."""
        return " + ".join(one.path if one.weight == 1 else f"{one.weight:g} x {one.path}" for one in self.sources)
