"""The one schema of a run, and how it is read from TOML, changed by ``--set a.b=value``, and written back."""

from __future__ import annotations

from .data import DataConfig, MixtureConfig
from .embedder import EmbedderConfig
from .evaluation import EvaluateConfig
from .image_tuning import ImageTuningConfig
from .optim import OptimConfig, ParameterRule
from .reading import config_hash, dump, from_dict, load_recipe, merge_settings, to_dict
from .schema import (
    AdapterConfig,
    AugmentConfig,
    DistillConfig,
    DistillLossConfig,
    LogConfig,
    PretrainConfig,
    Recipe,
    TuneConfig,
)

__all__ = [
    "AdapterConfig",
    "AugmentConfig",
    "DataConfig",
    "DistillConfig",
    "DistillLossConfig",
    "EmbedderConfig",
    "EvaluateConfig",
    "ImageTuningConfig",
    "LogConfig",
    "MixtureConfig",
    "OptimConfig",
    "ParameterRule",
    "PretrainConfig",
    "Recipe",
    "TuneConfig",
    "config_hash",
    "dump",
    "from_dict",
    "load_recipe",
    "merge_settings",
    "to_dict",
]
