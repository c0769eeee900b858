"""The configuration class of proclip models in transformers' terms."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PretrainedConfig

from ..models.arithmetic import known_dtype


class ProCLIPConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """A proclip model's ``config.json``: each of its keys is an attribute."""

    model_type = "proclip"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers does, which takes the name of anything in torch for a dtype.

        Raises:
            ProclipError: a dtype that is not known here.
        """
        for dtype in (kwargs.get("dtype"), kwargs.get("torch_dtype")):
            known_dtype(None if dtype == "auto" else dtype)
        return super().from_dict(config_dict, **kwargs)


def register_config() -> None:
    """Make ``AutoConfig`` know proclip models; a second call changes nothing."""
    from transformers.models.auto.configuration_auto import AutoConfig

    AutoConfig.register(ProCLIPConfig.model_type, ProCLIPConfig, exist_ok=True)
