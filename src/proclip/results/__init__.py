"""Result files: the figures of one model on any number of benchmarks, and how two of them compare."""

from __future__ import annotations

from .compare import Comparison, Comparisons, compare
from .format import BenchmarkResult, Figure, ModelResults, load_results

__all__ = ["BenchmarkResult", "Comparison", "Comparisons", "Figure", "ModelResults", "compare", "load_results"]
