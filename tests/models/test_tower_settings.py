"""Gradient checkpointing and torch.compile of the image tower: the same gradients, the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_image_tuning import AttentionTower, clip_tower, pixels
from tiny_open_clip import save_tiny_open_clip
from torch import Tensor, nn

from proclip.config import ImageTuningConfig, TuneConfig
from proclip.errors import ProclipError
from proclip.models.clip import load_clip
from proclip.models.compiling import check_compiler
from proclip.models.image_tuning import ImageTuner
from proclip.models.siglip import SiglipImageTower
from proclip.models.towers import ImageTower
from proclip.train.stages import ImageTextTuning

MODES: dict[str, dict[str, Any]] = {
    "full": {}, "last_blocks": {"mode": "last_blocks"}, "lora": {"mode": "lora", "rank": 2, "dropout": 0.3},
}  # fmt: skip


def siglip_tower() -> SiglipImageTower:
    torch.manual_seed(0)
    config = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    return SiglipImageTower.from_config(config, 16)


def kept_and_gradients(tower: ImageTower, batch: Tensor, **settings: Any) -> tuple[int, dict[str, Tensor]]:
    """How many numbers autograd keeps beside the parameters, and the gradients of a squared sum."""
    tuner = ImageTuner(tower, ImageTuningConfig(**settings))
    tower.train()
    own, kept = {p.data_ptr() for p in tower.parameters()}, [0]

    def pack(tensor: Tensor) -> Tensor:
        kept[0] += tensor.numel() if tensor.data_ptr() not in own else 0
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = tuner.run_tower(batch)
    before_backward = kept[0]
    features.square().sum().backward()
    return before_backward, {n: p.grad for n, p in tower.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", [clip_tower, siglip_tower])
@pytest.mark.parametrize("mode", MODES)
def test_checkpointing_keeps_less_for_the_same_gradients(mode: str, make: Any) -> None:
    found = [kept_and_gradients(make(), pixels(), gradient_checkpointing=on, **MODES[mode]) for on in (False, True)]
    (much, wanted), (little, gradients) = found
    assert little < 0.7 * much or mode == "last_blocks"
    assert gradients.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(gradients[name], tensor, msg=name)


@pytest.mark.parametrize("kind", ["vit", "eva02", "siglip", "coca"])
def test_checkpointing_of_open_clip(kind: str, tmp_path: Path, torchvision_operators: None) -> None:
    side = {"eva02": 16, "siglip": 16}.get(kind, 32)
    save_tiny_open_clip(kind, tmp_path)
    batch = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    towers = [load_clip(f"open_clip:{tmp_path}").image_tower for _ in range(2)]
    (much, wanted), (little, gradients) = (
        kept_and_gradients(tower, batch, gradient_checkpointing=on)
        for tower, on in zip(towers, (False, True), strict=True)
    )
    assert little < much and gradients.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(gradients[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_towers_that_have_no_such_switch(tmp_path: Path, torchvision_operators: None) -> None:
    save_tiny_open_clip("resnet", tmp_path)
    resnet = load_clip(f"open_clip:{tmp_path}").image_tower
    for tower, kind in ((resnet, "ModifiedResNet"), (AttentionTower(), "AttentionTower")):
        with pytest.raises(ProclipError, match=rf"tune\.image\.gradient_checkpointing: a? ?{kind} has no such switch"):
            ImageTuner(tower, ImageTuningConfig(gradient_checkpointing=True))
    with pytest.raises(ProclipError, match=r"a Linear does not say what its blocks are"):
        ImageTuner(nn.Linear(2, 2), ImageTuningConfig(gradient_checkpointing=True))
    with pytest.raises(ProclipError, match=r"gradient_checkpointing must be left alone where nothing"):
        ImageTuningConfig(mode="locked", gradient_checkpointing=True)


class Compiled(nn.Module):
    """As torch.compile's: a module that holds the other."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def forward(self, pixel_values: Tensor) -> Tensor:
        return 2 * self._orig_mod(pixel_values)


@pytest.mark.parametrize("mode", MODES)
def test_compile_leaves_the_names_and_the_tower_alone(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Compiled)
    stages = [tiny_stage(clip_tower(), compile=on, **MODES[mode]) for on in (False, True)]
    plain, compiled = (stage.state_dict() for stage in stages)
    assert plain.keys() == compiled.keys()
    tuner = stages[1]._tuner
    assert tuner.teacher is not None and tuner.run_teacher is not None
    tuner.tower.eval()
    for run, tower in ((tuner.run_tower, tuner.tower), (tuner.run_teacher, tuner.teacher)):
        assert torch.equal(run(pixels()), 2 * tower(pixels()))
    stages[1].finish()
    assert tuner.run_tower is tuner.tower and tuner.run_teacher is None


def tiny_stage(tower: ImageTower, **settings: Any) -> ImageTextTuning:
    config = TuneConfig(image=ImageTuningConfig(**settings))
    return ImageTextTuning(tower, nn.Linear(2, 5), nn.Parameter(torch.tensor(1.0)), config)


def test_a_machine_that_cannot_compile_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", _no_compiler)
    with pytest.raises(ProclipError, match=r"tune\.image\.compile: torch\.compile does not work on cpu here; it wants"):
        check_compiler("cpu", "tune.image.compile")


def _no_compiler(function: Any) -> Any:
    raise RuntimeError("no g++")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_inductor_gives_the_same_gradients() -> None:
    check_compiler("cpu", "tune.image.compile")
    wanted, gradients = (kept_and_gradients(clip_tower(), pixels(), compile=on)[1] for on in (False, True))
    for name, tensor in wanted.items():
        torch.testing.assert_close(gradients[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
