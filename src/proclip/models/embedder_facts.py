"""What is true of an embedder as it is used, for people: only what its backend reads, no weights loaded.

A sentence-transformers model's pooling, padding and prompts stand in its own files; they are read where the files are
on this machine, and nothing is downloaded for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import EmbedderConfig, to_dict
from ..errors import ProclipError
from ..files import read_json
from .checkpoint_files import declared_modules
from .embedder_source import chat_frame
from .hub import local_file

OF_CAUSAL_LM = {"gguf_file", "pooling", "layer", "skip_tokens", "padding_side"}
PROMPTS = {"instruction", "prompt_name", "class_instruction", "class_prompt_name"}
DECLARED = "as the model declares"
LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
"""Keys of ``1_Pooling/config.json`` before sentence-transformers had ``pooling_mode``, and its words for them."""


def embedder_facts(config: EmbedderConfig, inside: Path | None = None) -> dict[str, Any]:
    """The settings that count, with pooling, padding and prompts as they are used.

    Args:
        config: of the embedder.
        inside: folder of the proclip model, which may hold the embedder's.

    Returns:
        JSON values: the config's fields without those that its backend does not read; ``pooling`` and ``padding_side``
        always; ``prompts``, the texts before ``captions`` and ``class names``, '' for none.
    """
    left_out = PROMPTS | {"chat"} | (set() if config.backend == "causal-lm" else OF_CAUSAL_LM)
    said = {name: value for name, value in to_dict(config).items() if name not in left_out}
    facts: dict[str, Any] = {name: value for name, value in said.items() if value is not False and value != []}
    prompts: Mapping[str, str | None] | None = {}
    default = None
    if config.backend == "sentence-transformers":
        modules = local_file(config.model, "modules.json", config.revision)
        if inside is not None and (inside / config.model / "modules.json").is_file():
            modules = inside / config.model / "modules.json"
        folder = modules.parent if modules is not None else None
        facts |= {"pooling": DECLARED, "padding_side": DECLARED} if folder is None else _declared(folder)
        prompts, default = (None, None) if folder is None else _declared_prompts(folder)
    elif config.backend == "llm2vec":
        facts |= {"pooling": "mean of the text's own tokens", "padding_side": "left", "chat": chat_frame(config)}
    shown = {"captions": config, "class names": config.for_classes()}
    return {**facts, "prompts": {of: prompt_of(one, prompts, default) for of, one in shown.items()}}


def prompt_of(config: EmbedderConfig, declared: Mapping[str, str | None] | None, default: str | None) -> str:
    """The text before a caption.

    Args:
        config: of the embedder.
        declared: prompts of the model by name, None if they are not known.
        default: name of the one that is used where the config names none.
    """
    if config.instruction:
        return config.instruction
    if declared is None:
        return f"the model's {config.prompt_name!r}" if config.prompt_name else DECLARED
    return declared.get(config.prompt_name or default or "") or ""


def _declared_prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name, and the name of the default one, as a sentence-transformers model's folder declares them."""
    path = folder / "config_sentence_transformers.json"
    values = _json(path)
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ProclipError(f"{path}: prompts must be an object, of names and texts")
    return prompts, values.get("default_prompt_name")


def _declared(folder: Path) -> dict[str, str]:
    """Pooling and padding side, as a sentence-transformers model's folder declares them."""
    of_kind = {module.kind.rsplit(".", 1)[-1]: module.path for module in declared_modules(folder)}
    pooling = DECLARED
    if "Pooling" in of_kind:
        values = _json(folder / of_kind["Pooling"] / "config.json")
        modes = (
            values.get("pooling_mode") or [mode for key, mode in LEGACY_POOLING.items() if values.get(key)] or "mean"
        )
        pooling = modes if isinstance(modes, str) else " + ".join(modes)
    return {"pooling": pooling, "padding_side": _padding_side(folder / of_kind.get("Transformer", ""))}


def _padding_side(folder: Path) -> str:
    settings = _json(folder / "sentence_bert_config.json")
    options = {**(settings.get("tokenizer_args") or {}), **(settings.get("processor_kwargs") or {})}
    named = options.get("padding_side") or _json(folder / "tokenizer_config.json").get("padding_side")
    padding = _json(folder / "tokenizer.json").get("padding") or {}
    return str(named or padding.get("direction") or "right").lower()


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
