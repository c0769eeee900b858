"""``proclip align``: one command from captioned images to a model, for every kind of CLIP and of embedder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_embedders import multilingual_e5, qwen3_embedding
from tiny_llms import llama3
from tiny_open_clip import save_tiny_open_clip
from tiny_siglip import write_siglip2_fixed, write_siglip2_naflex

from proclip.cli import main
from proclip.config import load_recipe
from proclip.data.dataset import ImageCaptions
from proclip.models.proclip import ProCLIP
from proclip.runs.align import common_captions

QUICK = [
    "--set", "adapter.num_blocks=1", "--set", "distill.epochs=1", "--set", "tune.epochs=1",
    "--set", "tune.batch_size=4", "--set", "distill.batch_size=4", "--set", "embedder.dtype=float32",
]  # fmt: skip


def align(data: Path, out: Path, clip: str, embedder: Path, *more: str) -> int:
    arguments = ["--clip", clip, "--embedder", str(embedder), "--data", str(data), "--captions", "short,long"]
    return main(["align", *arguments, "--out", str(out), *QUICK, *more])


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    (tmp_path / "qwen").mkdir()
    return qwen3_embedding(tmp_path / "qwen")


def check_model(out: Path, data: Path) -> ProCLIP:
    """The run folder holds a model that encodes both sides, and figures of both methods on the held-out rows."""
    result = json.loads((out / "retrieval.json").read_text())
    assert set(result["figures"]) == {"CLIP", "ProCLIP"} and result["images"] == 3
    assert set(result["figures"]["ProCLIP"]) == {"short", "long"}
    assert 0 <= result["figures"]["CLIP"]["short"]["t2i_r@1"] <= 1
    model = ProCLIP.from_pretrained(out / "model")
    image = model.encode_image([data / "images" / "red-bar.png"])
    text = model.encode_text(["a red bar on white, seen from far away"])
    torch.testing.assert_close(image.norm(dim=1), torch.ones(1))
    assert model.similarity(image, text).shape == (1, 1)
    return model


def test_clip_with_qwen3(tiny_world: Path, tmp_path: Path, tiny_clip_path: Path, qwen: Path) -> None:
    out = tmp_path / "run"
    assert align(tiny_world, out, str(tiny_clip_path), qwen) == 0
    model = check_model(out, tiny_world)
    assert model.embedder_config is not None and model.embedder_config.backend == "sentence-transformers"
    recipe = load_recipe(out / "recipe.toml")
    assert recipe.adapter.input_norm == "l2" and recipe.tune is not None and recipe.tune.captions == ("short", "long")
    weights = (out / "model" / "model.safetensors").read_bytes()
    assert align(tiny_world, out, str(tiny_clip_path), qwen) == 0  # all of it is found
    assert (out / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("write", [write_siglip2_fixed, write_siglip2_naflex])
def test_siglip2_with_e5(write: Callable[[Path], Path], tiny_world: Path, tmp_path: Path) -> None:
    (tmp_path / "e5").mkdir()
    (tmp_path / "clip").mkdir()
    clip = write(tmp_path / "clip")
    assert align(tiny_world, tmp_path / "run", str(clip), multilingual_e5(tmp_path / "e5")) == 0
    check_model(tmp_path / "run", tiny_world)


def test_siglip2_with_the_sigmoid_loss(tiny_world: Path, tmp_path: Path, qwen: Path) -> None:
    (tmp_path / "clip").mkdir()
    clip, out = write_siglip2_fixed(tmp_path / "clip"), tmp_path / "run"
    assert align(tiny_world, out, str(clip), qwen, "--set", "tune.contrastive=sigmoid") == 0
    assert check_model(out, tiny_world).logit_bias is not None


def test_eva02_of_open_clip_with_a_bidirectional_llama(
    torchvision_operators: None, tiny_world: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned"
    folder.mkdir()
    llama3(folder)
    clip = save_tiny_open_clip("eva02", tmp_path / "eva02")
    assert align(tiny_world, tmp_path / "run", f"open_clip:{clip}", folder) == 0
    model = check_model(tmp_path / "run", tiny_world)
    assert model.image_tower.family == "open_clip"
    assert model.embedder_config is not None and model.embedder_config.backend == "llm2vec"


def test_a_plain_causal_lm_is_standardised(
    tiny_world: Path, tmp_path: Path, tiny_clip_path: Path, tiny_llm_path: Path
) -> None:
    assert align(tiny_world, tmp_path / "run", str(tiny_clip_path), tiny_llm_path, "--set", "embedder.layer=1") == 0
    assert load_recipe(tmp_path / "run" / "recipe.toml").adapter.input_norm == "standardize"


def test_captions_are_those_that_every_image_has(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_world / "images", data / "images")
    rows = [json.loads(line) for line in (tiny_world / "metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        del row["splits"]
        if number == 3:
            del row["long"]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert common_captions(ImageCaptions(data)) == ("name_en", "name_de", "short")
    for row in rows:
        for column in ("name_en", "name_de", "short"):
            row.pop(column)
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["align", "--clip", "mini-clip", "--embedder", "smollm2", "--data", str(data)]) == 2
    assert "no caption column has a text for every image" in capsys.readouterr().err
