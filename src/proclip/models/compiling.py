"""torch.compile of a tower, and whether it works here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProclipError, one_line


def compiled(tower: nn.Module) -> Callable[..., Tensor]:
    """What runs a tower through ``torch.compile``. The tower itself stays as it is, its state dict's names with it."""
    run: Any = torch.compile(tower)
    call: Callable[..., Tensor] = run.__call__  # no module: a module that holds it would have its weights twice
    return call


def check_compiler(device: str) -> None:
    """Compile a product of two numbers for a device, forward and backward.

    Raises:
        ProclipError: that does not work; the message says why.
    """
    try:
        number = torch.ones(2, device=device, requires_grad=True)
        torch.compile(lambda x: torch.tanh(x * x))(number).sum().backward()
    except Exception as error:  # whatever a tool chain can lack: compilers raise errors of many kinds
        wanted = "a C++ compiler (g++ or clang++; the variable CXX names another)" if device == "cpu" else "Triton"
        raise ProclipError(
            f"tune.image.compile: torch.compile does not work on {device} here; it wants {wanted}: {one_line(error)}"
        ) from None
