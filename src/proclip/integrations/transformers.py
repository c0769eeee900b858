"""ProCLIP in transformers' Auto API: ``AutoModel.from_pretrained(path)`` after ``import proclip`` (`when_imported`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import ModelOutput

from ..errors import ProclipError
from ..models.arithmetic import known_dtype
from ..models.devices import known_device, pick_device
from ..models.hub import HubAccess
from ..models.proclip import ProCLIP, load_weights
from .transformers_config import ProCLIPConfig, register_config

HARMLESS = {
    "adapter_kwargs", "code_revision", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors", "weights_only",
}  # fmt: skip
"""Arguments of ``from_pretrained`` that change nothing here: weights are safetensors, and no code is taken."""


@dataclass
class ProCLIPOutput(ModelOutput):
    """What `ProCLIPModel` gives for pictures, texts or both."""

    image_embeds: Tensor | None = None
    """[n, d], L2-normalised."""
    text_embeds: Tensor | None = None
    """[m, d], L2-normalised."""
    logits_per_image: Tensor | None = None
    """[n, m], cosine times ``exp(logit_scale)``; with a learned bias, plus that."""
    logits_per_text: Tensor | None = None
    """[m, n], the same transposed."""


class ProCLIPModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A `ProCLIP` under transformers' interface; it has the same parameters under the same names.

    Args:
        config: of the model.
        proclip: the model itself; `from_pretrained` gives it.

    Raises:
        ProclipError: `proclip` is left out: a new model is made with `proclip.ProCLIP`.
    """

    config_class = ProCLIPConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"

    def __init__(self, config: ProCLIPConfig, proclip: ProCLIP | None = None) -> None:
        super().__init__(config)
        if proclip is None:
            raise ProclipError("ProCLIPModel: use from_pretrained; a new, untrained model is made with proclip.ProCLIP")
        vars(self)["proclip"] = proclip  # beside the modules, not among them: the parts below have the weights' names
        self.image_tower, self.adapter, self.logit_scale = proclip.image_tower, proclip.adapter, proclip.logit_scale
        bias = getattr(proclip, "logit_bias", None)
        if bias is not None:
            self.logit_bias = bias

    @property
    def model(self) -> ProCLIP:
        """The model in our own terms; the weights are shared."""
        return cast(ProCLIP, vars(self)["proclip"])

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *args: Any, config: ProCLIPConfig | None = None, **kwargs: Any
    ) -> ProCLIPModel:
        """Load as `ProCLIP.from_pretrained` does: safetensors only, strictly.

        Args:
            pretrained_model_name_or_path: folder or hub id.
            args: none.
            config: read from the folder in any case.
            kwargs: ``revision``, ``token``, ``cache_dir`` and ``local_files_only`` of the hub; ``dtype`` (or
                ``torch_dtype``; as saved, which is float32, if not given), ``device_map`` as one device.

        Raises:
            ProclipError: another argument, a dtype or device that is not known here, or what `ProCLIP.from_pretrained`
                raises.
        """
        revision, dtype = kwargs.pop("revision", None), kwargs.pop("dtype", None)
        dtype, device = dtype or kwargs.pop("torch_dtype", None), kwargs.pop("device_map", None)
        access: Any = {name: kwargs.pop(name) for name in HubAccess.__annotations__ if name in kwargs}
        given = {name for name, value in kwargs.items() if value not in (None, False) and not name.startswith("_")}
        if unknown := sorted(given - HARMLESS):
            raise ProclipError(f"ProCLIPModel.from_pretrained has no argument {', '.join(unknown)}")
        if isinstance(device, Mapping):
            if set(device) != {""}:
                raise ProclipError(f"device_map: one device for the whole model, not {dict(device)}")
            device = device[""]
        precision = known_dtype(None if dtype == "auto" else dtype)
        loaded = ProCLIP.from_pretrained(pretrained_model_name_or_path, revision, _device(device), **access)
        if precision is not None:
            loaded = loaded.to(precision)
        own = ProCLIPConfig(**loaded.saved_config())
        own._name_or_path = str(pretrained_model_name_or_path)
        model = cls(own, loaded)
        model.train(False)
        return model

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the whole ProCLIP folder, as `ProCLIP.save_pretrained` does.

        Args:
            save_directory: made if needed.
            kwargs: ``state_dict``, weights to save in place of the model's own; other arguments change nothing, for a
                proclip model is one safetensors file.

        Raises:
            ProclipError: a ``state_dict`` that does not fit, or ``push_to_hub``, which has a method of its own.
        """
        if kwargs.get("push_to_hub"):
            raise ProclipError("save_pretrained(push_to_hub=True): call push_to_hub(repo_id)")
        state = kwargs.get("state_dict")
        if state is not None:
            own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            load_weights(self.model, state, "state_dict")
        self.model.save_pretrained(save_directory)
        if state is not None:
            load_weights(self.model, own, "state_dict")

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]
        """`ProCLIP.push_to_hub`; of transformers' arguments ``private`` is known."""
        return self.model.push_to_hub(repo_id, private=bool(kwargs.get("private")))

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """What the image processor gives to image features [n, d] in ``pooler_output``, not normalised."""
        return BaseModelOutputWithPooling(pooler_output=self.image_tower(pixel_values))

    def get_text_features(
        self, llm_embeds: Tensor | None = None, texts: str | Sequence[str] | None = None
    ) -> BaseModelOutputWithPooling:
        """Texts, or the LLM's embeddings of them, to text features [n, d] in ``pooler_output``, not normalised.

        Args:
            llm_embeds: [n, h], what the frozen LLM gave.
            texts: n texts; the LLM is loaded when they are first given.

        Raises:
            ProclipError: both or neither is given.
        """
        return BaseModelOutputWithPooling(pooler_output=self._text_features(llm_embeds, texts))

    def _text_features(self, llm_embeds: Tensor | None, texts: str | Sequence[str] | None) -> Tensor:
        if (llm_embeds is None) == (texts is None):
            raise ProclipError("get_text_features takes llm_embeds or texts, one of them")
        if texts is not None:
            llm_embeds = self.model.embedder.encode([texts] if isinstance(texts, str) else texts).embeds
        assert llm_embeds is not None
        moved = llm_embeds.to(self.logit_scale.device, self.logit_scale.dtype)
        return cast(Tensor, self.adapter(moved))

    def forward(
        self,
        pixel_values: Tensor | None = None,
        llm_embeds: Tensor | None = None,
        texts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> ProCLIPOutput:
        """Pictures, texts or both to embeds, and logits where both are given.

        Args:
            pixel_values: n pictures, as the image processor gives them.
            llm_embeds: m texts, [m, h].
            texts: m texts, in place of `llm_embeds`.
            kwargs: what callers of transformers models add, such as ``return_dict``; nothing is done with them.
        """
        image: Tensor | None = None
        text: Tensor | None = None
        logits: Tensor | None = None
        if pixel_values is not None:
            image = F.normalize(self.image_tower(pixel_values), dim=-1)
        if llm_embeds is not None or texts is not None:
            text = F.normalize(self._text_features(llm_embeds, texts), dim=-1)
        if image is not None and text is not None:
            logits = self.logit_scale.exp() * image @ text.T
            bias = getattr(self, "logit_bias", None)
            logits = logits if bias is None else logits + bias
        return ProCLIPOutput(image, text, logits, None if logits is None else logits.T)


def register_auto() -> None:
    """Make ``AutoConfig`` and ``AutoModel`` know proclip models; a second call changes nothing.

    ``import proclip`` sees to it by itself; this is for whoever cleared the registry, or does not want to wait.
    """
    from transformers.models.auto.modeling_auto import AutoModel

    register_config()
    AutoModel.register(ProCLIPConfig, ProCLIPModel, exist_ok=True)


def _device(device: Any) -> str:
    """``device_map`` as one device: the CPU if it is None, as everywhere in transformers."""
    if device in (None, "auto"):
        return "cpu" if device is None else pick_device()
    try:
        return known_device(f"cuda:{device}" if isinstance(device, int) else device)
    except ProclipError as error:
        raise ProclipError(f"device_map takes 'auto' or one device for the whole model: {error}") from None
