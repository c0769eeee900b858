"""The official checkpoints of LLM2CLIP and ProCLIP to a `ProCLIP` folder, and back (``proclip convert``)."""

from __future__ import annotations

from .to_llm2clip import write_llm2clip
from .to_proclip import Hints, Plan, plan, write_proclip

__all__ = ["Hints", "Plan", "plan", "write_llm2clip", "write_proclip"]
