"""Both stages on tiny SigLIP2 models, of fixed resolution and NaFlex: embed, train, save, load, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_siglip
import torch
from PIL import Image
from safetensors.torch import load_file
from test_end_to_end import PRETRAIN, RECIPE
from tiny_recipe import TASKS, with_tasks

from proclip.cli import main
from proclip.models.clip import load_clip
from proclip.models.preprocess import NaflexPreprocess
from proclip.models.proclip import ProCLIP
from proclip.results import load_results


@pytest.fixture
def world(tiny_world: Path, tmp_path: Path) -> Path:
    return with_tasks(tiny_world, tmp_path / "world")


@pytest.mark.parametrize("write", [tiny_siglip.write_siglip2_fixed, tiny_siglip.write_siglip2_naflex])
def test_embed_both_stages_save_load_evaluate(
    write: Callable[[Path], Path], world: Path, tmp_path: Path, tiny_llm_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write(tmp_path / "clip")
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    text = RECIPE.format(clip=clip, llm=tiny_llm_path, world=world, store=tmp_path / "store")
    recipe.write_text(text.replace('captions = ["short", "name_de"]', 'captions = ["short", "name_de", "long"]'))
    assert main(["embed", str(recipe)]) == 0
    err = capsys.readouterr().err
    assert "teacher: 27 captions embedded" in err and "of them cut (" in err  # every long caption, 16 tokens are read
    assert main(["train", str(recipe), "--out", str(run)]) == 0

    model, original = ProCLIP.from_pretrained(run / "model"), load_clip(str(clip))
    assert model.preprocess == original.preprocess
    assert model.image_tower.family == original.image_tower.family
    pictures = [Image.new("RGB", size, "red") for size in ((30, 20), (8, 60))]
    embeds = model.encode_image(pictures)
    assert embeds.shape == (2, 16) and torch.isfinite(embeds).all()
    before, after = original.image_tower.state_dict(), model.image_tower.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)  # stage 2 tuned it
    saved = load_file(run / "model" / "model.safetensors")
    assert float(saved["logit_scale"]) <= 4.6052  # SigLIP's 4.7 is clamped to ln 100

    options = ["--data", str(world), "--cache", str(tmp_path / "cache"), "--clip", str(clip)]
    for name, model in (("run", run), ("clip", clip)):
        assert main(["eval", str(model), *options, "--out", str(tmp_path / f"{name}.json")]) == 0
    (result,) = load_results(tmp_path / "clip.json").benchmarks.values()
    assert result.figures["cka"].value == pytest.approx(1)
    assert result.truncated == {"texts": 0, "share": 0.0}


def test_naflex_survives_in_the_saved_folder(world: Path, tmp_path: Path, tiny_llm_path: Path) -> None:
    clip = tiny_siglip.write_siglip2_naflex(tmp_path / "clip")
    recipe = tmp_path / "tiny.toml"
    text = RECIPE.format(clip=clip, llm=tiny_llm_path, world=world, store=tmp_path / "store")
    recipe.write_text(text.split("[tune]")[0])
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    model, original = ProCLIP.from_pretrained(tmp_path / "run" / "model"), load_clip(str(clip))
    assert isinstance(model.preprocess, NaflexPreprocess)
    picture = Image.effect_mandelbrot((50, 20), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    with torch.inference_mode():
        wanted = torch.nn.functional.normalize(original.image_tower(original.preprocess(picture)[None]), dim=-1)
    torch.testing.assert_close(model.encode_image([picture]), wanted)  # stage 1 leaves the image tower as it was


def test_cut_texts_are_counted_in_eval(
    world: Path, tmp_path: Path, tiny_clip_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = " ".join(["red"] * 90)
    task = {**TASKS["retrieval_short"], "name": "retrieval_long"}
    keys = ("red-square", "green-bar", "blue-bar", "grey-column")
    task["items"] = [[key, [long, f"a {key}"]] for key in keys]
    tasks = world / "tasks" / "test"
    for path in tasks.glob("*.json"):
        path.unlink()
    (tasks / "retrieval_long.json").write_text(json.dumps(task))
    out = tmp_path / "figures.json"
    options = ["--data", str(world), "--cache", str(tmp_path / "cache"), "--clip", str(tiny_clip_path)]
    assert main(["eval", str(tiny_clip_path), *options, "--out", str(out)]) == 0
    (result,) = load_results(out).benchmarks.values()
    assert result.truncated == {"texts": 1, "share": pytest.approx(1 / 5)}
    assert "1 texts (20.0%) are longer than the text side reads" in capsys.readouterr().out.replace("\n", " ")


def test_cut_captions_are_counted_in_pretraining(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "clip.toml"
    recipe.write_text(PRETRAIN.format(world=world).replace('["short"]', '["short", "long"]') + "context_length = 20\n")
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    assert "pretrain: 9 of 18 captions (50.0%) are longer" in capsys.readouterr().err


def test_pretraining_goes_on_from_a_clip_alone(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    siglip = tiny_siglip.write_siglip2_fixed(tmp_path / "siglip")
    recipe = tmp_path / "clip.toml"
    recipe.write_text(PRETRAIN.format(world=world) + f'init = "{siglip}"\n')
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "model_type is 'siglip', not 'clip'" in capsys.readouterr().err
