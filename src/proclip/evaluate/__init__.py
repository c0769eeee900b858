"""Evaluation: what a model gained, and what it forgot."""

from __future__ import annotations

from .benchmark import Benchmark
from .dual_encoder import DualEncoder
from .functions import from_functions
from .open_model import open_model
from .run import run_benchmark

__all__ = ["Benchmark", "DualEncoder", "from_functions", "open_model", "run_benchmark"]
