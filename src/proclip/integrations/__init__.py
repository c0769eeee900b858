"""Our models in other libraries' terms: sentence-transformers, transformers, mteb. Each is imported when asked for."""

from __future__ import annotations
