"""A graph as an ONNX file, in float32, float16 or with dynamic int8 products."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..onnx.manifest import Precision
from .graphs import Graph, exporting, traced

LARGEST_FILE = 1_800_000_000
"""Bytes of weights above which they lie in a file of their own beside the graph: a protobuf ends at 2 GiB."""


def write_graph(graph: Graph, path: Path, precision: Precision, what: str) -> None:
    """Trace a graph and write it.

    Args:
        graph: float32; for float16 it is one of float16 afterwards.
        path: of the ``.onnx`` file; large weights go to ``.onnx.data`` beside it.
        precision: of weights and arithmetic. ``int8``: the weights of linear layers are int8, and what they are
            multiplied with is rounded as it comes; see `Graph.blockwise` for the scales.
        what: the part, for messages.

    Raises:
        DoesNotExport: torch or ONNX cannot say it, or it cannot be quantized.
    """
    if precision == "float16":
        graph.set_dtype(torch.float16)
    if precision != "int8":
        _write(graph, path, what)
        return
    with TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / path.name
        _write(graph, whole, what)
        with exporting(what, "it cannot be quantized"):
            (_quantize_in_blocks if graph.blockwise else _quantize)(whole, path, _is_large(graph))


def _quantize(source: Path, path: Path, external: bool) -> None:
    """A scale for each output channel of the weights, and one for all that a product is given."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=external,
    )


def _quantize_in_blocks(source: Path, path: Path, external: bool) -> None:
    """A scale for each 32 weights of an output channel, and for each 32 numbers that they are multiplied with."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=8, block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path), external)


def _is_large(graph: Graph) -> bool:
    size: int = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    return size > LARGEST_FILE


def _write(graph: Graph, path: Path, what: str) -> None:
    program = traced(graph, what)
    with exporting(what, "it cannot be said in ONNX"):
        found = torch.onnx.export(
            program,
            input_names=list(graph.axes),
            output_names=[graph.output],
            dynamic_shapes={name: dict(axes) for name, axes in graph.axes.items()},
            verbose=False,
        )
        assert found is not None
        found.save(path, external_data=_is_large(graph))
