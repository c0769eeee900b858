"""proclip: a language model's understanding of text for any CLIP, without losing what CLIP knows.

An implementation of ProCLIP (arXiv 2510.18795). This file is the public API's table of contents; what it names is
imported when first used, so that ``import proclip`` is light; transformers' Auto API learns of our models as soon as it
is imported itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .integrations.when_imported import register_when_imported

if TYPE_CHECKING:
    from .config import Recipe as Recipe
    from .config import load_recipe as load_recipe
    from .data.dataset import ImageCaptions as ImageCaptions
    from .data.store import EmbeddingStore as EmbeddingStore
    from .errors import ProclipError as ProclipError
    from .integrations.transformers import register_auto as register_auto
    from .models.adapter import Adapter as Adapter
    from .models.clip import Clip as Clip
    from .models.clip import load_clip as load_clip
    from .models.embedder import TextEmbedder as TextEmbedder
    from .models.embedder import load_embedder as load_embedder
    from .models.loading import load as load
    from .models.proclip import ProCLIP as ProCLIP
    from .search import Index as Index

__version__ = "0.1.0"

_HOME = {
    "Adapter": "models.adapter",
    "Clip": "models.clip",
    "EmbeddingStore": "data.store",
    "ImageCaptions": "data.dataset",
    "Index": "search",
    "ProCLIP": "models.proclip",
    "ProclipError": "errors",
    "Recipe": "config",
    "TextEmbedder": "models.embedder",
    "load": "models.loading",
    "load_clip": "models.clip",
    "load_embedder": "models.embedder",
    "load_recipe": "config",
    "register_auto": "integrations.transformers",
}
__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'proclip' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__


register_when_imported()
