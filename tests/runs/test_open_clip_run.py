"""OpenCLIP models through the command line: embed, both stages, evaluate; the saved model needs no hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_open_clip import save_tiny_open_clip
from tiny_recipe import HEAD

from proclip.cli import main
from proclip.models.clip import load_clip
from proclip.models.proclip import ProCLIP
from proclip.results import load_results

RECIPE = (
    HEAD.replace("{clip}", "open_clip:{clip}")
    + """input_norm = "standardize"

[distill]
captions = ["short"]
epochs = 1
batch_size = 4

[tune]
epochs = 2
batch_size = 4

[tune.optim]
lr = 1e-3
"""
)


@pytest.mark.parametrize("kind", ["eva02", "siglip", "vit", "resnet"])
def test_both_stages(
    kind: str, torchvision_operators: None, tiny_world: Path, tiny_llm_path: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    clip_path, run = save_tiny_open_clip(kind, tmp_path / kind), tmp_path / "run"
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(clip=clip_path, llm=tiny_llm_path, world=tiny_world, store=tmp_path / "store"))
    assert main(["embed", str(recipe), "--set", "distill.captions=['short', 'long']"]) == 0
    told = capsys.readouterr().err.replace("\n", " ")
    assert "9 of them cut (50.0%)" in told  # the long captions, for CLIP's 77 and SigLIP's 16 tokens alike
    assert main(["train", str(recipe), "--out", str(run)]) == 0

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("the network was asked"))
    clip, model = load_clip(str(clip_path)), ProCLIP.from_pretrained(run / "model")
    before, after = clip.image_tower.state_dict(), model.image_tower.state_dict()
    assert list(before) == list(after)
    assert {f"image_tower.{name}" for name in before} <= set(load_file(run / "model" / "model.safetensors"))
    moved = [name for name, p in clip.image_tower.named_parameters() if not torch.equal(p, after[name])]
    assert len(moved) == len(list(clip.image_tower.parameters()))
    assert max(float((before[n] - after[n]).abs().max()) for n in moved) < 0.1  # tuned, not made anew
    assert model.preprocess == clip.preprocess
    assert model.image_tower.config == clip.image_tower.config
    assert model.encode_image([tiny_world / "images" / "red-bar.png"]).shape == (1, clip.dim)
    assert len(model.image_tower.blocks) == len(clip.image_tower.blocks)

    locked = tmp_path / "locked"
    assert main(["train", str(recipe), "--set", "tune.image.mode=locked", "--out", str(locked)]) == 0
    kept = ProCLIP.from_pretrained(locked / "model").image_tower.state_dict()
    assert all(torch.equal(before[name], kept[name]) for name in before)


def test_evaluate_by_name(torchvision_operators: None, tiny_world: Path, tiny_clip_path: Path, tmp_path: Path) -> None:
    world = tmp_path / "world"
    task = {
        "name": "zero_shot_tiny", "task": "classification", "chance": 1 / 3, "templates": ["a {} thing"],
        "items": [["red-square", 0], ["green-bar", 1], ["blue-column", 2], ["red-bar", 0]],
        "classnames": ["red", "green", "blue"],
    }  # fmt: skip
    (world / "tasks" / "test").mkdir(parents=True)
    (world / "images").symlink_to(tiny_world / "images")
    (world / "metadata.jsonl").write_text((tiny_world / "metadata.jsonl").read_text())
    (world / "tasks" / "test" / "zero_shot_tiny.json").write_text(json.dumps(task))
    (world / "manifest.json").write_text(json.dumps({"benchmark": {"name": "t", "version": "1", "checksum": "0"}}))
    folder = save_tiny_open_clip("vit", tmp_path / "vit")
    figures = {}
    for model, reference in ((f"open_clip:{folder}", f"open_clip:{folder}"), (str(folder), str(tiny_clip_path))):
        out = tmp_path / f"{len(figures)}.json"
        options = ["--data", str(world), "--cache", str(tmp_path / "cache"), "--clip", reference, "--out", str(out)]
        assert main(["eval", model, *options]) == 0
        figures[model] = load_results(out).benchmarks["t"].figures
    itself, other = figures.values()
    assert itself["zero_shot/tiny/acc1"] == other["zero_shot/tiny/acc1"]
    assert itself["cka"].value == pytest.approx(1)
    assert other["cka"].value < 0.999
