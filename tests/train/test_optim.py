"""Parameter groups, the learning rate's course, clipping."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_tune import tiny_stage
from torch import nn

from proclip.config import OptimConfig, ParameterRule
from proclip.errors import ProclipError
from proclip.train.optim import build_optimizer, build_scaler, clip_gradients, lr_at, named_parameters, set_lr

OF_TOWER = ParameterRule(match="^image_tower", lr=1e-4)


def test_what_decays_and_how_fast_it_learns() -> None:
    config = OptimConfig(lr=1e-3, rules=(OF_TOWER,), weight_decay=0.1)
    optimizer = build_optimizer(tiny_stage().groups(), config)
    decay = {n: g["weight_decay"] for g in optimizer.param_groups for n in g["param_names"]}
    lr = {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert decay["image_tower.hidden.weight"] == decay["adapter.project.weight"] == 0.1
    assert decay["image_tower.hidden.bias"] == decay["adapter.norm.weight"] == decay["logit_scale"] == 0.0
    assert lr["image_tower.hidden.weight"] == lr["image_tower.hidden.bias"] == 1e-4
    assert lr["adapter.norm.weight"] == lr["logit_scale"] == 1e-3
    assert decay.keys() == named_parameters(optimizer).keys()


def test_logit_scale_of_any_shape_does_not_decay() -> None:
    groups = {"logit_scale": [("logit_scale", nn.Parameter(torch.ones(1, 1)))]}
    assert [g["weight_decay"] for g in build_optimizer(groups, OptimConfig()).param_groups] == [0.0]


def test_nothing_to_train() -> None:
    with pytest.raises(ProclipError, match="no trainable parameter"):
        build_optimizer({"adapter": []}, OptimConfig())


def test_schedule() -> None:
    assert [lr_at(s, 10, 0) for s in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])
    assert [lr_at(s, 12, 2) for s in (0, 1, 2, 7, 12)] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5, 0.0])
    assert lr_at(3, 10, 0) == pytest.approx((1 + math.cos(0.3 * math.pi)) / 2)
    assert lr_at(3, 4, 10) == pytest.approx(4 / 11)  # a stage shorter than its warm-up
    assert lr_at(2, 2, 2) == 1.0


def test_set_lr_keeps_the_ratio_of_groups() -> None:
    config = OptimConfig(lr=1e-3, rules=(OF_TOWER,))
    optimizer = build_optimizer(tiny_stage().groups(), config)
    for _ in range(2):
        assert set_lr(optimizer, 0.5) == pytest.approx(5e-4)
    assert {g["name"]: g["lr"] for g in optimizer.param_groups} == pytest.approx(
        {"adapter": 5e-4, "image_tower": 5e-5, "logit_scale": 5e-4}
    )


def test_clipping_is_by_the_global_norm() -> None:
    a, b, idle = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    optimizer = build_optimizer({"adapter": [("a", a), ("b", b), ("idle", idle)]}, OptimConfig())
    a.grad, b.grad = torch.full((2, 2), 3.0), torch.full((2, 2), 4.0)  # norm 10
    assert clip_gradients(optimizer, None).item() == pytest.approx(10.0)
    assert a.grad[0, 0].item() == 3.0
    assert clip_gradients(optimizer, 5.0).item() == pytest.approx(10.0)
    assert (a.grad[0, 0].item(), b.grad[0, 0].item()) == pytest.approx((1.5, 2.0), rel=1e-5)


def test_float16_needs_cuda() -> None:
    with pytest.raises(ProclipError, match=r"float16.*CUDA.*bfloat16"):
        build_scaler(OptimConfig(autocast="float16"), torch.device("cpu"))
    assert not build_scaler(OptimConfig(autocast="bfloat16"), torch.device("cpu")).is_enabled()
