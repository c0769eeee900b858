"""What one task found of a model: outcomes of every item under the keys of its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..metrics.outcomes import Outcomes


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A task's outcomes."""

    outcomes: Mapping[str, Outcomes]
    """By the key of the figure, such as ``i2t_r@1``."""
    chance: Mapping[str, float]
    """What a guess gets, for the keys where that means something."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: ties, the probe's chosen C, ..."""

    def figures(self) -> dict[str, float]:
        """What the outcomes come to."""
        return {key: one.figure() for key, one in self.outcomes.items()}
