"""Exports that are refused, whole and with what would be right; precisions of the model, and weights beside a graph."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime.quantization
import pytest
import torch

import proclip
import proclip.onnx
from proclip.cli import main
from proclip.config import AdapterConfig
from proclip.errors import ProclipError
from proclip.export import export_onnx, export_torch, graph_files
from proclip.export.graphs import AdapterGraph, DoesNotExport, quiet
from proclip.models.adapter import Adapter
from proclip.models.causal_lm import CausalLMEmbedder
from proclip.models.embedder import Encoded
from proclip.models.proclip import ProCLIP


@pytest.fixture
def model(tiny_proclip_path: Path) -> ProCLIP:
    return ProCLIP.from_pretrained(tiny_proclip_path)


def elsewhere(model: ProCLIP) -> str:
    assert model.embedder_config is not None
    model.embedder_config = dataclasses.replace(model.embedder_config, model="/nowhere/llm")
    return r"'/nowhere/llm' is neither .* --embedder PATH"


def of_another_layer(model: ProCLIP) -> str:
    assert model.embedder_identity is not None
    model.embedder_identity["layer"] = 5
    return "the embedder is not the one the adapter was trained with: layer"


@pytest.mark.usefixtures("graphs_at_hand")
@pytest.mark.parametrize("change", [elsewhere, of_another_layer])
def test_an_llm_that_is_missing_or_another_is_an_error(
    model: ProCLIP, change: Callable[[ProCLIP], str], tmp_path: Path
) -> None:
    with pytest.raises(ProclipError, match=rf"{change(model)}.*; without this part: --parts image,adapter$"):
        export_onnx(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("graphs_at_hand")
def test_an_llm_with_other_vectors_is_an_error(model: ProCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = CausalLMEmbedder.encode

    def moved(self: CausalLMEmbedder, texts: Any) -> Encoded:
        encoded = encode(self, texts)
        return dataclasses.replace(encoded, embeds=encoded.embeds + 1)

    monkeypatch.setattr(CausalLMEmbedder, "encode", moved)
    with pytest.raises(ProclipError, match=r"^embedder: the export differs .*: --parts image,adapter$"):
        export_onnx(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_the_quantizer_raises(model: ProCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **settings: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(onnxruntime.quantization, "quantize_dynamic", fails)
    with pytest.raises(DoesNotExport, match=r"^the adapter does not export: it cannot be quantized: .*no such kernel"):
        graph_files.write_graph(AdapterGraph(model.adapter), tmp_path / "adapter.onnx", "int8", "the adapter")


def test_only_exporters_are_quiet(
    model: ProCLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with quiet():
        for logger in ("torch.onnx.part", "mine", None):
            logging.getLogger(logger).warning("of %s", logger)
    graph_files.write_graph(AdapterGraph(model.adapter), tmp_path / "adapter.onnx", "int8", "the adapter")
    assert caplog.messages == ["of mine", "of None"]
    assert "torchvision" not in capfd.readouterr().err


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_model_in_half_precision_exports_in_float32(tiny_proclip_path: Path, tmp_path: Path, dtype: str) -> None:
    half = proclip.load(tiny_proclip_path, "cpu", dtype)
    assert isinstance(half, ProCLIP)
    for parameter in half.adapter.parameters():
        parameter.data.add_(torch.randn_like(parameter))  # gains and biases of LayerNorms are folded
    found = export_onnx(half, tmp_path / "out", ["image", "adapter"]).manifest.parity
    assert found["image"]["largest_difference"] < 1e-5 and found["adapter"]["largest_difference"] < 1e-5
    assert {parameter.dtype for parameter in half.adapter.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_large_weights_lie_beside_the_graph(
    model: ProCLIP, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.adapter = Adapter(
        64, 16, AdapterConfig(num_blocks=1)
    ).eval()  # the quantizer leaves tensors below 1 KiB inside
    vectors = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    export_onnx(model, tmp_path / "whole", ["adapter"], precision)
    monkeypatch.setattr(graph_files, "LARGEST_FILE", 0)
    report = export_onnx(model, tmp_path / "apart", ["adapter"], precision)
    assert sorted(report.sizes) == ["adapter.onnx", "adapter.onnx.data", "proclip_onnx.json"]
    assert report.sizes["adapter.onnx.data"] > 0
    moved = (tmp_path / "apart").rename(tmp_path / "moved")
    found, wanted = (proclip.onnx.load(path).project_text(vectors) for path in (moved, tmp_path / "whole"))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_arguments(model: ProCLIP, tiny_clip_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="precision 'fp8' is not known: float32, float16, int8 are"):
        export_onnx(model, tmp_path / "out", precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ProclipError, match="a list of names is wanted, not the string 'adapter'"):
        export_onnx(model, tmp_path / "out", "adapter")
    clip = proclip.load(tiny_clip_path)
    for export in (export_onnx, export_torch):
        with pytest.raises(ProclipError, match=rf"{tiny_clip_path.name} is a CLIP, which has no adapter to export"):
            export(clip, tmp_path / "out.pt2")
    assert not list(tmp_path.iterdir())


def test_places(model: ProCLIP, tmp_path: Path) -> None:
    (tmp_path / "d.pt2").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ProclipError, match=r"d\.pt2 is a folder"):
        export_torch(model, tmp_path / "d.pt2")
    with pytest.raises(ProclipError, match=r"the folder .*file cannot be made: a file is in its place"):
        export_torch(model, tmp_path / "file" / "tower.pt2")
    with pytest.raises(ProclipError, match=r"the folder .* cannot be made: Not a directory"):
        export_onnx(model, tmp_path / "file" / "out", ["adapter"])


@pytest.mark.usefixtures("graphs_at_hand")
def test_command_line(
    tiny_proclip_path: Path, tiny_llm_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_llm_path, tmp_path / "moved")
    command = ["export", "onnx", str(tiny_proclip_path), "-o"]
    assert main([*command, str(tmp_path / "one"), "--embedder", str(tmp_path / "moved")]) == 0
    assert f'"model": "{tmp_path / "moved"}"' in (tmp_path / "one" / "proclip_onnx.json").read_text()
    assert main([*command, str(tmp_path / "two"), "--parts", "adapter, image"]) == 0
    assert main(["export", "onnx", "mini-clip", "-o", str(tmp_path / "three")]) == 2
    assert "error: mini-clip is a CLIP, which has no adapter to export" in capsys.readouterr().err
