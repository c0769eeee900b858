"""Which towers, adapters and LLMs export: each against torch; and ``torch.export`` programs read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_siglip
import torch
from PIL import Image
from tiny_embedders import bge_m3, multilingual_e5, qwen3_embedding
from tiny_llms import LLAMA31_ROPE, llama3
from tiny_open_clip import save_tiny_open_clip
from torch.nn.functional import normalize

import proclip.onnx
from proclip.config import AdapterConfig, EmbedderConfig
from proclip.errors import ProclipError
from proclip.export import export_onnx, export_torch
from proclip.models.adapter import Adapter
from proclip.models.clip import Clip, load_clip
from proclip.models.embedder import embedder_identity
from proclip.models.proclip import ProCLIP

TEXTS = ["two birds", "  a red car\nbeside a tall tree ", "赤い家と青い車", "the quick brown FOX " * 12, "x"]
pytestmark = pytest.mark.filterwarnings("ignore:.*expected of a model that reads English")


def model_of(clip: Clip, llm: EmbedderConfig | None = None, llm_dim: int = 16, **adapter: Any) -> ProCLIP:
    """A model with an adapter of random weights, its LayerNorms among them."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = Adapter(llm_dim, clip.dim, AdapterConfig(num_blocks=1, **adapter))
        made.fit_input_norm(torch.randn(9, llm_dim) * 3 + 20)
        for parameter in made.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    identity = embedder_identity(llm) if llm is not None else None
    return ProCLIP(clip.image_tower, made, 2.0, clip.preprocess, llm or EmbedderConfig(), identity)


def pictures() -> list[Image.Image]:
    """Noise of several aspects."""
    random = np.random.default_rng(1)
    sizes = [(40, 64), (33, 32), (90, 50), (20, 21), (32, 32)]
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def check_tower(clip: Clip, folder: Path) -> None:
    model = model_of(clip)
    export_onnx(model, folder, ["image"])
    found = proclip.onnx.load(folder, threads=1).encode_image(pictures())
    np.testing.assert_allclose(found, model.encode_image(pictures()).numpy(), atol=1e-5)


def test_siglip(tmp_path: Path) -> None:
    check_tower(load_clip(str(tiny_siglip.write_siglip(tmp_path / "clip"))), tmp_path / "out")


@pytest.mark.parametrize(
    "kind",
    [
        "vit",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("eva02", "siglip", "coca", "resnet", "convnext")),
    ],
)
def test_open_clip(kind: str, tmp_path: Path, torchvision_operators: None) -> None:
    check_tower(load_clip(str(save_tiny_open_clip(kind, tmp_path / "clip"))), tmp_path / "out")


@pytest.mark.slow
def test_naflex_is_no_onnx_but_a_program(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    model = model_of(load_clip(str(tiny_siglip.write_siglip2_naflex(tmp_path / "clip"))))
    with pytest.raises(ProclipError, match=r"the image tower \(family 'siglip2'\) does not export: .*--parts adapter"):
        export_onnx(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]
    export_torch(model, tmp_path / "tower.pt2")
    run = torch.export.load(tmp_path / "tower.pt2").module()
    pixels = model.pixel_values(pictures())
    with torch.no_grad():
        torch.testing.assert_close(run(pixels), normalize(model.image_tower(pixels), dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "input_norm", ["standardize", *(pytest.param(n, marks=pytest.mark.slow) for n in ("l2", "none"))]
)
def test_adapters(input_norm: Any, tmp_path: Path, tiny_clip_path: Path) -> None:
    model = model_of(load_clip(str(tiny_clip_path)), input_norm=input_norm)
    export_onnx(model, tmp_path / "out", ["adapter"])
    vectors = 20 + 3 * torch.randn(7, 16)
    found = proclip.onnx.load(tmp_path / "out").project_text(vectors.numpy())
    np.testing.assert_allclose(found, normalize(model.adapter(vectors), dim=1).detach().numpy(), atol=1e-5)


def llama(folder: Path, **settings: Any) -> EmbedderConfig:
    place = folder / "tiny-Llama-3-8B-Instruct-CC"
    place.mkdir()
    return EmbedderConfig(model=str(llama3(place, rope_parameters=LLAMA31_ROPE)), dtype="float32", **settings)


def declared(make: Callable[[Path], Path], folder: Path, **settings: Any) -> EmbedderConfig:
    (folder / "llm").mkdir()
    model = str(make(folder / "llm"))
    return EmbedderConfig(model=model, backend="sentence-transformers", dtype="float32", **settings)


LLMS: dict[str, tuple[Callable[[Path], EmbedderConfig], int]] = {
    "llm2vec": (lambda folder: llama(folder, backend="llm2vec", instruction="Given a caption:", max_length=40), 64),
    "qwen3-embedding": (lambda folder: declared(qwen3_embedding, folder, class_prompt_name="query", max_length=40), 32),
    "causal": (
        lambda folder: llama(folder, instruction="caption: ", skip_tokens=2, layer=1, padding_side="left"), 64,
    ),
    "last_token": (lambda folder: llama(folder, pooling="last_token", padding_side="left"), 64),
    "multilingual-e5": (lambda folder: declared(multilingual_e5, folder, prompt_name="query"), 32),
    "bge-m3": (lambda folder: declared(bge_m3, folder), 32),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [name if name == "qwen3-embedding" else pytest.param(name, marks=pytest.mark.slow) for name in LLMS],
)
def test_llms(name: str, tmp_path: Path, tiny_clip_path: Path) -> None:
    if name == "qwen3-embedding" and torch.__version__.startswith("2.11."):
        pytest.skip("torch 2.11 finds a constraint on a Qwen3's tokens that the range of their number does not meet")
    make, width = LLMS[name]
    model = model_of(load_clip(str(tiny_clip_path)), make(tmp_path), width)
    export_onnx(model, tmp_path / "out", ["embedder"])
    found = proclip.onnx.load(tmp_path / "out", threads=1)
    vectors = found.embed_text(TEXTS)
    near = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(vectors, model.embedder.encode(TEXTS).embeds.numpy(), **near)
    np.testing.assert_allclose(np.concatenate([found.embed_text([text]) for text in TEXTS]), vectors, **near)
    classes = model.embedder.for_classes().encode(TEXTS).embeds.numpy()
    np.testing.assert_allclose(found.embed_text(TEXTS, classes=True), classes, **near)
    assert (name == "qwen3-embedding") == bool(np.abs(classes - vectors).max() > 0.01)


def test_a_program_of_torch_export(tiny_proclip_path: Path, tmp_path: Path) -> None:
    model = ProCLIP.from_pretrained(tiny_proclip_path)
    path = tmp_path / "tower.pt2"
    assert export_torch(model, path)["largest_difference"] < 1e-5
    about = {"proclip.json": ""}
    run = torch.export.load(path, extra_files=about).module()
    for count in (1, 5):
        pixels = torch.randn(count, 3, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(run(pixels), normalize(model.image_tower(pixels), dim=1), atol=1e-5, rtol=0)
    said = json.loads(about["proclip.json"])
    assert said["preprocess"] == json.loads(json.dumps(model.preprocess.to_config())) and said["embed_dim"] == 16
    with pytest.raises(ProclipError, match=r"must end in \.pt2"):
        export_torch(model, tmp_path / "tower.pt")
