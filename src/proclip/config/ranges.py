"""The check that every config makes of its own fields."""

from __future__ import annotations

from ..errors import ProclipError


def require(condition: bool, name: str, wanted: str, value: object) -> None:
    """Raise `ProclipError` naming the field, what it must be and what it is."""
    if not condition:
        raise ProclipError(f"{name} must be {wanted}, not {value!r}")
