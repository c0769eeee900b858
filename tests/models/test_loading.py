"""`proclip.load`: every kind by one name, on a device, in a precision; what it says when it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_embedders
import torch
from tiny_siglip import write_siglip2_naflex

import proclip
from proclip.errors import ProclipError
from proclip.models.clip import Clip, load_clip
from proclip.models.proclip import ProCLIP
from proclip.onnx.manifest import FILE as MANIFEST

TEXTS = ["a red bar", "ein grauer Balken", "a column " * 40]


def test_a_folder_a_run_and_a_clip(tiny_proclip_path: Path, tiny_clip_path: Path, tmp_path: Path) -> None:
    ours = ProCLIP.from_pretrained(tiny_proclip_path)
    shutil.copytree(tiny_proclip_path, tmp_path / "run" / "model")
    for name in (tiny_proclip_path, str(tiny_proclip_path), tmp_path / "run"):
        loaded = proclip.load(name)
        assert isinstance(loaded, ProCLIP) and loaded.device.type in ("cpu", "cuda")
        assert torch.equal(proclip.load(name, "cpu").encode_text(TEXTS), ours.encode_text(TEXTS))
    theirs = proclip.load(tiny_clip_path, torch.device("cpu"))
    assert isinstance(theirs, Clip)
    assert torch.equal(theirs.encode_text(TEXTS), load_clip(str(tiny_clip_path)).encode(TEXTS).embeds)
    assert isinstance(proclip.load("mini-clip"), Clip)


def test_where_the_llm_lies_now(tiny_proclip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llm_path, tmp_path / "moved")
    moved = proclip.load(tiny_proclip_path, "cpu", embedder=tmp_path / "moved")
    assert torch.equal(moved.encode_text(TEXTS), proclip.load(tiny_proclip_path, "cpu").encode_text(TEXTS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.bfloat16])
def test_precision_of_the_towers(tiny_proclip_path: Path, tiny_clip_path: Path, tiny_world: Path, dtype: Any) -> None:
    files = sorted((tiny_world / "images").glob("*.png"))
    for path in (tiny_proclip_path, tiny_clip_path):
        whole, half = proclip.load(path, "cpu"), proclip.load(path, "cpu", dtype)
        wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        assert {p.dtype for tower in half.towers for p in tower.parameters()} == {wanted}
        for exact, rough in (
            (whole.encode_image(files), half.encode_image(files)),
            (whole.encode_text(TEXTS), half.encode_text(TEXTS)),
        ):
            assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
            assert float((rough * exact).sum(dim=1).min()) > 0.999
        assert half.zero_shot(files, ["red", "blue"]).shape == (12, 2)
    ours = proclip.load(tiny_proclip_path, "cpu", dtype)
    assert isinstance(ours, ProCLIP) and ours.adapter.input_mean.dtype == torch.float32


def test_precision_of_other_families(torchvision_operators: None, tmp_path: Path, tiny_world: Path) -> None:
    from tiny_open_clip import save_tiny_open_clip

    files = sorted((tiny_world / "images").glob("*.png"))
    write_siglip2_naflex(tmp_path / "naflex")
    for path in (save_tiny_open_clip("vit", tmp_path / "vit"), tmp_path / "naflex"):
        exact, rough = (proclip.load(path, "cpu", dtype).encode_image(files) for dtype in (None, "bfloat16"))
        assert float((rough * exact).sum(dim=1).min()) > 0.999


def test_refusals(tiny_proclip_path: Path, tiny_clip_path: Path, tmp_path: Path) -> None:
    embedder = tiny_embedders.multilingual_e5(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "empty").mkdir()
    (exported := tmp_path / "exported").mkdir()
    (exported / MANIFEST).touch()
    for name in ("a", "b"):
        shutil.copytree(tiny_proclip_path, tmp_path / "runs" / name / "model")
    (tmp_path / "run" / "recipe.toml").write_text('name = "mine"\n')
    for arguments, settings, message in (
        (["no/such-model"], {}, "neither a folder nor a checkpoint that the hub gives"),
        ([tmp_path / "run"], {}, "is a run that has not finished"),
        ([embedder], {}, "a model of sentence-transformers"),
        ([f"st:{tiny_clip_path}"], {}, "a model of sentence-transformers"),
        ([tmp_path / "empty"], {}, "has no config.json: not a CLIP checkpoint"),
        ([tiny_clip_path], {"embedder": embedder}, "is a CLIP, which has no LLM"),
        ([tiny_proclip_path], {"device": "gpu"}, "device 'gpu' is not to be had here"),
        ([tiny_proclip_path], {"dtype": "int8"}, "dtype 'int8' is not known: float32, float16, bfloat16 are"),
        ([tiny_proclip_path], {"dtype": torch.int8}, "dtype torch.int8 is not known"),
        ([tiny_proclip_path], {"dtype": ["float16"]}, r"dtype \['float16'\] is not known"),
        ([tiny_proclip_path], {"device": "meta"}, "device 'meta' holds no weights"),
        ([tiny_proclip_path], {"revision": "main"}, "which alone has revisions: leave revision out"),
        (["mini-clip"], {"revision": "main"}, "which alone has revisions"),
        ([""], {}, "the model's name is empty"),
        ([exported], {}, r"is an exported model: proclip\.onnx\.load opens it"),
        ([tmp_path / "runs"], {}, r"holds runs: name one of them, .*/runs/a, .*/runs/b$"),
    ):
        with pytest.raises(ProclipError, match=message):
            proclip.load(*arguments, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_model_of_ours_on_a_device_that_is_not_here(tiny_proclip_path: Path, device: str) -> None:
    with pytest.raises(ProclipError, match=f"device '{device}' (is not to be had here|holds no weights)"):
        ProCLIP.from_pretrained(tiny_proclip_path, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_no_cuda_here(tiny_proclip_path: Path) -> None:
    with pytest.raises(ProclipError, match="device 'cuda' is not to be had here"):
        proclip.load(tiny_proclip_path, device="cuda")
