"""Exported models against torch: every part, in batches and alone, with nothing but ONNX Runtime; what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import proclip.onnx
from proclip.cli import main
from proclip.errors import ProclipError
from proclip.export import export_onnx, onnx_folder, parity
from proclip.models.proclip import ProCLIP
from proclip.onnx import OnnxModel

TEXTS = [
    "a red bar", "two birds", "ein blauer Balken über dem Grün", "赤い家と青い車 🏠", "x",
    "A drawing of a square.\n  Its colour is GREY. " * 8, "many words " * 400,
]  # fmt: skip


@pytest.fixture(scope="module")
def torch_model(tiny_proclip_path: Path) -> ProCLIP:
    return ProCLIP.from_pretrained(tiny_proclip_path)


@pytest.fixture(scope="module")
def model(exported: Path) -> OnnxModel:
    return proclip.onnx.load(exported, threads=1)


def paths_of(world: Path) -> list[Path]:
    return sorted((world / "images").glob("*.png"))


def test_pictures_have_torchs_vectors(model: OnnxModel, torch_model: ProCLIP, tiny_world: Path) -> None:
    paths = paths_of(tiny_world)
    wide = Image.effect_mandelbrot((70, 31), (-2, -1.5, 1, 1.5), 50)
    pictures = [*paths, wide, wide.convert("RGBA")]
    found = model.encode_image(pictures, batch_size=5)
    assert found.dtype == np.float32 and found.shape == (14, 16)
    np.testing.assert_allclose(found, torch_model.encode_image(pictures).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for picture, vector in zip(pictures, found, strict=True):
        np.testing.assert_allclose(model.encode_image(picture), vector, atol=1e-6)
    assert model.encode_image([]).shape == (0, 16)


def test_texts_have_torchs_vectors_in_batches_and_alone(model: OnnxModel, torch_model: ProCLIP) -> None:
    found = model.encode_text(TEXTS)
    np.testing.assert_allclose(found, torch_model.encode_text(TEXTS).numpy(), atol=1e-5)
    for text, vector in zip(TEXTS, found, strict=True):
        alone = model.encode_text(text)
        assert alone.shape == (16,)
        np.testing.assert_allclose(alone, vector, atol=1e-5)
    assert model.encode_text([]).shape == (0, 16)
    with pytest.raises(ProclipError, match="text 1 of 2 is empty"):
        model.encode_text(["a", " \n"])


def test_zero_shot(model: OnnxModel, torch_model: ProCLIP, tiny_world: Path) -> None:
    labels, templates, pictures = ["red square", "blue bar", "x"], ["a {}", "the {} on white"], paths_of(tiny_world)
    classifier = model.zero_shot_classifier(labels, templates)
    np.testing.assert_allclose(classifier, torch_model.zero_shot_classifier(labels, templates).numpy(), atol=1e-5)
    images = model.encode_image(pictures)
    np.testing.assert_allclose(model.similarity(images, images), images @ images.T)
    logits = torch.from_numpy(images @ classifier) * torch_model.logit_scale.detach().exp()
    shares = model.zero_shot(pictures, labels, templates)
    np.testing.assert_allclose(shares, logits.softmax(dim=1).numpy(), atol=1e-5)
    np.testing.assert_allclose(model.zero_shot(pictures[0], labels, templates), shares[0], atol=1e-6)
    biased = dataclasses.replace(model.manifest, logit_bias=-1.5)
    sigmoid = OnnxModel(model.folder, biased, model.providers, 1).zero_shot(pictures, labels, templates)
    np.testing.assert_allclose(sigmoid, torch.sigmoid(logits - 1.5).numpy(), atol=1e-5)
    with pytest.raises(ProclipError, match="at least one class"):
        model.zero_shot_classifier([])
    with pytest.raises(ProclipError, match="where the class name goes"):
        model.zero_shot_classifier(["a"], ["photo"])


def test_encoding_imports_neither_torch_nor_transformers(
    exported: Path, torch_model: ProCLIP, tiny_world: Path
) -> None:
    code = (
        "import json, sys, proclip.onnx\n"
        "model = proclip.onnx.load(sys.argv[1])\n"
        "vectors = [model.encode_image(sys.argv[2]), model.encode_text('红色 bar')]\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'huggingface_hub', 'safetensors', 'onnx'}\n"
        "print(json.dumps([[v.tolist() for v in vectors], sorted(heavy & set(sys.modules))]))"
    )
    picture = str(paths_of(tiny_world)[0])
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported), picture], capture_output=True, text=True, check=True
    )
    (image, text), heavy = json.loads(done.stdout)
    assert heavy == []
    np.testing.assert_allclose(image, torch_model.encode_image([picture])[0], atol=1e-5)
    np.testing.assert_allclose(text, torch_model.encode_text("红色 bar"), atol=1e-5)


def test_vectors_of_an_llm_elsewhere(model: OnnxModel, torch_model: ProCLIP) -> None:
    vectors = torch.randn(3, 16)
    wanted = normalize(torch_model.adapter(vectors), dim=1).detach().numpy()
    np.testing.assert_allclose(model.project_text(vectors.numpy()), wanted, atol=1e-5)
    with pytest.raises(ProclipError, match=r"takes vectors \[n, 16\], these are \[3, 5\]"):
        model.project_text(np.zeros((3, 5), dtype=np.float32))


def test_the_manifest_describes_the_model(exported: Path, torch_model: ProCLIP) -> None:
    values = json.loads((exported / "proclip_onnx.json").read_text())
    assert (values["format"], values["format_version"], values["precision"]) == ("proclip-onnx", 1, "float32")
    assert values["image"]["preprocess"] == json.loads(json.dumps(torch_model.preprocess.to_config()))
    said = values["embedder"]
    assert (said["pooling"], said["padding_side"], said["max_length"]) == ("mean", "right", 512)
    assert values["logit_scale"] == 2.0 and values["embed_dim"] == values["llm_dim"] == 16
    assert values["made_from"]["embedder_identity"] == torch_model.embedder_identity
    assert set(values["parity"]) == {"image", "adapter", "embedder", "text"}
    assert all(figures["largest_difference"] <= 1e-4 for figures in values["parity"].values())


@pytest.mark.parametrize(
    ("precision", "least"), [pytest.param("float16", 0.9999, marks=pytest.mark.slow), ("int8", 0.8)]
)
def test_other_precisions(
    precision: Any, least: float, torch_model: ProCLIP, tmp_path: Path, exported: Path, tiny_world: Path
) -> None:
    report = export_onnx(torch_model, tmp_path / "out", precision=precision)
    model = proclip.onnx.load(tmp_path / "out", threads=1)
    images, texts = model.encode_image(paths_of(tiny_world)), model.encode_text(TEXTS)
    assert images.dtype == texts.dtype == np.float32
    assert (images * torch_model.encode_image(paths_of(tiny_world)).numpy()).sum(1).min() > least
    assert (texts * torch_model.encode_text(TEXTS).numpy()).sum(1).min() > least
    assert report.manifest.parity["text"]["least_cosine"] > least
    assert report.sizes["image.onnx"] < 0.7 * (exported / "image.onnx").stat().st_size


@pytest.mark.usefixtures("graphs_at_hand")
def test_an_llm_that_does_not_export_is_left_out_and_said(torch_model: ProCLIP, tmp_path: Path) -> None:
    config = torch_model.embedder_config
    assert config is not None
    kept, torch_model.embedder_config = config, dataclasses.replace(config, quantization="int8")
    try:
        report = export_onnx(torch_model, tmp_path / "out")
        with pytest.raises(ProclipError, match="the LLM does not export: its weights are int8 of bitsandbytes"):
            export_onnx(torch_model, tmp_path / "strict", ["embedder"])
    finally:
        torch_model.embedder_config = kept
    assert "serve the LLM elsewhere and give its vectors to the adapter" in report.manifest.left_out["embedder"]
    assert sorted(report.sizes) == ["adapter.onnx", "image.onnx", "proclip_onnx.json"]
    model = proclip.onnx.load(tmp_path / "out")
    with pytest.raises(ProclipError, match="has no LLM: the LLM does not export: its weights are int8"):
        model.encode_text("a")
    assert model.project_text(np.ones((2, 16), dtype=np.float32)).shape == (2, 16)


@pytest.mark.usefixtures("graphs_at_hand")
def test_parts_that_were_not_exported(torch_model: ProCLIP, tmp_path: Path, tiny_world: Path) -> None:
    export_onnx(torch_model, tmp_path / "out", ["adapter"])
    model = proclip.onnx.load(tmp_path / "out")
    with pytest.raises(ProclipError, match="without its image tower"):
        model.encode_image(paths_of(tiny_world))
    with pytest.raises(ProclipError, match="has no LLM: it was left out"):
        model.encode_text(["a"])


@pytest.mark.usefixtures("graphs_at_hand")
def test_a_difference_is_an_error_and_leaves_nothing(
    torch_model: ProCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    with pytest.raises(ProclipError, match=r"adapter: the export differs from torch by .*e-0., at most 0 is right"):
        export_onnx(torch_model, tmp_path / "out", ["adapter"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ProclipError, match="gives values that are not finite; its numbers leave float16's range"):
        parity.compare(np.full((1, 2), np.nan, np.float32), np.ones((1, 2), np.float32), "float16", "text")
    with pytest.raises(ProclipError, match=r"cosine of 0.000 with torch's, at least 0.8 is expected"):
        parity.compare(np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32), "int8", "text")


def test_what_cannot_be_exported_to(
    torch_model: ProCLIP, tmp_path: Path, tiny_proclip_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProclipError, match="is there and not empty: give a new folder"):
        export_onnx(torch_model, tiny_proclip_path)
    with pytest.raises(ProclipError, match="no part 'tower': there are image, adapter, embedder"):
        export_onnx(torch_model, tmp_path / "out", ["tower"])
    monkeypatch.setattr(onnx_folder, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ProclipError, match=r'onnxscript missing: pip install "proclip-align\[export\]"'):
        export_onnx(torch_model, tmp_path / "out")


def broken(exported: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(exported, folder)
    path = folder / "proclip_onnx.json"
    values = json.loads(path.read_text())
    path.write_text(
        json.dumps(values | {k: {**values[k], **v} if isinstance(v, dict) else v for k, v in changes.items()})
    )
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 9}, "format_version 9, this code reads 1"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"precision": "float8"}, "precision"),
        ({"image": {"file": "../image.onnx"}}, "'../image.onnx' is not the name of a file beside it"),
        ({"image": {"file": "absent.onnx"}}, "absent.onnx is missing"),
        ({"embedder": {"padding_side": "top"}}, "embedder.padding_side"),
        ({"image": {"preprocess": {}}}, "no usable size"),
    ],
)
def test_folders_that_are_refused(exported: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProclipError, match=message):
        proclip.onnx.load(broken(exported, tmp_path / "broken", **changes))


def test_files_that_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match=r"no exported model: proclip_onnx.json is missing"):
        proclip.onnx.load(tmp_path)
    with pytest.raises(ProclipError, match="has no provider 'GPU'"):
        proclip.onnx.load(exported, providers=["GPU"])
    folder = broken(exported, tmp_path / "broken")
    (folder / "image.onnx").write_bytes(b"no graph")
    (folder / "tokenizer.json").write_text("{}")
    model = proclip.onnx.load(folder)
    with pytest.raises(ProclipError, match=r"image.onnx cannot be loaded by ONNX Runtime"):
        model.encode_image([])
    with pytest.raises(ProclipError, match=r"tokenizer.json is not a tokenizer"):
        model.encode_text("a")
    with pytest.raises(ProclipError, match=r"absent.png is missing"):
        proclip.onnx.load(exported).encode_image("absent.png")


@pytest.mark.usefixtures("graphs_at_hand")
def test_command_line(
    tiny_proclip_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["export", "onnx", str(tiny_proclip_path), "-o", str(out), "--parts", "image,adapter"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "image.onnx" in said.out and "adapter: differs from torch in float32 by" in said.out
    assert "image tower ..." in said.err
    assert main(command) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["export", "torch", str(tiny_proclip_path), "-o", str(tmp_path / "tower.pt2")]) == 0
    assert "differs from the tower by" in capsys.readouterr().out
