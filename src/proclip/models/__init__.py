"""Towers, embedders, the adapter and the model they make; heavy backends are imported when they are used."""

from __future__ import annotations
