"""Evaluation: what a model gained, and what it forgot."""

from __future__ import annotations

from .encoders import Encoders
from .probe import ProbeResult, linear_probe
from .suite import chance_levels, evaluated_images, run_suite
from .tasks import load_task, load_tasks

__all__ = [
    "Encoders",
    "ProbeResult",
    "chance_levels",
    "evaluated_images",
    "linear_probe",
    "load_task",
    "load_tasks",
    "run_suite",
]
