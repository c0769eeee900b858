"""``proclip export``: a trained model for ONNX Runtime, or its image tower as a program of ``torch.export``."""

from __future__ import annotations

import argparse
import sys

from ..export import export_onnx, export_torch
from ..models.loading import load


def export_command(arguments: argparse.Namespace) -> None:
    """Export, and print what was written and how far it is from torch.

    Raises:
        ProclipError: what `load`, `export_onnx` and `export_torch` raise.
    """
    if arguments.format == "torch":
        model = load(arguments.model, "cpu")
        found = export_torch(model, arguments.out)
        print(f"{arguments.out}: differs from the tower by {found['largest_difference']:.2g} at most")
        return
    model = load(arguments.model, "cpu", embedder=arguments.embedder)
    parts = [part.strip() for part in arguments.parts.split(",")] if arguments.parts is not None else None
    report = export_onnx(
        model, arguments.out, parts, arguments.precision, lambda line: print(f"{line} ...", file=sys.stderr)
    )
    for name, size in report.sizes.items():
        print(f"{arguments.out / name}  {size / 1e6:,.1f} MB")
    for part, figures in report.manifest.parity.items():
        unit = "of its largest entry " if part == "embedder" else ""
        print(
            f"{part}: differs from torch in float32 by {figures['largest_difference']:.2g} {unit}at most, "
            f"least cosine {figures['least_cosine']:.6f}"
        )
    for part, reason in report.manifest.left_out.items():
        print(f"left out: {part}: {reason}", file=sys.stderr)
