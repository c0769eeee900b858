"""What is trained of an image tower, LoRA against its definition, and the teacher's averages."""

from __future__ import annotations

import builtins
import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proclip.config import ImageTuningConfig
from proclip.errors import ProclipError
from proclip.models.clip_transformers import ClipImageTower
from proclip.models.image_tuning import ImageTuner, lora_layers
from proclip.models.towers import ImageTower

LAYERS = 3
LINEAR = {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}


def clip_tower() -> ClipImageTower:
    torch.manual_seed(0)
    config = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
        "image_size": 8, "patch_size": 4, "projection_dim": 5, "initializer_range": 0.3,
    }  # fmt: skip
    return ClipImageTower.from_config(config, 5)


class AttentionBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(x, x, x, need_weights=False)[0]
        y: Tensor = x + self.mlp(x)
        return y


class AttentionTower(ImageTower):
    """Built and registered as open_clip's: ``proj`` before the blocks, nn.MultiheadAttention inside them."""

    family = "test"

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed_dim = 5
        self.positional = nn.Parameter(torch.randn(4, width))
        self.proj = nn.Parameter(torch.randn(width, 5))
        self.embed = nn.Linear(48, width)
        self.layers = nn.ModuleList(AttentionBlock(width) for _ in range(2))
        self.ln_post = nn.LayerNorm(width)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> AttentionTower:
        return cls()

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.embed(pixel_values.reshape(len(pixel_values), 4, 48)) + self.positional
        for layer in self.layers:
            x = layer(x)
        features: Tensor = self.ln_post(x.mean(1)) @ self.proj
        return features


def pixels(b: int = 4) -> Tensor:
    return torch.randn(b, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def move(tower: nn.Module) -> None:
    """As an optimiser would: everything that is trained changes."""
    with torch.no_grad():
        for parameter in tower.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def trained(tower: nn.Module) -> set[str]:
    return {name for name, parameter in tower.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("blocks", [1, 2, LAYERS])
def test_last_blocks_of_clip(blocks: int) -> None:
    tower = clip_tower()
    ImageTuner(tower, ImageTuningConfig(mode="last_blocks", blocks=blocks))
    last = tuple(f"vision_model.encoder.layers.{n}." for n in range(LAYERS - blocks, LAYERS))
    names = {
        n for n, _ in tower.named_parameters() if n.startswith((*last, "vision_model.post_layernorm", "projection"))
    }
    assert trained(tower) == names
    tower(pixels()).sum().backward()
    assert {n for n, p in tower.named_parameters() if p.grad is not None} == names


def test_last_blocks_of_a_tower_that_registers_its_projection_first() -> None:
    tower = AttentionTower()
    ImageTuner(tower, ImageTuningConfig(mode="last_blocks", blocks=1))
    names = trained(tower)
    assert {n for n in names if not n.startswith("layers.1.")} == {"proj", "ln_post.weight", "ln_post.bias"}
    assert {n for n in names if n.startswith("layers.1.")} == {
        n for n, _ in tower.named_parameters() if "layers.1." in n
    }


def test_full_and_locked() -> None:
    tower = clip_tower()
    everything = {n for n, _ in tower.named_parameters()}
    ImageTuner(tower, ImageTuningConfig())
    assert trained(tower) == everything
    ImageTuner(tower, ImageTuningConfig(mode="locked"))
    assert trained(tower) == set()


def test_lora_changes_every_linear_layer_of_the_blocks_and_starts_at_the_original() -> None:
    tower = clip_tower().eval()
    before = tower(pixels())
    ImageTuner(tower, ImageTuningConfig(mode="lora", rank=2))
    torch.testing.assert_close(tower(pixels()), before)
    names = trained(tower)
    assert len(names) == LAYERS * len(LINEAR) * 2
    assert {n.split(".")[-4] for n in names} == LINEAR and all(".lora_" in n for n in names)
    assert sum(p.numel() for p in tower.parameters() if p.requires_grad) == LAYERS * 2 * (4 * 32 + 2 * 40)


@pytest.mark.parametrize("build", [clip_tower, AttentionTower])
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_lora_is_its_definition_and_merging_changes_no_output(build: Any, alpha: float | None) -> None:
    """Every weight becomes W + alpha / rank B A; alpha is twice the rank if not given."""
    torch.manual_seed(2)
    tower = build().eval()
    original = {n: p.detach().clone() for n, p in tower.named_parameters()}
    tuner = ImageTuner(tower, ImageTuningConfig(mode="lora", rank=2, alpha=alpha))
    move(tower)
    weights = {n: p.detach().clone() for n, p in tower.named_parameters()}
    unmerged = tower(pixels())
    tuner.merge()
    torch.testing.assert_close(tower(pixels()), unmerged, rtol=1e-5, atol=1e-5)
    merged = dict(tower.named_parameters())
    assert merged.keys() == original.keys()
    changed, scale = 0, (alpha or 4.0) / 2
    for name, before in original.items():
        layer, _, attribute = name.rpartition(".")
        if f"{layer}.lora_A.default.weight" not in weights or attribute not in ("weight", "in_proj_weight"):
            assert torch.equal(merged[name], before), name
            continue
        a, b = (weights[f"{layer}.lora_{letter}.default.weight"] for letter in "AB")
        torch.testing.assert_close(merged[name].detach(), before + scale * b @ a, rtol=1e-5, atol=1e-6)
        changed += 1
    assert changed == (LAYERS * 6 if build is clip_tower else 2 * 3)


def test_lora_of_chosen_layers() -> None:
    tower = clip_tower()
    config = ImageTuningConfig(mode="lora", targets=("q_proj", "layers.2.mlp.fc1", "projection"))
    layers = set(lora_layers(tower, config))
    wanted = {f"vision_model.encoder.layers.{n}.self_attn.q_proj" for n in range(LAYERS)}
    assert layers == wanted | {"vision_model.encoder.layers.2.mlp.fc1", "projection"}
    ImageTuner(tower, config)
    assert {n.split(".lora_")[0] for n in trained(tower)} == layers


@pytest.mark.parametrize("build", [clip_tower, AttentionTower])
def test_the_teacher_averages_the_weights_that_lora_makes(build: Any) -> None:
    """Not A and B: their averages' product is another matrix."""
    torch.manual_seed(3)
    tower = build().eval()
    original = copy.deepcopy(tower)
    tuner = ImageTuner(tower, ImageTuningConfig(mode="lora", rank=2), "ema")
    assert tuner.teacher is not None
    wanted = {n: p.detach().clone() for n, p in original.named_parameters()}
    for _ in range(3):
        move(tower)
        tuner.update_teacher(0.7)
        merged = copy.deepcopy(tower)
        merged_tuner = copy.copy(tuner)
        merged_tuner._lora = copy.deepcopy(tuner._lora)
        assert merged_tuner._lora is not None
        merged = merged_tuner._lora.merge_and_unload()
        for name, parameter in merged.named_parameters():
            wanted[name] = 0.7 * wanted[name] + 0.3 * parameter.detach()
    for name, parameter in tuner.teacher.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-5, atol=1e-6)
    moved = [n for n, p in original.named_parameters() if not torch.allclose(p, wanted[n], atol=1e-5)]
    assert len(moved) == (LAYERS * 6 if build is clip_tower else 2 * 3)


@pytest.mark.parametrize(
    ("mode", "teacher", "alone"),
    [("full", "ema", 1.0), ("full", "frozen", 1.0), ("last_blocks", "frozen", 0.3), ("last_blocks", "ema", 0.3),
     ("lora", "ema", 0.9), ("lora", "frozen", 0.0)],
)  # fmt: skip
def test_the_teacher_shares_what_never_changes(mode: Any, teacher: Any, alone: float) -> None:
    tower = clip_tower()
    total = sum(p.numel() for p in tower.parameters())
    original = tower(pixels())
    tuner = ImageTuner(tower, ImageTuningConfig(mode=mode), teacher)
    assert tuner.teacher is not None
    students = {p.data_ptr() for p in tower.parameters()}
    own = sum(p.numel() for p in tuner.teacher.parameters() if p.data_ptr() not in students)
    assert own / total == pytest.approx(alone, abs=0.12)
    move(tower)
    torch.testing.assert_close(tuner.teacher(pixels()), original)
    assert not torch.allclose(tower(pixels()), original)
    assert not any(p.requires_grad for p in tuner.teacher.parameters())


def test_lora_where_a_weight_is_read_and_not_called_is_noticed() -> None:
    class Reads(AttentionTower):
        def forward(self, pixel_values: Tensor) -> Tensor:
            features: Tensor = super().forward(pixel_values)
            weight: Tensor = self.embed.weight
            return features + 0 * weight.sum()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.called, self.read = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.called(x), self.read.weight)

    class Mixed(Reads):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Block()])

        def forward(self, pixel_values: Tensor) -> Tensor:
            features: Tensor = self.layers[0](pixel_values[:, 0, 0, :5])
            return features

    tower = Mixed()
    tuner = ImageTuner(tower, ImageTuningConfig(mode="lora"))
    tower(pixels()).sum().backward()
    with pytest.raises(ProclipError, match=r"LoRA has no effect on read \(1 layers, such as layers\.0\.read\)"):
        tuner.check_gradients()
    tower = Mixed()
    tuner = ImageTuner(tower, ImageTuningConfig(mode="lora", targets=("called",)))
    tower(pixels()).sum().backward()
    tuner.check_gradients()


def test_what_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProclipError, match=r"tune\.image\.blocks must be at most 3, this tower's, not 4"):
        ImageTuner(clip_tower(), ImageTuningConfig(mode="last_blocks", blocks=4))
    with pytest.raises(
        ProclipError, match=r"'query' names no linear layer.*fc1, fc2, k_proj, out_proj, q_proj, v_proj"
    ):
        ImageTuner(clip_tower(), ImageTuningConfig(mode="lora", targets=("q_proj", "query")))
    with pytest.raises(ProclipError, match=r"a Linear does not say what its blocks are: use mode 'full'"):
        ImageTuner(nn.Linear(2, 2), ImageTuningConfig(mode="lora"))
    with pytest.raises(
        ProclipError, match=r"dropout must be 0 here: layers\.0\.self_attn is an nn\.MultiheadAttention"
    ):
        ImageTuner(AttentionTower(), ImageTuningConfig(mode="lora", dropout=0.1))
    found = builtins.__import__

    def without_peft(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("peft"):
            raise ImportError("No module named 'peft'")
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(
        ProclipError, match=r"needs peft \(No module named 'peft'\): pip install 'proclip-align\[peft\]'"
    ):
        ImageTuner(clip_tower(), ImageTuningConfig(mode="lora"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 2}, "tune.image.blocks must be left alone unless tune.image.mode is 'last_blocks', not 'full'"),
        ({"mode": "locked", "rank": 4}, "tune.image.rank must be left alone unless tune.image.mode is 'lora'"),
        ({"mode": "last_blocks", "blocks": 0}, "tune.image.blocks must be 1 or more, not 0"),
        ({"mode": "lora", "rank": 0}, "tune.image.rank must be 1 or more"),
        ({"mode": "lora", "alpha": 0.0}, "tune.image.alpha must be above 0"),
        ({"mode": "lora", "dropout": 1.0}, r"tune.image.dropout must be in \[0, 1\)"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ProclipError, match=message):
        ImageTuningConfig(**settings)
