"""The only place that wires parts together: a recipe in, a run folder out."""

from __future__ import annotations
