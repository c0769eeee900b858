"""``proclip inspect``: what a model is and where it comes from, in one screen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..config import load_recipe, to_dict
from ..errors import ProclipError
from ..files import read_json
from ..models.card import front_matter
from ..models.clip import checkpoint_folder, load_clip
from ..models.embedder_facts import embedder_facts
from ..models.hub import commit_of, local_file
from ..models.loading import model_folder
from ..models.model_config import is_proclip, read_model_config
from ..models.open_clip_source import CONFIG_FILE, HUB_PREFIX, PREFIX, is_open_clip
from ..models.proclip import FILES

ADAPTER_STATISTICS = {"adapter.input_mean", "adapter.input_std"}
"""What a model's file holds beside its parameters."""


def inspect_command(name: str, as_json: bool = False) -> dict[str, Any]:
    """Describe a model and print it.

    Args:
        name: folder or hub id of a proclip or CLIP model, a run folder, ``mini-clip``, or a name of OpenCLIP.
        as_json: print JSON in place of the table.

    Returns:
        what is printed.

    Raises:
        ProclipError: no such model, or one that cannot be read.
    """
    facts = describe(name)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return facts
    table = Table("", Column(overflow="fold"), title=name, show_header=False, title_justify="left")
    for key, text in _screen(facts).items():
        table.add_row(key.replace("_", " "), escape(text))
    Console().print(table)
    return facts


def describe(name: str) -> dict[str, Any]:
    """The facts that `inspect_command` prints; of a proclip model only headers are read, no weights."""
    run = Path(name)
    if (inner := model_folder(name)) != name:
        return {**describe(inner), "run": _run_facts(run)}
    if is_open_clip(name):
        facts, folder = _clip_facts(name), _open_clip_folder(name)
    else:
        folder = checkpoint_folder(name) if name == "mini-clip" or run.is_dir() else _hub_folder(name)
        facts = _proclip_facts(folder) if is_proclip(folder) else _clip_facts(name)
    if folder is not None:
        facts |= {"revision": commit_of(folder)} if commit_of(folder) else {}
        card = folder / "README.md"
        matter = front_matter(card.read_text(encoding="utf-8")) if card.is_file() else {}
        facts |= {"card": matter} if matter else {}
    if run.is_dir() and (run.resolve().parent / "recipe.toml").is_file():
        facts["run"] = _run_facts(run.resolve().parent)
    return facts


def _hub_folder(name: str) -> Path:
    """The hub's folder of a proclip model; of another kind, the config alone: `load_clip` fetches the rest."""
    folder = checkpoint_folder(name, allow_patterns=["config.json"])
    return checkpoint_folder(name, allow_patterns=FILES) if is_proclip(folder) else folder


def _open_clip_folder(name: str) -> Path | None:
    """Where the card of an OpenCLIP model that was loaded lies; None where weights are known by a tag or a file."""
    config = local_file(name.removeprefix(PREFIX).removeprefix(HUB_PREFIX), CONFIG_FILE)
    return config.parent if config is not None else None


def _proclip_facts(folder: Path) -> dict[str, Any]:
    config = read_model_config(folder)
    preprocess = folder / "preprocessor_config.json"
    size = (read_json(preprocess).get("crop_size") or {}) if preprocess.is_file() else {}
    weights = folder / "model.safetensors"
    embedder = embedder_facts(config.embedder, folder)
    return {
        "kind": "proclip",
        "shared_space": config.embed_dim,
        "image_tower": {"family": config.image_tower.family, "from": config.clip, "revision": config.clip_revision,
                        "image_size": size.get("height") if isinstance(size, dict) else size},
        "adapter": {"from": config.llm_dim, "to": config.embed_dim, **to_dict(config.adapter)},
        "embedder": {name: value for name, value in embedder.items() if name != "prompts"},
        "prompts": embedder["prompts"],
        "parameters": count_parameters(weights),
        "file_bytes": weights.stat().st_size,
        **({"trained": config.provenance} if config.provenance else {}),
    }  # fmt: skip


def _clip_facts(name: str) -> dict[str, Any]:
    clip = load_clip(name)
    towers = {"image_tower": clip.image_tower, "text_tower": clip.text_tower}
    return {
        "kind": "clip",
        "shared_space": clip.dim,
        "image_tower": {"family": clip.image_tower.family, "blocks": len(clip.image_tower.blocks),
                        "image_size": getattr(clip.preprocess, "size", None)},
        "text_tower": {"context_length": clip.tokenizer.context_length},
        "logit_scale": round(clip.logit_scale, 4),
        "parameters": {part: sum(p.numel() for p in tower.parameters()) for part, tower in towers.items()},
        "sha256": clip.identity["sha256"],
    }  # fmt: skip


def count_parameters(path: Path) -> dict[str, int]:
    """How many parameters each part of a model's file has, by the first word of their names; weights are not read.

    Raises:
        ProclipError: the file is missing or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    counts: dict[str, int] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in set(file.keys()) - ADAPTER_STATISTICS:
                number = 1
                for side in file.get_slice(name).get_shape():
                    number *= side
                part = name.split(".")[0]
                counts[part] = counts.get(part, 0) + number
    except (FileNotFoundError, SafetensorError) as error:
        raise ProclipError(f"{path} cannot be read: {error}") from None
    return counts


def _run_facts(run: Path) -> dict[str, Any]:
    """What a run folder's files say of how it was made."""
    recipe = load_recipe(run / "recipe.toml")
    plain = to_dict(recipe)
    facts: dict[str, Any] = {"recipe": recipe.name, "seed": recipe.seed, "data": recipe.data.named}
    for stage in ("distill", "tune", "pretrain"):
        if stage in plain:
            facts[stage] = {key: plain[stage][key] for key in ("split", "captions", "epochs", "batch_size")}
    for name in ("inputs", "environment"):
        if (run / f"{name}.json").is_file():
            facts[name] = read_json(run / f"{name}.json")
    return facts


def _screen(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts that fit on one screen; ``--json`` has all of them."""
    rows = {name: _shown(value) for name, value in facts.items() if name not in ("trained", "run", "card")}
    if prompts := facts.get("prompts"):
        rows["prompts"] = ", ".join(f"{of} {json.dumps(text, ensure_ascii=False)}" for of, text in prompts.items())
    if "file_bytes" in facts:
        rows["file_bytes"] = f"{facts['file_bytes'] / 1e6:,.1f} MB"
    trained = facts.get("trained") or {}
    origin = trained.get("converted_from") or {}
    rows["converted_from"] = _shown(origin)
    made_by = ("alpha",) if origin else ("recipe", "seed", "config_hash", "commit", "alpha")
    rows["trained_by"] = _shown({key: trained.get(key) for key in made_by})
    rows["parents"] = _shown(trained.get("parents"))
    data = trained.get("data") or {}
    benchmark = {**(data.get("benchmark") or {})}
    benchmark["checksum"] = str(benchmark.get("checksum", ""))[:12]
    stages = [f"{stage}: {text}" for stage, text in (data.get("stages") or {}).items()]
    rows["on"] = "\n".join(filter(None, [_shown({"data": data.get("dataset"), **benchmark}), *stages]))
    rows["by_command"] = _shown(trained.get("commands"))
    card, run = facts.get("card") or {}, facts.get("run") or {}
    rows["licence"] = _shown(card.get("license"))
    if run and not trained:
        rows["run"] = _shown({key: run.get(key) for key in ("recipe", "seed", "data", "distill", "tune", "pretrain")})
    rows["run_inputs"] = _shown(run.get("inputs"))
    return {name: text for name, text in rows.items() if text}


def _shown(value: Any) -> str:
    """A value as text: tables as ``key value`` pairs, lists one a line, big numbers with commas, '' for nothing.

    Line breaks in a text, as a chat frame has them, are shown escaped.
    """
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, Mapping):
        pairs = [(str(key).replace("_", " "), _shown(item)) for key, item in value.items()]
        return ", ".join(f"{key} {text}".replace("\n", " + ") for key, text in pairs if text)
    if isinstance(value, list):
        return "\n".join(_shown(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10000:
        return f"{value:,}"
    return str(value).replace("\n", "\\n")
