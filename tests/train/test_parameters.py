"""Rules by name, layer decay, freezing, and the table that says what came of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny_tune
import torch
from safetensors.torch import load_file
from tiny_tune import TinyPairs, tiny_stage
from torch import nn

from proclip.config import AdapterConfig, OptimConfig, ParameterRule, TuneConfig
from proclip.errors import ProclipError
from proclip.models.adapter import Adapter
from proclip.models.clip import load_clip
from proclip.train.checkpoint import latest_checkpoint
from proclip.train.optim import build_optimizer
from proclip.train.parameters import frozen, parameter_groups
from proclip.train.stages import ImageTextTuning


def rates(stage: ImageTextTuning, optim: OptimConfig) -> dict[str, tuple[float, float, bool]]:
    """Learning rate, decay and whether it is frozen, of every parameter."""
    groups = parameter_groups(stage.groups(), optim, stage.layers_above())
    return {name: (g.lr, g.weight_decay, g.frozen) for g in groups for name, _ in g.named}


def test_the_first_rule_that_matches_decides() -> None:
    stage = tiny_stage()
    rules = (
        ParameterRule(match=r"hidden\.weight$", lr=1e-2),
        ParameterRule(match="^image_tower", lr=1e-4, weight_decay=0.3),
        ParameterRule(match="norm", freeze=True),
        ParameterRule(match="^logit_scale", weight_decay=0.5),
    )
    found = rates(stage, OptimConfig(lr=1e-3, weight_decay=0.1, rules=rules))
    names = [name for named in stage.groups().values() for name, _ in named]
    assert sorted(found) == sorted(names)
    for name in names:
        matrix = stage.get_parameter(name).ndim >= 2 and name != "logit_scale"
        if name.endswith("hidden.weight"):
            wanted = (1e-2, 0.1, False)
        elif name.startswith("image_tower"):
            wanted = (1e-4, 0.3 if matrix else 0.0, False)
        elif "norm" in name:
            wanted = (0.0, 0.0, True)
        else:
            wanted = (1e-3, 0.1 if matrix else 0.0, False)
        assert found[name] == wanted, name


@pytest.mark.parametrize(
    ("matches", "message"),
    [
        (["^image_towr"], r"'\^image_towr' matches no parameter of this stage; near it: image_tower"),
        (["qqq"], "'qqq' matches no parameter of this stage; the stage trains adapter, image_tower, logit_scale"),
        (["^image", r"hidden\.weight"], r"'hidden\\\\.weight' decides nothing: rules before it match all"),
    ],
)
def test_a_rule_that_decides_nothing_is_named(matches: list[str], message: str) -> None:
    rules = tuple(ParameterRule(match=match, lr=1.0) for match in matches)
    with pytest.raises(ProclipError, match=message):
        build_optimizer(tiny_stage().groups(), OptimConfig(rules=rules))


def test_rules_that_say_nothing_or_too_much() -> None:
    for values, message in (
        ({"match": "("}, "is no regular expression: missing"),
        ({"match": "a"}, "must be given lr, weight_decay or freeze"),
        ({"match": "a", "lr": -1.0}, "of 'a': lr must be 0 or more"),
        ({"match": "a", "freeze": True, "weight_decay": 0.1}, "weight_decay must be left alone beside freeze"),
    ):
        with pytest.raises(ProclipError, match=message):
            ParameterRule(**values)
    with pytest.raises(ProclipError, match=r"optim.layer_decay must be in \(0, 1\]"):
        OptimConfig(layer_decay=0.0)


def test_everything_frozen() -> None:
    with pytest.raises(ProclipError, match="no trainable parameter"):
        build_optimizer(tiny_stage().groups(), OptimConfig(rules=(ParameterRule(match="", freeze=True),)))


def test_what_is_frozen_stays_and_costs_no_gradient(tmp_path: Path) -> None:
    optim = OptimConfig(lr=1e-2, rules=(ParameterRule(match=r"^image_tower\.hidden", freeze=True),))
    stage = tiny_stage(optim=optim)
    before = {name: p.detach().clone() for name, p in stage.named_parameters()}
    groups = parameter_groups(stage.groups(), optim)
    with frozen(groups):
        stage.loss(next(TinyPairs().epoch(0)))["loss"].backward()
        assert stage.image_tower.hidden.weight.grad is None
        assert stage.image_tower.project.weight.grad is not None
    assert stage.image_tower.hidden.weight.requires_grad  # another stage may train it
    tiny_tune.train(tmp_path, stage=stage, epochs=1)
    for name in ("hidden.weight", "hidden.bias"):
        assert torch.equal(stage.get_parameter(f"image_tower.{name}"), before[f"image_tower.{name}"])
    assert not torch.equal(stage.image_tower.project.weight, before["image_tower.project.weight"])
    path = latest_checkpoint(tmp_path / "checkpoints" / "tune")
    assert path is not None
    assert not [key for key in load_file(path / "optimizer.safetensors") if "hidden" in key]


def test_layer_decay_is_by_depth() -> None:
    """Against depths read off the names, as BEiT's code reads them."""
    optim = OptimConfig(lr=1e-3, layer_decay=0.5, rules=(ParameterRule(match="^image_tower", lr=1e-2),))
    clip, config = load_clip("mini-clip"), TuneConfig(optim=optim, distillation_weight=0.0)
    adapter = Adapter(6, clip.dim, AdapterConfig(num_blocks=1))
    stage, depth = ImageTextTuning(clip.image_tower, adapter, nn.Parameter(torch.tensor(2.0)), config), 6
    for name, (lr, _, _) in rates(stage, optim).items():
        if not name.startswith("image_tower"):
            assert lr == 1e-3
            continue
        block = re.search(r"\.layers\.(\d+)\.", name)
        below = "embedding" in name or "pre_layrnorm" in name
        layer = int(block[1]) + 1 if block else 0 if below else depth + 1
        assert lr == pytest.approx(1e-2 * 0.5 ** (depth + 1 - layer)), name


def test_layer_decay_needs_an_image_tower() -> None:
    with pytest.raises(
        ProclipError, match=r"layer_decay: this stage trains no image tower.* it trains adapter, image_t"
    ):
        stage = tiny_stage()  # its tower does not say what its blocks are
        build_optimizer(stage.groups(), OptimConfig(layer_decay=0.9), stage.layers_above())


def test_the_table_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = (ParameterRule(match="norm", freeze=True), ParameterRule(match="^image_tower", lr=2e-3))
    stage = tiny_stage(optim=OptimConfig(lr=1e-2, rules=rules))
    tiny_tune.train(tmp_path, stage=stage, epochs=1)
    printed = capsys.readouterr().err
    assert "tune: what is trained" in printed and "frozen" in printed and "0.002" in printed
    rows = json.loads((tmp_path / "parameters.json").read_text())["tune"]
    assert sum(row["numbers"] for row in rows) == sum(p.numel() for named in stage.groups().values() for _, p in named)
    tower = [row for row in rows if row["group"] == "image_tower"]
    assert [(row["lr"], row["weight_decay"], row["frozen"]) for row in tower] == [
        (2e-3, 0.05, False),
        (2e-3, 0.0, False),
    ]
    assert {row["rule"] for row in rows} == {"norm", "^image_tower", "default"} and "default" in printed
    assert [row["rule"] for row in tower] == ["^image_tower", "^image_tower"]
    assert tower[0]["names"] == ["image_tower.hidden.weight", "image_tower.project.weight"]
    assert [row["frozen"] for row in rows if any("norm" in name for name in row["names"])] == [True]
    tiny_tune.train(tmp_path, stage=tiny_stage(optim=OptimConfig(lr=1e-2, rules=rules)), epochs=1)
    assert "what is trained" not in capsys.readouterr().err  # it had ended
