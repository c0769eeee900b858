"""Trained models for other runtimes: ONNX graphs with a manifest, and ``torch.export`` programs."""

from __future__ import annotations

from .onnx_folder import PARTS, ExportReport, export_onnx
from .torch_program import export_torch

__all__ = ["PARTS", "ExportReport", "export_onnx", "export_torch"]
