"""Stage 2 in every mode through ``proclip train`` on a tiny world: what is saved is plain, and what was trained."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_recipe import HEAD

from proclip.cli import main
from proclip.config import load_recipe
from proclip.data.dataset import ImageCaptions
from proclip.data.store import EmbeddingStore
from proclip.models import image_tuning
from proclip.models.clip import load_clip
from proclip.models.proclip import ProCLIP
from proclip.runs import train, tuning

RECIPE = (
    HEAD
    + """
[tune]
epochs = 2
batch_size = 4
distillation_weight = 0.01

[tune.optim]
lr = 1e-2

[log]
every_steps = 1
"""
)
SETTINGS = {
    "last_blocks": ['tune.image.mode="last_blocks"'],
    "lora": ['tune.image.mode="lora"', "tune.image.rank=2", "tune.image.dropout=0.1"],
    "frozen": ['tune.teacher="frozen"'],
    "cached": ['tune.teacher="cached"'],
    "locked": ['tune.image.mode="locked"'],
    "sigmoid": ['tune.contrastive="sigmoid"'],
    "lora, cached, sigmoid": ['tune.image.mode="lora"', 'tune.teacher="cached"', 'tune.contrastive="sigmoid"'],
}


@pytest.fixture
def recipe(tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=tiny_world, store=tmp_path / "store"))
    assert main(["embed", str(path)]) == 0
    return path


def run(recipe: Path, out: Path, settings: list[str]) -> int:
    options = [option for setting in settings for option in ("--set", setting)]
    return main(["train", str(recipe), *options, "--out", str(out)])


@pytest.mark.parametrize("case", list(SETTINGS))
def test_a_plain_model_comes_out(
    case: str, recipe: Path, tmp_path: Path, tiny_world: Path, tiny_clip_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    samples = ImageCaptions(tiny_world).select("align")
    clip = load_clip(str(tiny_clip_path))
    pixels = torch.stack([clip.preprocess(s.picture.open()) for s in samples])
    trained: dict[str, Any] = {}
    merge = image_tuning.ImageTuner.merge

    def look(tuner: image_tuning.ImageTuner) -> None:
        tuner.tower.eval()
        trained["features"] = tuner.tower(pixels).detach()  # unmerged
        merge(tuner)

    monkeypatch.setattr(image_tuning.ImageTuner, "merge", look)
    assert run(recipe, tmp_path / "run", SETTINGS[case]) == 0
    tensors = load_file(tmp_path / "run" / "model" / "model.safetensors")
    plain = {f"image_tower.{name}" for name in clip.image_tower.state_dict()}
    assert {name for name in tensors if name.startswith("image_tower.")} == plain
    assert ("logit_bias" in tensors) == ("sigmoid" in case)
    model = ProCLIP.from_pretrained(tmp_path / "run" / "model")
    torch.testing.assert_close(model.image_tower(pixels), trained["features"], rtol=1e-5, atol=1e-5)
    moved = not torch.allclose(model.image_tower(pixels), clip.image_tower(pixels), atol=1e-4)
    assert moved == (case != "locked")
    if "sigmoid" in case:
        assert model.logit_bias is not None and model.logit_bias.item() != tuning.SIGLIP_BIAS
    assert model.encode_text(["a red bar"]).shape == (1, 16)
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("tune: "))
    share = sum(p.numel() for p in clip.image_tower.parameters())
    assert ("image_tower" in line) == (case != "locked")
    assert (f"image_tower {share:,}," in line) == (case in ("frozen", "cached", "sigmoid"))


def test_trained_parameters_are_counted(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recipe, tmp_path / "run", SETTINGS["lora"]) == 0
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("tune: "))
    lora = 2 * (4 * (64 + 64) + 2 * (64 + 256))  # rank times inputs and outputs of the block's six layers
    adapter = sum(t.numel() for n, t in load_file(tmp_path / "run" / "model" / "model.safetensors").items()
                  if n.startswith("adapter.") and "input_" not in n)  # fmt: skip
    assert f"(adapter {adapter:,}, image_tower {lora:,}, logit_scale 1)" in line
    assert line.startswith(f"tune: {adapter + lora + 1:,} of ")


def test_the_cached_teacher_is_the_original_tower_on_plain_pictures(
    recipe: Path, tmp_path: Path, tiny_world: Path, tiny_clip_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(recipe, tmp_path / "one", SETTINGS["cached"]) == 0
    samples, clip = ImageCaptions(tiny_world).select("align"), load_clip(str(tiny_clip_path))
    folder = next((tmp_path / "store" / "image_teacher").iterdir())
    store = EmbeddingStore.open(folder, expect=tuning.image_identity(clip))
    features = clip.image_tower(torch.stack([clip.preprocess(s.picture.open()) for s in samples])).detach()
    wanted = torch.nn.functional.normalize(features, dim=-1)
    torch.testing.assert_close(store.rows([s.key for s in samples]), wanted, rtol=1e-5, atol=1e-6)
    assert "plain pictures" in capsys.readouterr().err
    assert run(recipe, tmp_path / "two", [*SETTINGS["cached"], "seed=1"]) == 0  # what is there serves other runs
    assert "plain pictures" not in capsys.readouterr().err
    picture = Path(str(samples[0].picture))
    status = picture.stat()
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    try:
        assert run(recipe, tmp_path / "three", [*SETTINGS["cached"], "seed=2"]) == 0  # that one is embedded anew
    finally:
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "embeddings of 1 plain pictures" in capsys.readouterr().err


def test_the_bias_starts_at_the_checkpoints(
    recipe: Path, tmp_path: Path, tiny_clip_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load_clip(str(tiny_clip_path))
    clip.logit_bias, clip.logit_scale = -16.5, 4.72
    monkeypatch.setattr(train, "load_clip", lambda name: clip)
    settings = ['tune.contrastive="sigmoid"', 'tune.optim.rules=[{match="^logit_", lr=0.0}]']
    assert run(recipe, tmp_path / "run", settings) == 0
    tensors = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert tensors["logit_bias"].item() == -16.5
    assert tensors["logit_scale"].item() == pytest.approx(4.72)  # ln 112: no clamp at ln 100
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["logit_bias"] for row in rows} == {-16.5}
    assert run(recipe, tmp_path / "infonce", []) == 0
    tensors = load_file(tmp_path / "infonce" / "model" / "model.safetensors")
    assert "logit_bias" not in tensors and tensors["logit_scale"].item() <= 4.6052


def test_bad_settings_are_one_clear_line(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*settings: str) -> str:
        capsys.readouterr()
        assert run(recipe, tmp_path / f"bad{len(list(tmp_path.iterdir()))}", list(settings)) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "tune.image.blocks must be at most 1, this tower's, not 3" in fails(
        'tune.image.mode="last_blocks"', "tune.image.blocks=3"
    )
    assert "'query' names no linear layer" in fails('tune.image.mode="lora"', 'tune.image.targets=["query"]')
    assert "'^image_tower' matches no parameter of this stage; the stage trains adapter, logit_scale" in fails(
        'tune.image.mode="locked"', 'tune.optim.rules=[{match="^image_tower", lr=1e-3}]'
    )
    assert "tune.image.rank must be left alone" in fails("tune.image.rank=3")
    assert "write tune.image.mode = 'locked' where it was true" in fails("tune.lock_image=true")
    assert "tune.teacher must be left alone" in fails('tune.image.mode="locked"', 'tune.teacher="cached"')
    assert "tune.contrastive must be one of 'infonce', 'sigmoid'" in fails('tune.contrastive="siglip"')
    assert load_recipe(recipe).tune is not None
