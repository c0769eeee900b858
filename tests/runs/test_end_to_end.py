"""The command line on a tiny world: embed, train, evaluate; and one clear line for every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_recipe import HEAD, with_tasks

from proclip.cli import main
from proclip.config import config_hash, load_recipe
from proclip.models.clip import load_clip
from proclip.models.proclip import ProCLIP
from proclip.results import load_results
from proclip.results.gallery import gallery_path, load_gallery

RECIPE = (
    HEAD
    + """input_norm = "standardize"

[distill]
captions = ["short", "name_de"]
epochs = 2
batch_size = 4

[distill.teacher_captions]
name_de = "name_en"

[tune]
epochs = 2
batch_size = 4

[tune.optim]
lr = 1e-3

[log]
every_steps = 1
"""
)


@pytest.fixture(scope="module")
def world(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tasks(tiny_world, tmp_path_factory.mktemp("worlds") / "tiny")


@pytest.fixture
def recipe(world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=world, store=tmp_path / "store"))
    return path


def test_embed_train_evaluate(
    recipe: Path, world: Path, tmp_path: Path, tiny_clip_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    assert {p.name for p in run.iterdir()} == {
        "parameters.json",
        "recipe.toml",
        "environment.json",
        "metrics.jsonl",
        "inputs.json",
        "model",
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["distill"] * 8 + ["tune"] * 4
    model = ProCLIP.from_pretrained(run / "model")
    assert model.encode_text(["rot"]).shape == (1, 16)
    assert torch.isfinite(model.adapter.input_std).all()

    weights = (run / "model" / "model.safetensors").read_bytes()
    assert main(["train", str(recipe), "--out", str(run)]) == 0  # finished: left as it is
    assert (run / "model" / "model.safetensors").read_bytes() == weights

    cache, out, of_clip = tmp_path / "cache", tmp_path / "run.json", tmp_path / "clip.json"
    options = ["--data", str(world), "--cache", str(cache)]
    assert main(["eval", str(run), *options, "--gallery", "--out", str(out)]) == 0
    result = load_results(out)
    assert result.model["config_hash"] and result.model["seed"] == 0 and result.model["clip"] == str(tiny_clip_path)
    tiny = result.benchmarks["tiny"]
    assert tiny.notes["version"] == "1" and tiny.data["complete"] and tiny.prompts is not None
    assert set(tiny.figures) >= {"zero_shot/tiny/mean_per_class", "retrieval_short/i2t_r@1", "cka"}
    zero_shot = tiny.figures["zero_shot/tiny/acc1"]
    assert zero_shot.chance == pytest.approx(1 / 3) and zero_shot.low <= zero_shot.value <= zero_shot.high
    assert load_gallery(gallery_path(out)).queries

    assert main(["eval", str(tiny_clip_path), *options, "--out", str(of_clip)]) == 0
    assert load_results(of_clip).benchmarks["tiny"].figures["cka"].value == pytest.approx(1)
    capsys.readouterr()
    assert main(["eval", "--compare", str(out), str(of_clip)]) == 0
    assert "tiny/retrieval_short/i2t_r@1" in capsys.readouterr().out
    for name in ("report.html", "tables.md", "tables.tex", "tables.csv"):
        assert main(["report", str(out), str(of_clip), "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 200

    assert "holds the results of" in error_of(capsys, "eval", str(tiny_clip_path), *options, "--out", str(out))
    encoded = sorted(path.stat().st_mtime_ns for path in cache.rglob("*.safetensors"))
    out.unlink()
    assert main(["eval", str(run), *options, "--out", str(out)]) == 0  # from the cache
    assert sorted(path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")) == encoded
    assert load_results(out).benchmarks["tiny"].figures == tiny.figures


def test_evaluation_while_training(recipe: Path, world: Path, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    assert main(["embed", str(recipe)]) == 0
    settings = [f"evaluate.folders=['{world}']", f"evaluate.cache='{cache}'", "evaluate.every_epochs=1"]
    command = ["train", str(recipe), *(word for setting in settings for word in ("--set", setting)), "--out", str(run)]
    assert main(command) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("eval/tiny/zero_shot/tiny/mean_per_class" in row for row in rows) == 4  # two passes of two stages
    folder = run / "evaluation"
    for stage in ("distill", "tune"):
        report = json.loads((folder / f"{stage}-forgetting.json").read_text())["figures"]
        after, before = load_results(folder / f"{stage}.json"), load_results(folder / "clip.json")
        for key, row in report.items():
            ours, original = after.figure(key), before.figure(key)
            assert ours is not None and original is not None
            assert (row["model"], row["original"]) == (ours.value, original.value)
            assert row["low"] <= row["difference"] <= row["high"]
        assert (folder / f"{stage}-forgetting.md").read_text().count("\n") == len(report) + 2
    moved = (
        load_results(folder / "tune.json").figure("tiny/cka"),
        load_results(folder / "distill.json").figure("tiny/cka"),
    )
    assert moved[0] is not None and moved[1] is not None and moved[0].value < moved[1].value == pytest.approx(1)
    last = load_results(folder / "tune.json")
    assert last.model["seed"] == 0 and last.model["config_hash"] == config_hash(load_recipe(run / "recipe.toml"))
    assert main(["eval", str(run), "--data", str(world), "--cache", str(cache), "--out", str(tmp_path / "r.json")]) == 0
    assert load_results(tmp_path / "r.json").benchmarks["tiny"].figures == last.benchmarks["tiny"].figures
    plain = tmp_path / "plain"
    assert main(["train", str(recipe), "--out", str(plain)]) == 0  # evaluation changes no weight
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, plain)]
    assert weights[0] == weights[1]


def test_two_runs_are_equal_and_another_seed_is_not(recipe: Path, tmp_path: Path) -> None:
    assert main(["embed", str(recipe)]) == 0
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert main(["train", str(recipe), "--set", f"seed={seed}", "--out", str(tmp_path / name)]) == 0
    a, b, c = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def error_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    assert main(list(command)) == 2
    said, mark, message = capsys.readouterr().err.rpartition("proclip: error: ")
    assert mark and "Traceback" not in said
    return message


def test_bad_input_is_one_clear_line(
    recipe: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*command: str) -> str:
        return error_of(capsys, *command)

    out = ["--out", str(tmp_path / "run")]
    assert "neither a file nor one of" in fails("train", "nothing")
    assert "did you mean 'epochs'?" in fails("train", str(recipe), "--set", "tune.epoch=3")
    assert "run  proclip embed" in fails("train", str(recipe), *out)
    assert "no caption column 'name_fr'" in fails("embed", str(recipe), "--set", "tune.captions=['name_fr']")
    assert "no rows of split 'x'; splits: align" in fails("embed", str(recipe), "--set", "tune.split=x")
    assert "it must be a folder of images with metadata.jsonl" in fails(
        "embed", str(recipe), "--set", f"data.dataset={tmp_path}"
    )
    assert main(["embed", str(recipe)]) == 0
    assert "layer: want 0, have 1" in fails(
        "train", str(recipe), "--set", "embedder.layer=0", "--out", str(tmp_path / "r1")
    )
    assert "layer: want" in fails("embed", str(recipe), "--set", "embedder.layer=0")
    assert "not among the" in fails(
        "train", str(recipe), "--set", "tune.captions=['name_en']", "--out", str(tmp_path / "r2")
    )
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    assert "not valid TOML" in fails("train", str(broken))
    assert "is no benchmark" in fails("eval", "mini-clip", "--data", str(tmp_path))
    assert "no benchmark 'flickr30'" in fails("eval", "mini-clip", "--suite", "flickr30", "--data-root", str(tmp_path))
    assert "none of paper is below" in fails("eval", "mini-clip", "--suite", "paper", "--data-root", str(tmp_path))
    assert "say which model" in fails("eval")
    rules = "tune.optim.rules=[{match='^text', lr=1.0}]"
    assert "'^text' matches no parameter" in fails("train", str(recipe), "--set", rules, "--out", str(tmp_path / "r3"))


def test_a_picture_that_is_missing_is_named(
    recipe: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "metadata.jsonl").write_text((world / "metadata.jsonl").read_text())
    settings = ["--set", f"data.dataset={copy}"]
    assert main(["embed", str(recipe), *settings]) == 0
    assert "is missing" in error_of(capsys, "train", str(recipe), *settings, "--out", str(tmp_path / "run"))


PRETRAIN = """
name = "tiny-clip"

[data]
dataset = "{world}"

[pretrain]
captions = ["short"]
epochs = 1
batch_size = 4
image_size = 16
patch_size = 8
image_width = 64
image_layers = 1
text_width = 64
text_layers = 1
vocab_size = 600
embed_dim = 16
"""


def test_pretrain_and_go_on_from_there(world: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "clip.toml"
    recipe.write_text(PRETRAIN.format(world=world))
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", str(recipe), "--out", str(first)]) == 0
    went_on = ["--set", f"pretrain.init={first / 'model'}", "--set", "pretrain.captions=['long']"]
    assert main(["train", str(recipe), *went_on, "--out", str(second)]) == 0
    before, after = load_clip(str(first / "model")), load_clip(str(second / "model"))
    assert after.encode(["a red bar"]).embeds.shape == (1, 16)
    assert before.tokenizer.tokenizer.get_vocab() == after.tokenizer.tokenizer.get_vocab()
    moved = (before.image_tower.projection.weight - after.image_tower.projection.weight).abs().max()
    assert 0 < float(moved.detach()) < 0.1  # a step or two of lr 1e-5 and float16 rounding, not new weights


def test_stage_2_from_a_trained_stage_1_equals_both_in_one_run(recipe: Path, tmp_path: Path) -> None:
    assert main(["embed", str(recipe)]) == 0
    text = recipe.read_text()
    head, rest = text.split("[distill]")
    tune = rest[rest.index("[tune]") :]
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(text.replace(tune, ""))
    second.write_text(head.replace('name = "tiny"', f'name = "tiny"\ninit = "{tmp_path / "s1" / "model"}"') + tune)
    for path, run in ((first, "s1"), (second, "s2"), (recipe, "both")):
        assert main(["train", str(path), "--out", str(tmp_path / run)]) == 0
    s2, both = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("s2", "both"))
    assert s2 == both


def test_what_a_run_was_made_from_is_compared(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    inputs = json.loads((run / "inputs.json").read_text())
    (run / "inputs.json").write_text(json.dumps({**inputs, "clip": "another"}))
    assert "was made from other inputs (clip: want" in error_of(capsys, "train", str(recipe), "--out", str(run))
