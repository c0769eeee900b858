"""A model under evaluation by its name, of whatever kind it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import config_hash, load_recipe
from ..errors import ProclipError
from ..models.clip import checkpoint_folder
from ..models.embedder import LazyEmbedder
from ..models.loading import SENTENCE_TRANSFORMERS_PREFIX, load, model_folder, model_kind
from ..models.open_clip_source import HUB_PREFIX
from ..models.proclip import ProCLIP
from ..models.tower_identity import weights_digest
from .dual_encoder import DualEncoder, label_of
from .sentence_transformers_model import open_sentence_transformer
from .tower_images import TowerImages

KNOWN_LANGUAGES = {"mini-clip": ("en",), "smollm2": ("en",)}
"""Of models that are named without a folder or hub id: mini-clip saw English, SmolLM2's card names English."""


def open_model(name: str, device: str = "cpu", languages: Sequence[str] | None = None) -> DualEncoder:
    """Open a model for evaluation.

    Args:
        name: a run folder; a folder or hub id of a proclip model, of a CLIP or SigLIP of transformers, of OpenCLIP
            (also ``open_clip:MODEL/TAG``, ``hf-hub:ORG/NAME``) or of sentence-transformers; or ``mini-clip``.
            ``st:NAME`` is always read by sentence-transformers.
        device: where it computes.
        languages: codes of the languages that its text side was trained on; those that its model card names if None.

    Raises:
        ProclipError: there is no such model, it is of none of these kinds, or it encodes texts alone.
    """
    model = _open(name, device)
    return model if languages is None else replace(model, languages=tuple(languages))


def _open(name: str, device: str) -> DualEncoder:
    path = model_folder(name)
    if model_kind(path) == "sentence-transformers":
        path = path.removeprefix(SENTENCE_TRANSFORMERS_PREFIX)
        return open_sentence_transformer(path, device, card_languages(path))
    about = dict[str, Any](path=name)
    if (recipe := Path(name) / "recipe.toml").is_file():
        read = load_recipe(recipe)
        about |= {"config_hash": config_hash(read), "seed": read.seed}
    clip = load(path, device)
    if isinstance(clip, ProCLIP):
        return of_proclip(clip, label_of(name), about)
    return DualEncoder(
        name=label_of(name),
        images=TowerImages(clip.image_tower, clip.preprocess),
        texts=clip,
        project_text=lambda vectors: vectors,
        about=about,
        languages=card_languages(path),
        logit_scale=clip.logit_scale,
        logit_bias=clip.logit_bias,
    )


def of_proclip(model: ProCLIP, name: str, about: Mapping[str, Any], kept: bool = True) -> DualEncoder:
    """A model of ours that is in memory, perhaps in training: what it holds now is what is evaluated.

    Args:
        model: where it is to compute.
        name: what tables call it.
        about: ``path``, ``config_hash``, ``seed``, as far as they are known.
        kept: whether a cache may keep what its image tower gives.
    """
    embedder, config = model.embedder, model.embedder_config

    def close() -> None:
        if isinstance(embedder, LazyEmbedder):
            embedder.close()

    return DualEncoder(
        name=name,
        images=TowerImages(model.image_tower, model.preprocess, kept),
        texts=embedder,
        project_text=model.project_text,
        about={**about, "clip": model.clip_name, "adapter": weights_digest(model.adapter)},
        languages=card_languages(config.model) if config is not None else None,
        logit_scale=model.logit_scale.item(),
        logit_bias=model.logit_bias.item() if model.logit_bias is not None else None,
        close=close,
    )


def card_languages(name: str) -> tuple[str, ...] | None:
    """The languages that a model card names (``language`` in its front matter); None where it names none.

    Args:
        name: folder, hub id or a name of ours; of a model that is none of these nothing is known.
    """
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if name in KNOWN_LANGUAGES:
        return KNOWN_LANGUAGES[name]
    try:
        card = checkpoint_folder(name.removeprefix(HUB_PREFIX), None, ["README.md"]) / "README.md"
        language = ModelCard.load(card).data.to_dict().get("language") if card.is_file() else None
    except (ProclipError, ValueError, YAMLError):
        return None
    named = [language] if isinstance(language, str) else language
    codes = [str(code) for code in named] if isinstance(named, list) else []
    return tuple(codes) if codes and "multilingual" not in codes else None
