"""A trained model over HTTP: the embeddings API that existing clients speak, search, zero-shot labels, and a page."""

from __future__ import annotations

from .limits import Limits
from .protocols import Encoder, Hit, SearchIndex, Texts

__all__ = ["Encoder", "Hit", "Limits", "SearchIndex", "Texts"]
