"""Precisions by their names, and which of them a device is quick in."""

from __future__ import annotations

import torch

from ..errors import ProclipError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Precisions in which models compute."""


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 is no slower than float32 on a device.

    It is not on a CPU without instructions for it (x86 before AVX-512), where a product of matrices takes up to a
    hundred times as long: there float32 is used instead, which loses nothing but memory.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
    """
    if not device.startswith("cpu"):
        return True
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # built without oneDNN
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def known_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """One of `DTYPES`, by its name or itself; None for None.

    Raises:
        ProclipError: it is another.
    """
    if dtype is None:
        return None
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in DTYPES.values():
        raise ProclipError(f"dtype {dtype!r} is not known: {', '.join(DTYPES)} are")
    return found
