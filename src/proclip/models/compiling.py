"""torch.compile of an image tower and of an LLM's blocks, and whether it works here."""

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


def compile_blocks(model: nn.Module) -> None:
    """Run the blocks of a model of transformers through ``torch.compile``, in place, for inputs of any shape.

    Equal blocks share their code, so that it takes no longer for many than for one. Of a model that does not say what
    its blocks are all is compiled.
    """
    kinds = {kind for module in model.modules() for kind in getattr(module, "_no_split_modules", None) or ()}
    blocks = [module for module in model.modules() if type(module).__name__ in kinds]
    for block in blocks or [model]:
        block.compile(dynamic=True)


def check_compiler(device: str, field: str) -> None:
    """Compile a product of two numbers for a device, forward and backward.

    Args:
        device: which.
        field: of the config that asks for it, for the message.

    Raises:
        ProclipError: that does not work; the message says why.
    """
    try:
        number = torch.ones(2, device=device, requires_grad=True)
        torch.compile(lambda x: torch.tanh(x * x))(number).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a tool chain can lack: compilers raise errors of many kinds
        wanted = "a C++ compiler (g++ or clang++; the variable CXX names another)" if device == "cpu" else "Triton"
        raise ProclipError(
            f"{field}: torch.compile does not work on {device} here; it wants {wanted}: {one_line(error)}"
        ) from None
