"""``proclip inspect`` and ``proclip interpolate`` on tiny models: figures, resuming, one clear line for bad input."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from tiny_recipe import HEAD, with_tasks

from proclip.cli import main
from proclip.models.clip import load_clip
from proclip.models.proclip import ProCLIP
from proclip.runs import interpolate as module
from proclip.runs.inspect import describe

RECIPE = (
    HEAD
    + """
[distill]
epochs = 1
batch_size = 4

[tune]
epochs = 1
batch_size = 4

[tune.optim]
lr = 1e-3
"""
)


@pytest.fixture(scope="module")
def world(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with two tasks."""
    return with_tasks(tiny_world, tmp_path_factory.mktemp("world") / "tiny")


def error_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    assert main(list(command)) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("proclip: error: ")
    return message


def test_inspect(
    tiny_proclip_path: Path, tiny_clip_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = describe(str(tiny_proclip_path))
    model = ProCLIP.from_pretrained(tiny_proclip_path)
    assert facts["kind"] == "proclip" and facts["shared_space"] == 16
    assert facts["image_tower"] == {"family": "clip", "from": str(tiny_clip_path), "revision": None, "image_size": 16}
    assert facts["parameters"]["image_tower"] == sum(p.numel() for p in model.image_tower.parameters())
    assert facts["parameters"]["adapter"] == sum(p.numel() for p in model.adapter.parameters())
    assert facts["embedder"]["layer"] == 1
    clip = describe(str(tiny_clip_path))
    towers = load_clip(str(tiny_clip_path))
    assert clip["kind"] == "clip"
    assert clip["parameters"]["text_tower"] == sum(p.numel() for p in towers.text_tower.parameters())
    assert main(["inspect", str(tiny_proclip_path)]) == 0
    screen = capsys.readouterr().out
    assert "image tower" in screen and len(screen.splitlines()) <= 30
    assert main(["inspect", str(tiny_clip_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == clip
    assert "neither a folder nor" in error_of(capsys, "inspect", "no/such")
    assert "not a CLIP checkpoint" in error_of(capsys, "inspect", str(tmp_path))
    (tmp_path / "recipe.toml").write_text("name = 'x'")
    assert "has not finished" in error_of(capsys, "inspect", str(tmp_path))


def test_a_run_tells_how_it_was_made(
    world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=world, store=tmp_path / "store"))
    run = tmp_path / "run"
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    facts = describe(str(run))
    assert facts["run"]["recipe"] == "tiny" and facts["run"]["tune"]["batch_size"] == 4
    assert facts["run"] == describe(str(run / "model"))["run"]
    trained = facts["trained"]
    assert trained["data"]["benchmark"]["name"] == "tiny" and "stage 2" in trained["data"]["stages"]
    card = (run / "model" / "README.md").read_text()
    assert "recipe `tiny`, seed 0" in card and "tiny version 1" in card
    assert "- data: `tiny`" in card and str(tmp_path) not in card
    capsys.readouterr()
    assert main(["inspect", str(run)]) == 0
    screen = capsys.readouterr().out
    assert len(screen.splitlines()) <= 40
    assert "stage 2: split `align`" in screen and "seed 0" in screen

    out = tmp_path / "half"
    assert main(["interpolate", str(run), "--alpha", "0.5", "--out", str(out)]) == 0
    tuned, half = ProCLIP.from_pretrained(run / "model"), ProCLIP.from_pretrained(out)
    assert tuned.clip_name is not None
    original = load_clip(tuned.clip_name)
    for name, tensor in half.image_tower.state_dict().items():
        ends = original.image_tower.state_dict()[name], tuned.image_tower.state_dict()[name]
        torch.testing.assert_close(tensor, (ends[0] + ends[1]) / 2)
    assert torch.equal(half.encode_text("rot"), tuned.encode_text("rot"))
    card = (out / "README.md").read_text()
    assert "a = 0.5" in card and "- parent: tuned: `run`" in card and "recipe `tiny`" in card
    assert Path(tuned.clip_name).name in card and str(tmp_path) not in card and str(tiny_clip_path) not in card
    assert "is not empty" in error_of(capsys, "interpolate", str(run), "--alpha", "0.5", "--out", str(out))


def test_curve(
    tiny_proclip_path: Path, tiny_clip_path: Path, world: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "TASKS", ("zero_shot/tiny", "retrieval_short", "not_there"))
    monkeypatch.setattr("proclip.runs.evaluate.CACHE", tmp_path / "cache")
    columns = {
        "zero-shot": ("zero_shot/tiny/mean_per_class",),
        "T2I R@1": ("retrieval_short/t2i_r@1",),
        "CKA": ("cka",),
        "x": ("y",),
    }
    monkeypatch.setattr(module, "COLUMNS", columns)
    out = tmp_path / "curve"
    command = ["interpolate", str(tiny_proclip_path), "--out", str(out), "--data", str(world)]
    assert main([*command, "--curve", "1,0"]) == 0
    result = json.loads((out / "curve.json").read_text())
    assert list(result["figures"]) == ["0", "1"] and result["clip"] == str(tiny_clip_path)
    assert result["figures"]["0"]["cka"] == pytest.approx(1) and result["figures"]["1"]["cka"] < 0.999
    assert (out / "curve.md").read_text().splitlines()[0] == "| alpha | zero-shot | T2I R@1 | CKA |"
    assert "| 0 |" in (out / "curve.md").read_text()
    ElementTree.fromstring((out / "curve.svg").read_text())
    stamp = (out / "alpha-0" / "model.safetensors").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("proclip.runs.evaluate.run_benchmark", lambda *a, **k: pytest.fail("measured again"))
        assert main([*command, "--curve", "0,1"]) == 0
    assert main([*command, "--curve", "0,0.5,1"]) == 0  # goes on: one more point
    assert (out / "alpha-0" / "model.safetensors").stat().st_mtime_ns == stamp
    assert list(json.loads((out / "curve.json").read_text())["figures"]) == ["0", "0.5", "1"]

    inputs = json.loads((out / "inputs.json").read_text())
    (out / "inputs.json").write_text(json.dumps({**inputs, "model": "another"}))
    assert "was made from other inputs (model: want" in error_of(capsys, *command, "--curve", "0,1")
    for steps in ("0,2", "0,nan", "nan,1", "0.5"):
        assert "two or more numbers in [0, 1]" in error_of(capsys, *command, "--curve", steps)
    assert "numbers with commas" in error_of(capsys, *command, "--curve", "a")
    bad = ["interpolate", str(tiny_clip_path), "--alpha", "0.5", "--out", str(tmp_path / "b")]
    assert "is not a proclip model" in error_of(capsys, *bad)
    for what in ("--curve=0,1", "--alpha=0.5"):
        file = ["interpolate", str(tiny_proclip_path), what, "--out", str(out / "curve.md")]
        assert f"--out {out / 'curve.md'} is a file: give a folder" in error_of(capsys, *file)
