"""How an embedder's weights come into memory: precision, devices, 8 and 4 bits, and LoRA adapters merged into them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..config import EmbedderConfig
from ..errors import ProclipError
from .arithmetic import DTYPES, has_bfloat16

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOADING_ERRORS = (SafetensorError, OSError, ValueError, KeyError, ImportError, RuntimeError)
"""What transformers and sentence-transformers raise when a checkpoint, a package or a device is not right."""


def require_packages(names: Sequence[str], what: str, extra: str) -> None:
    """Refuse what needs packages that are not installed.

    Raises:
        ProclipError: naming them and the extra that brings them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ProclipError(f"{what} needs {' and '.join(missing)}: run  pip install 'proclip-align[{extra}]'")


def weight_options(config: EmbedderConfig, device: str) -> dict[str, Any]:
    """Options of ``from_pretrained`` that say in which precision and where the weights are.

    bfloat16 becomes float32 on a CPU that has no bfloat16.

    Raises:
        ProclipError: a package is missing.
    """
    slow = config.dtype == "bfloat16" and config.device_map is None and not has_bfloat16(device)
    options: dict[str, Any] = {"dtype": torch.float32 if slow else DTYPES[config.dtype]}
    if config.device_map is not None:
        require_packages(["accelerate"], "embedder.device_map", "llm")
        options["device_map"] = config.device_map
    if config.quantization != "none":
        require_packages(
            ["bitsandbytes", "accelerate"], f"embedder.quantization {config.quantization!r}", "quantization"
        )
        from transformers import BitsAndBytesConfig

        int8 = config.quantization == "int8"
        how = {"load_in_8bit": True} if int8 else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        compute = {} if int8 else {"bnb_4bit_compute_dtype": DTYPES[config.dtype]}
        options["quantization_config"] = BitsAndBytesConfig(**how, **compute)  # type: ignore[no-untyped-call]
        options.setdefault("device_map", {"": device})
    return options


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its inputs; accelerate moves them on where weights are laid out elsewhere."""
    device = next(model.parameters()).device
    return device if device.type != "meta" else torch.device("cpu")


def merge_adapters(model: PreTrainedModel, folders: Sequence[Path]) -> PreTrainedModel:
    """Merge LoRA adapters into the weights, in order, with peft.

    An adapter may come from the bare model or from one with a head on it: only the prefix of its names differs.

    Raises:
        ProclipError: peft is missing, or an adapter does not fit the model; the message names the tensors.
    """
    if folders:
        require_packages(["peft"], "embedder.lora", "peft")
    for folder in folders:
        model = _merge(model, folder)
    return model


def _merge(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / "adapter_model.safetensors")
        config.inference_mode = True
        wrapped = get_peft_model(model, config)
        result: Any = set_peft_model_state_dict(wrapped, _named_for(model, tensors))
    except LOADING_ERRORS as error:
        raise ProclipError(f"embedder.lora: {folder} does not load: {error}") from error
    missing = [name for name in result.missing_keys if "lora_" in name]
    if wrong := [*result.unexpected_keys, *missing]:
        few = ", ".join(wrong[:3])
        raise ProclipError(f"embedder.lora: {folder} does not fit the model: {len(wrong)} tensors, such as {few}")
    merged = wrapped.merge_and_unload()
    vars(merged).pop("peft_config", None)  # else peft takes the next adapter for a second one on the same model
    return merged  # type: ignore[no-any-return]


def _named_for(model: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors under the names that a bare model's would have."""
    outer, inner = "base_model.model.", model.base_model_prefix
    named = {}
    for name, tensor in tensors.items():
        rest = name.removeprefix(outer)
        bare = rest.removeprefix(f"{inner}.") if inner and not hasattr(model, inner) else rest
        named[outer + bare] = tensor
    return named
