"""Exported models against torch: every part, in batches and alone, with nothing but ONNX Runtime; what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
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
from proclip.onnx.graph import Graph

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
    assert model.similarity(images[0], images[1]).shape == (1, 1)
    np.testing.assert_array_equal(model.similarity(images[0], images), images[:1] @ images.T)
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
    with pytest.raises(ProclipError, match="label 'a' is there twice"):
        model.zero_shot(["absent.png"], ["a", "a"])
    np.testing.assert_array_equal(model.zero_shot_classifier(iter(labels), templates, 2), classifier)  # type: ignore[arg-type]


def test_batches_and_bars(model: OnnxModel, tiny_world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts, pictures = TEXTS[:4], paths_of(tiny_world)
    wanted = model.encode_text(texts)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_allclose(model.encode_text(texts, 3, show_progress_bar=True), wanted, atol=1e-6)
    model.zero_shot(pictures, ["a", "b"], batch_size=5, show_progress_bar=True)
    shown = capfd.readouterr()
    assert shown.out == "" and "4/4" in shown.err and "12/12" in shown.err
    for call in (model.encode_text, model.encode_image, model.zero_shot_classifier):
        with pytest.raises(ProclipError, match="batch_size is 0"):
            call(["a"], batch_size=0)


def test_the_llms_vectors(model: OnnxModel, torch_model: ProCLIP) -> None:
    found = model.embed_text("ein Balken")
    np.testing.assert_allclose(found, torch_model.embedder.encode(["ein Balken"]).embeds, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(model.project_text(found)[0], model.encode_text("ein Balken"), atol=1e-6)


REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda m: m.embed_text(None), "texts: a string or a list of strings is wanted, not None"),
    (lambda m: m.embed_text(["a", 1]), "text 1 of 2 is not a string"),
    (lambda m: m.encode_text("\ud800"), "no valid Unicode"),
    (lambda m: m.zero_shot_classifier(None), "class names: .* not None"),
    (lambda m: m.project_text([[0.0] * 16]), r"takes vectors \[n, 16\], a tensor or an array, not list"),
    (lambda m: m.project_text(np.full((1, 16), "a")), "of floating-point numbers, these are of <U1"),
    (lambda m: m.project_text(np.full((2, 16), 1e300)), "not finite for 'vector 0'"),
    (lambda m: m.similarity([1.0], [1.0]), "tensors or arrays are wanted, not list"),
    (lambda m: m.similarity(np.ones((2, 3)), np.ones(4)), "vectors of width 3 and 4"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_inputs_that_are_refused(model: OnnxModel, call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ProclipError, match=message):
        call(model)


def test_numbers_that_are_not_finite_are_refused(
    model: OnnxModel, tiny_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = OnnxModel(model.folder, dataclasses.replace(model.manifest, precision="float16"), model.providers, 1)
    rows = np.array([[0.5] * 16, [np.inf] * 16], np.float32)
    monkeypatch.setattr(Graph, "run", lambda self, inputs: rows)
    with pytest.raises(ProclipError, match="not finite for 'picture 1'; its numbers leave float16's range"):
        half.encode_image(paths_of(tiny_world)[:2])
    for call, text in ((half.encode_text, "b b"), (half.embed_text, "a")):  # the LLM takes the longest first
        with pytest.raises(ProclipError, match=f"not finite for '{text}'"):
            call(["a", "b b"])


def test_encoding_imports_neither_torch_nor_transformers(
    exported: Path, torch_model: ProCLIP, tiny_world: Path
) -> None:
    code = (
        "import json, sys, proclip.onnx\n"
        "model = proclip.onnx.load(sys.argv[1])\n"
        "vectors = [model.encode_image(sys.argv[2]), model.encode_text('红色 bar')]\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'huggingface_hub', 'safetensors', 'onnx'}\n"
        "heavy |= {'filelock', 'pyarrow', 'rich'}\n"
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
    ("precision", "least", "least_of_texts"),
    [pytest.param("float16", 0.9999, 0.9999, marks=pytest.mark.slow), ("int8", 0.99, 0.9)],
)
def test_other_precisions(
    precision: Any,
    least: float,
    least_of_texts: float,  # the tiny LLM is 16 wide: less than one block of int8
    torch_model: ProCLIP,
    tmp_path: Path,
    exported: Path,
    tiny_world: Path,
) -> None:
    report = export_onnx(torch_model, tmp_path / "out", precision=precision)
    model = proclip.onnx.load(tmp_path / "out", threads=1)
    images, texts = model.encode_image(paths_of(tiny_world)), model.encode_text(TEXTS)
    assert images.dtype == texts.dtype == np.float32
    assert (images * torch_model.encode_image(paths_of(tiny_world)).numpy()).sum(1).min() > least
    assert (texts * torch_model.encode_text(TEXTS).numpy()).sum(1).min() > least_of_texts
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


SIZE_32 = {"size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


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
        ({"image": {"file": ".."}}, r"'\.\.' is not the name of a file beside it"),
        ({"image": {"file": "absent.onnx"}}, "absent.onnx is missing"),
        ({"embed_dim": -1}, r"proclip_onnx.json: embed_dim must be a width, 1 or more, not -1"),
        ({"logit_scale": 1e9}, "logit_scale must be a number from -80 to 80"),
        ({"embedder": {"max_length": 1}}, r"proclip_onnx.json: embedder.max_length must be at least 2"),
        ({"embedder": {"inputs": ["input_ids", "x"]}}, "embedder.inputs must be input_ids and others of"),
        ({"embedder": {"pad_token_id": -5}}, "embedder.pad_token_id must be a token's number"),
        ({"embedder": {"padding_side": "top"}}, "embedder.padding_side"),
        ({"image": {"preprocess": {}}}, "no usable size"),
    ],
)
def test_folders_that_are_refused(exported: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProclipError, match=message):
        proclip.onnx.load(broken(exported, tmp_path / "broken", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 128}, "embed_dim is 128, but image_embeds of image.onnx has 16"),
        ({"image": {"preprocess": SIZE_32}}, "image.preprocess.size is 32, but pixel_values of image.onnx has 16"),
        ({"image": {"file": "adapter.onnx"}}, "image: adapter.onnx takes llm_embeds .*, wanted are pixel_values"),
    ],
)
def test_graphs_that_are_not_what_the_manifest_says(
    exported: Path, tmp_path: Path, changes: dict[str, Any], message: str, tiny_world: Path
) -> None:
    model = proclip.onnx.load(broken(exported, tmp_path / "broken", **changes))
    with pytest.raises(ProclipError, match=rf"proclip_onnx\.json: {message}"):
        model.encode_image(paths_of(tiny_world)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm_dim": 5}, r"proclip_onnx\.json: llm_dim is 5, but llm_embeds of embedder.onnx has 16"),
        ({"embedder": {"inputs": ["input_ids"]}}, r"embedder: embedder.onnx takes .*, wanted are input_ids and llm_e"),
        ({"embedder": {"pad_token_id": 10**6}}, r"embedder\.onnx cannot be run: "),
    ],
)
def test_an_llm_that_is_not_what_the_manifest_says(
    exported: Path, tmp_path: Path, changes: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = proclip.onnx.load(broken(exported, tmp_path / "broken", **changes))
    with pytest.raises(ProclipError, match=message):
        model.encode_text(["a", "a text of more tokens"])
    assert capfd.readouterr().err == ""


def test_files_that_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match=r"no exported model: proclip_onnx.json is missing"):
        proclip.onnx.load(tmp_path)
    with pytest.raises(ProclipError, match="has no provider 'GPU'"):
        proclip.onnx.load(exported, providers=["GPU"])
    for nothing in ("CPUExecutionProvider", []):
        with pytest.raises(ProclipError, match="providers: a list is wanted"):
            proclip.onnx.load(exported, providers=nothing)
    for threads in (-1, "a", True):
        with pytest.raises(ProclipError, match="threads is"):
            proclip.onnx.load(exported, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(ProclipError, match="folder: the path of an export is wanted, not None"):
        proclip.onnx.load(None)  # type: ignore[arg-type]
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
