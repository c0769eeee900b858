"""Training: the stages (the maths), the one loop that runs them, optimiser, checkpoints and metrics."""

from __future__ import annotations
