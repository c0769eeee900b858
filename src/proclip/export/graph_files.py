"""A graph as an ONNX file, in float32, float16 or with dynamic int8 products."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..errors import ProclipError, one_line
from ..onnx.manifest import Precision
from .graphs import Graph, quiet, traced

LARGEST_FILE = 1_800_000_000
"""Bytes of weights above which they lie in a file of their own beside the graph: a protobuf ends at 2 GiB."""


def write_graph(graph: Graph, path: Path, precision: Precision, what: str) -> None:
    """Trace a graph and write it.

    Args:
        graph: float32; for float16 it is one of float16 afterwards.
        path: of the ``.onnx`` file; large weights go to ``.onnx.data`` beside it.
        precision: of weights and arithmetic. ``int8``: weights int8, a scale for each output channel; what they are
            multiplied with is rounded to uint8 as it comes, by a scale for each product.
        what: the part, for messages.

    Raises:
        ProclipError: it does not export; the message says why.
    """
    if precision == "float16":
        graph.set_dtype(torch.float16)
    if precision != "int8":
        _write(graph, path, what)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / path.name
        _write(graph, whole, what)
        with quiet():
            quantize_dynamic(
                whole,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=_is_large(graph),
            )


def _is_large(graph: Graph) -> bool:
    return sum(t.numel() * t.element_size() for t in graph.state_dict().values()) > LARGEST_FILE


def _write(graph: Graph, path: Path, what: str) -> None:
    program = traced(graph, what)
    try:
        with quiet(), torch.no_grad():
            found = torch.onnx.export(
                program,
                input_names=list(graph.axes),
                output_names=[graph.output],
                dynamic_shapes={name: dict(axes) for name, axes in graph.axes.items()},
                verbose=False,
            )
            assert found is not None
            found.save(path, external_data=_is_large(graph))
    except Exception as error:  # an operator that ONNX has no words for
        raise ProclipError(f"{what} does not export: it cannot be said in ONNX: {one_line(error)}") from None
