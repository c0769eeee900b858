"""The configuration class of proclip models in transformers' terms."""

from __future__ import annotations

from transformers.configuration_utils import PretrainedConfig


class ProCLIPConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """A proclip model's ``config.json``: each of its keys is an attribute."""

    model_type = "proclip"


def register_config() -> None:
    """Make ``AutoConfig`` know proclip models; a second call changes nothing."""
    from transformers.models.auto.configuration_auto import AutoConfig

    AutoConfig.register(ProCLIPConfig.model_type, ProCLIPConfig, exist_ok=True)
