"""Weight interpolation against its equation, its ends bit for bit, and towers that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from proclip.errors import ProclipError
from proclip.models.clip import load_clip
from proclip.models.interpolate import interpolated_weights
from proclip.models.proclip import ProCLIP
from proclip.models.towers import ImageTower


@pytest.fixture
def original(tiny_clip_path: Path) -> ImageTower:
    return load_clip(str(tiny_clip_path)).image_tower


@pytest.fixture
def tuned(tiny_proclip_path: Path) -> ImageTower:
    return ProCLIP.from_pretrained(tiny_proclip_path).image_tower


def test_the_equation(original: ImageTower, tuned: ImageTower) -> None:
    before, after = original.state_dict(), tuned.state_dict()
    moved = 0
    for alpha in (0.0, 0.3, 0.5, 1.0):
        mixed = interpolated_weights(original, tuned, alpha)
        assert mixed.keys() == after.keys()
        for name, tensor in mixed.items():
            torch.testing.assert_close(tensor, (1 - alpha) * before[name] + alpha * after[name])
            moved += not torch.equal(before[name], after[name])
    assert moved
    with torch.no_grad():
        next(tuned.parameters()).fill_(float("inf"))
    for alpha, end in ((0.0, before), (1.0, tuned.state_dict())):
        assert all(torch.equal(t, end[n]) for n, t in interpolated_weights(original, tuned, alpha).items())


def test_half_precision_keeps_its_type(original: ImageTower, tuned: ImageTower) -> None:
    mixed = interpolated_weights(original, tuned.to(torch.bfloat16), 0.5)
    assert {t.dtype for t in mixed.values()} == {torch.bfloat16}


def test_towers_that_do_not_fit(original: ImageTower, tuned: ImageTower, monkeypatch: pytest.MonkeyPatch) -> None:
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ProclipError, match=r"alpha must be in \[0, 1\]"):
            interpolated_weights(original, tuned, alpha)
    config: dict[str, Any] = {**tuned.config, "hidden_size": 128}
    with pytest.raises(ProclipError, match=r"has shape \(128,\), wanted \(64,\)"):
        interpolated_weights(original, type(tuned).from_config(config, tuned.embed_dim), 0.5)
    config = {**tuned.config, "num_hidden_layers": 2}
    with pytest.raises(ProclipError, match=r"not of the original's architecture: .* is not known"):
        interpolated_weights(original, type(tuned).from_config(config, tuned.embed_dim), 0.5)
    monkeypatch.setattr(type(original), "family", "other", raising=True)
    other = type("Other", (type(original),), {"family": "third"}).from_config(tuned.config, tuned.embed_dim)
    with pytest.raises(ProclipError, match="is of family 'other', the tuned of 'third'"):
        interpolated_weights(original, other, 0.5)
