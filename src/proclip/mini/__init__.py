"""The mini world: a small, real benchmark built from packages alone (pictures, 14 languages, every task family)."""

from __future__ import annotations

from .build import build_mini_world, verify_mini_world

__all__ = ["build_mini_world", "verify_mini_world"]
