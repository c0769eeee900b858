"""Where models compute."""

from __future__ import annotations

import torch

from ..errors import ProclipError, one_line


def pick_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def known_device(device: str | torch.device | None) -> str:
    """The device itself, or `pick_device` where none is named.

    Raises:
        ProclipError: this machine does not have it.
    """
    if device is None:
        return pick_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ProclipError(
            f"device {str(device)!r} is not to be had here: {one_line(error, 70)} (cpu, cuda, cuda:1 are such)"
        ) from None
    if torch.device(device).type == "meta":
        raise ProclipError("device 'meta' holds no weights (cpu, cuda, cuda:1 are such that do)")
    return str(device)
