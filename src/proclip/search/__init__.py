"""Search in one's own pictures: a catalogue of files, their vectors, and what finds the nearest of them."""

from __future__ import annotations

from .encoder import Encoder
from .index import Hit, Index
from .indexing import IndexReport, update_index

__all__ = ["Encoder", "Hit", "Index", "IndexReport", "update_index"]
