"""Where the time of a call goes, by kind of operation: torch's profiler, summed up for a result file."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "joined by the compiler": "triton",
    "products of matrices": "::(addmm|mm|bmm|baddbmm)$",
    "convolutions": "conv",
    "attention": "attention",
    "norms": "layer_?norm|rms_?norm|linalg_vector_norm",
    "copies, other precisions": "::(copy_|cat|zero_|fill_)$|Memcpy|Memset",
    "optimiser, EMA": "adam|_foreach",
}
"""Patterns of operators' names; what fits none is element by element."""
REST, UNKNOWN = "element by element", "of no operator"
OPERATORS = 12
"""The longest, listed by themselves."""


def where_time_goes(call: Callable[[], object]) -> dict[str, Any]:
    """Profile one call, on a GPU by what that computes, and time another without the profiler.

    Returns:
        ``seconds`` of a call, ``computing`` of it on the device, ``shares`` of `KINDS` of the latter, and the longest
        ``operators``.
    """
    cuda = torch.cuda.is_available()
    call()
    _wait(cuda)
    start = time.perf_counter()
    call()
    _wait(cuda)
    seconds = time.perf_counter() - start
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, acc_events=True) as found:
        call()
        _wait(cuda)
    own: Counter[str] = Counter()
    total = 0.0
    for event in found.key_averages():
        if (
            getattr(event, "is_user_annotation", False) or event.key == "Command Buffer Full"
        ):  # these stand beside what they are of
            continue
        if cuda and event.device_type.name == "CUDA":
            total += event.self_device_time_total
        else:
            own[event.key] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = max(total, float(own.total()))  # kernels of no operator are in the total alone
    shares: dict[str, float] = {}
    for name, microseconds in own.items():
        shares[_kind(name)] = shares.get(_kind(name), 0.0) + microseconds / total
    shares[UNKNOWN] = 1 - sum(shares.values())
    return {
        "seconds": seconds,
        "computing": total / 1e6,
        "shares": {
            kind: round(shares[kind], 3) for kind in sorted(shares, key=lambda k: -shares[k]) if shares[kind] >= 0.001
        },
        "operators": {name: round(us / 1e3, 3) for name, us in own.most_common(OPERATORS)},
    }


def _kind(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), REST)


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()
