"""``log.keep_best`` through ``proclip train``: the model of the best step lies beside that of the last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_recipe import HEAD
from torch import Tensor

from proclip.cli import main
from proclip.config import load_recipe
from proclip.errors import ProclipError
from proclip.models.proclip import ProCLIP
from proclip.runs.forgetting import StageEvaluation
from proclip.train.loop import Hook

RECIPE = (
    HEAD
    + """
[tune]
captions = ["short"]
epochs = 3
batch_size = 4

[tune.optim]
lr = 1e-2

[evaluate]
folders = ["{world}"]
split = "test"
tasks = ["short"]
cache = "{store}/cache"
every_epochs = 1

[log]
keep_best = "acc1"
"""
)


@pytest.mark.parametrize("mode", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_the_best_model_is_saved_beside_the_last(
    mode: str, tiny_world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=tiny_world, store=tmp_path / "store"))
    pixels, seen, figures = torch.randn(2, 3, 16, 16), dict[int, Tensor](), [0.1, 0.6, 0.3]

    def hooks(self: StageEvaluation, model: ProCLIP, steps_per_epoch: int) -> list[Hook]:
        def run(step: int) -> dict[str, float]:
            with torch.inference_mode():
                seen[step] = model.eval().image_tower(pixels)
            return {"eval/tiny/acc1": figures[step // steps_per_epoch - 1]}

        return [Hook(steps_per_epoch, run)]

    monkeypatch.setattr(StageEvaluation, "hooks", hooks)
    assert main(["embed", str(path)]) == 0
    run = tmp_path / "run"
    assert main(["train", str(path), "--out", str(run), "--set", f"tune.image.mode={mode}"]) == 0
    steps = sorted(seen)
    line = f"tune: best eval/tiny/acc1 after step {steps[1]} of {steps[2]}: 0.6000: {run / 'model-best'}"
    assert line in capsys.readouterr().err
    for name, step in (("model-best", steps[1]), ("model", steps[2])):
        model = ProCLIP.from_pretrained(str(run / name))
        torch.testing.assert_close(model.image_tower(pixels).detach(), seen[step], rtol=1e-4, atol=1e-5)
    made = json.loads((run / "model-best" / "config.json").read_text())["provenance"]
    assert (made["step"], made["chosen by"]) == (steps[1], {"eval/tiny/acc1": 0.6})
    assert not (run / "checkpoints").exists()


def test_keep_best_needs_something_that_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\n[tune]\n[log]\nkeep_best = "acc1"\n')
    with pytest.raises(ProclipError, match=r"log.keep_best must be left alone without \[evaluate\] and its every_epo"):
        load_recipe(path)
