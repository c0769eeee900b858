"""Model folders on disk: written whole or not at all, pinned to the hub's commits, the embedder inside if asked."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from ..config import EmbedderConfig
from ..errors import ProclipError
from ..files import replacing, write_folder
from .embedder import embedder_identity, identity_difference
from .embedder_source import locate, settings_of
from .hub import COMMIT, commit_of, lasting_name, local_file

EMBEDDER_FOLDER = "embedder"
EMBEDDER_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja"}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, atomically."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as draft:
        save_file(plain, draft, metadata={"format": "pt"})


def pinned_revision(name: str | None, revision: str | None, file: str = "config.json") -> str | None:
    """The commit that a hub id's revision is in this machine's cache; as given for a folder or where none is cached.

    Nothing is downloaded: what was loaded is cached.

    Args:
        name: hub id, folder, or a name of ours.
        revision: branch, tag or commit; the default branch if None.
        file: one that was certainly loaded.
    """
    if name is None or Path(name).exists() or (revision is not None and COMMIT.fullmatch(revision)):
        return revision
    found = local_file(name, file, revision)
    return (commit_of(found.parent) if found is not None else None) or revision


def pinned_embedder(config: EmbedderConfig) -> EmbedderConfig:
    """The same embedder with the commit of its hub revision; folders by their absolute path, nothing compiled."""
    revision = pinned_revision(config.model, config.revision, config.gguf_file or "config.json")
    lora = tuple(lasting_name(name) for name in config.lora)
    return dataclasses.replace(config, model=lasting_name(config.model), revision=revision, lora=lora, compile=False)


def placed_embedder(
    config: EmbedderConfig, identity: Mapping[str, Any] | None, name: str
) -> tuple[EmbedderConfig, dict[str, Any] | None]:
    """An embedder whose model lies elsewhere now: its config, and the identity that the model there must have.

    A folder's name may have changed with its place; the hash of its files may not.

    Args:
        config: of the embedder.
        identity: what the adapter was trained with, None if that is not known.
        name: folder or hub id.
    """
    chat = (identity or {}).get("chat", config.chat)  # else told by the model's name
    placed = dataclasses.replace(config, model=name, revision=None, chat=chat)
    return placed, {**identity, "model": settings_of(placed)["model"]} if identity is not None else None


def is_inside(model: str) -> bool:
    """Whether an embedder's name in a ``config.json`` is a folder of the model's own (``embedder/NAME``)."""
    parts = PurePosixPath(model).parts
    return len(parts) == 2 and parts[0] == EMBEDDER_FOLDER and parts[1] != ".."


def copy_embedder(
    config: EmbedderConfig, identity: Mapping[str, Any] | None, folder: Path
) -> tuple[EmbedderConfig, dict[str, Any]]:
    """Copy the LLM's files into ``folder/embedder/NAME``; nothing is copied where they are there already.

    Args:
        config: of the embedder.
        identity: what the adapter was trained with, None if that is not known.
        folder: of the model.

    Returns:
        the copy's config, whose model is the relative path, and its identity: the same but for the model's name.

    Raises:
        ProclipError: the LLM cannot be found, has LoRA adapters beside it, or its files are not those that the adapter
            was trained with.
    """
    if lora := config.lora:
        raise ProclipError(f"include_embedder: LoRA adapters are not copied into a model yet ({', '.join(lora)})")
    source = locate(config)
    name = Path(config.model).resolve().name if Path(config.model).is_dir() else config.model.rsplit("/", 1)[-1]
    target = folder / EMBEDDER_FOLDER / name
    own = target.is_dir() and target.resolve() == source.folder.resolve()
    if not own:
        shutil.rmtree(target, ignore_errors=True)
        write_folder(target, lambda draft: _copy(source.folder, draft, source.gguf_file, config.trust_remote_code))
    inside = dataclasses.replace(config, model=str(target), revision=None, gguf_file=source.gguf_file)
    copied = embedder_identity(inside)
    if identity is not None:
        wanted = {**identity, "model": copied["model"]}
        if differ := identity_difference(wanted, copied):
            if not own:
                shutil.rmtree(target, ignore_errors=True)
            raise ProclipError(f"the embedder {config.model!r} is not the one the adapter was trained with: {differ}")
    return dataclasses.replace(inside, model=f"{EMBEDDER_FOLDER}/{name}"), copied


def _copy(source: Path, target: Path, gguf_file: str | None, code: bool) -> None:
    """Copy a model's files, links (the hub's cache has them) followed."""
    if gguf_file is not None:
        paths = [source / gguf_file]
    else:
        suffixes = EMBEDDER_SUFFIXES | ({".py"} if code else set())
        paths = [path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix in suffixes]
    for path in paths:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
