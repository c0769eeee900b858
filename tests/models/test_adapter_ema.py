"""The adapter's arithmetic and the EMA's closed form."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from proclip.config import AdapterConfig
from proclip.errors import ProclipError
from proclip.models.adapter import Adapter
from proclip.models.ema import update_ema


def test_adapter_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    adapter = Adapter(6, 3, AdapterConfig(num_blocks=2, expansion=2)).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    h = x / x.norm(dim=1, keepdim=True)
    for block in adapter.blocks:
        centred = h - h.mean(1, keepdim=True)
        ln = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt() * block.norm.weight + block.norm.bias
        inner = ln @ block.expand.weight.T + block.expand.bias
        gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        h = h + gelu @ block.contract.weight.T + block.contract.bias
    wanted = (
        F.layer_norm(h, (6,), adapter.norm.weight, adapter.norm.bias) @ adapter.project.weight.T + adapter.project.bias
    )
    torch.testing.assert_close(adapter(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("input_norm", ["l2", "none", "standardize"])
@pytest.mark.parametrize("blocks", [0, 3])
def test_folded_is_the_same_function(input_norm: Literal["l2", "none", "standardize"], blocks: int) -> None:
    torch.manual_seed(1)
    adapter = Adapter(7, 3, AdapterConfig(num_blocks=blocks, dropout=0.3, input_norm=input_norm)).double()
    adapter.fit_input_norm(5 + 2 * torch.randn(20, 7, dtype=torch.float64))
    for parameter in adapter.parameters():
        parameter.data += torch.randn_like(parameter)
    before = copy.deepcopy(adapter.state_dict())
    folded, x = adapter.folded(), torch.randn(9, 7, dtype=torch.float64)
    torch.testing.assert_close(folded(x), adapter.eval()(x), rtol=0, atol=1e-10)
    assert not [name for name, _ in folded.named_parameters() if "norm" in name]
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.state_dict().items())


def test_papers_preset_has_llm2clips_parameter_count() -> None:
    with torch.device("meta"):
        adapter = Adapter(4096, 1280, AdapterConfig())
    assert sum(p.numel() for p in adapter.parameters()) == 273_769_728


def test_standardize_uses_training_statistics_and_keeps_them() -> None:
    config = AdapterConfig(num_blocks=1, input_norm="standardize")
    training = torch.randn(50, 4) * torch.tensor([1.0, 10, 100, 1]) + 1000
    adapter = Adapter(4, 2, config)
    adapter.fit_input_norm(iter(training.split([1, 20, 29])))
    torch.testing.assert_close(adapter.input_mean, training.double().mean(0).float())
    torch.testing.assert_close(adapter.input_std, training.double().std(0).float())
    copied = Adapter(4, 2, config)
    copied.load_state_dict(adapter.state_dict())
    assert torch.equal(copied(training), adapter(training))


def test_l2_ignores_the_statistics() -> None:
    adapter = Adapter(4, 2, AdapterConfig(num_blocks=1))
    adapter.fit_input_norm([torch.randn(9, 4) + 5])
    assert torch.equal(adapter.input_mean, torch.zeros(4))
    x = torch.randn(3, 4)
    torch.testing.assert_close(adapter(x), adapter(7 * x))


def test_no_input_norm_takes_vectors_as_they_are() -> None:
    bare, normed = Adapter(4, 2, AdapterConfig(input_norm="none")), Adapter(4, 2, AdapterConfig())
    normed.load_state_dict(bare.state_dict())
    x = torch.randn(3, 4)
    torch.testing.assert_close(bare(F.normalize(x, dim=-1)), normed(x))
    assert not torch.allclose(bare(7 * x), bare(x))


def test_wrong_width() -> None:
    with pytest.raises(ProclipError, match="width 4, these have width 5"):
        Adapter(4, 2, AdapterConfig())(torch.zeros(1, 5))


def test_ema_closed_form() -> None:
    student, n, decay = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), 7, 0.9
    teacher = copy.deepcopy(student)
    start = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    student(torch.randn(4, 3))
    for _ in range(n):
        update_ema(student, teacher, decay)
    for first, now, target in zip(start, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(now, decay**n * first + (1 - decay**n) * target)
    assert torch.equal(teacher[1].running_mean, student[1].running_mean)


def test_ema_of_different_modules() -> None:
    with pytest.raises(ValueError, match="different parameters"):
        update_ema(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.9)
