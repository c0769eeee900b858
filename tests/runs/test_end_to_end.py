"""The command line on a tiny world: embed, train, evaluate; and one clear line for every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from proclip.cli import main
from proclip.models.clip import load_clip
from proclip.models.proclip import ProCLIP

RECIPE = """
name = "tiny"
clip = "{clip}"

[embedder]
model = "{llm}"
dtype = "float32"
layer = 1

[adapter]
num_blocks = 1
input_norm = "standardize"

[data]
dataset = "{world}"
store = "{store}"

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
TASKS = {
    "zero_shot_tiny": {
        "task": "classification",
        "items": [["red-square", 0], ["green-bar", 1], ["blue-column", 2], ["red-bar", 0], ["blue-bar", 2]],
        "classnames": ["red", "green", "blue"],
        "templates": ["a {} thing"],
        "chance": 1 / 3,
    },
    "retrieval_short": {
        "task": "retrieval",
        "items": [["red-square", ["a red square on white"]], ["green-bar", ["a green bar", "one bar, green"]]],
        "chance": {"r@1": 0.5, "r@5": 1.0, "r@10": 1.0},
    },
}


@pytest.fixture(scope="module")
def world(tiny_world: Path) -> Path:
    tasks = tiny_world / "tasks" / "test"
    tasks.mkdir(parents=True)
    for name, task in TASKS.items():
        (tasks / f"{name}.json").write_text(json.dumps({"name": name, **task}))
    benchmark = {"name": "tiny", "version": "1", "checksum": "0" * 64}
    (tiny_world / "manifest.json").write_text(json.dumps({"benchmark": benchmark}))
    return tiny_world


@pytest.fixture
def recipe(world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=world, store=tmp_path / "store"))
    return path


def test_embed_train_evaluate(recipe: Path, world: Path, tmp_path: Path, tiny_clip_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    assert {p.name for p in run.iterdir()} == {
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

    out = tmp_path / "figures.json"
    options = [
        "--data",
        str(world),
        "--store",
        str(tmp_path / "store"),
        "--clip",
        str(tiny_clip_path),
        "--out",
        str(out),
    ]
    assert main(["eval", str(run), *options]) == 0
    result = json.loads(out.read_text())
    assert result["benchmark"]["name"] == "tiny"
    assert result["config_hash"] and result["seed"] == 0
    assert set(result["figures"]) >= {"zero_shot/tiny", "retrieval_short/i2t_r@1", "retrieval_short/t2i_r@1", "cka"}
    assert result["chance"]["zero_shot/tiny"] == pytest.approx(1 / 3)
    assert main(["eval", str(tiny_clip_path), *options]) == 0
    assert json.loads(out.read_text())["figures"]["cka"] == pytest.approx(1)


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
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("proclip: error: ")
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
    assert "metadata.jsonl is missing" in fails("embed", str(recipe), "--set", f"data.dataset={tmp_path}")
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
    assert "is not a mini world" in fails("eval", "mini-clip", "--data", str(tmp_path))
    assert "lr_by_group" in fails(
        "train", str(recipe), "--set", "tune.optim.lr_by_group.text=1", "--out", str(tmp_path / "r3")
    )


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
