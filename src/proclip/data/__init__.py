"""Embedding stores, datasets and the batches that training reads."""

from __future__ import annotations
