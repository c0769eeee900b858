"""Stage 2 in every mode: what gets gradients and moves, which teacher, how it resumes, and the sigmoid loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_tune
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_tune import EMBED_DIM, EPOCHS, LLM_DIM, SIDE, STEPS_PER_EPOCH, TinyPairs, tune_config
from torch import Tensor, nn

from proclip.config import AdapterConfig, ImageTuningConfig, OptimConfig, ParameterRule, TuneConfig
from proclip.data.batches import TuneBatch
from proclip.errors import ProclipError
from proclip.losses import distillation_loss, sigmoid_loss
from proclip.models.adapter import Adapter
from proclip.models.towers import ImageTower
from proclip.seeding import seed_all
from proclip.train.checkpoint import latest_checkpoint
from proclip.train.optim import build_optimizer
from proclip.train.stages import ImageTextTuning

LORA = ImageTuningConfig(mode="lora", rank=2, dropout=0.1)
MODES = {
    "full": ImageTuningConfig(), "last_blocks": ImageTuningConfig(mode="last_blocks"), "lora": LORA,
    "locked": ImageTuningConfig(mode="locked"),
}  # fmt: skip


class BlockTower(ImageTower):
    """An embedding, two residual blocks, a norm and a projection."""

    family = "test"

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embed_dim = EMBED_DIM
        self.embed = nn.Linear(3 * SIDE * SIDE, width)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(2))
        self.norm, self.projection = nn.LayerNorm(width), nn.Linear(width, EMBED_DIM, bias=False)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], embed_dim: int) -> BlockTower:
        return cls()

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.embed(pixel_values.flatten(1))
        for layer in self.layers:
            x = x + layer(x)
        features: Tensor = self.projection(self.norm(x))
        return features


class CachedPairs(TinyPairs):
    """TinyPairs with the original tower's embeddings of the plain images; optionally without augmentation."""

    def __init__(self, tower: nn.Module, augmented: bool = True) -> None:
        super().__init__()
        self.augmented = augmented
        with torch.no_grad():
            self.cache = F.normalize(tower(self.images), dim=-1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch]:
        for batch in super().epoch(epoch, start):
            pixels = batch.pixel_values if self.augmented else self.images[batch.image_ids]
            yield dataclasses.replace(batch, pixel_values=pixels, teacher_embeds=self.cache[batch.image_ids])


class Stopping(CachedPairs):
    """Ctrl-C, as it were, while the batch of step 8 is made."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch]:
        for index, batch in enumerate(super().epoch(epoch, start), start):
            if epoch * STEPS_PER_EPOCH + index == 7:
                raise InterruptedError
            yield batch


def block_stage(dropout: float = 0.0, **changes: object) -> ImageTextTuning:
    seed_all(0)
    tower, config = BlockTower(), tune_config(**changes)
    adapter = Adapter(LLM_DIM, EMBED_DIM, AdapterConfig(num_blocks=1, dropout=dropout))
    bias = nn.Parameter(torch.tensor(-3.0)) if config.contrastive == "sigmoid" else None
    return ImageTextTuning(tower, adapter, nn.Parameter(torch.tensor(2.0)), config, bias)


def original() -> BlockTower:
    seed_all(0)
    return BlockTower()


def one_step(stage: ImageTextTuning, source: TinyPairs) -> dict[str, Tensor]:
    """Train by two batches; every parameter and its change."""
    before = {n: p.detach().clone() for n, p in stage.named_parameters()}
    optimizer = build_optimizer(stage.groups(), stage.config.optim)
    stage.train()
    for _, batch in zip(range(2), source.epoch(0), strict=False):
        optimizer.zero_grad()
        stage.loss(batch)["loss"].backward()
        optimizer.step()
        stage.after_step()
    return {n: p.detach() - before[n] for n, p in stage.named_parameters()}


@pytest.mark.parametrize("teacher", ["ema", "frozen", "cached"])
@pytest.mark.parametrize("mode", ["full", "last_blocks", "lora"])
def test_what_is_trained_gets_gradients_and_moves_and_nothing_else(mode: str, teacher: Any) -> None:
    stage = block_stage(image=MODES[mode], teacher=teacher)
    moved = {n for n, change in one_step(stage, CachedPairs(original())).items() if change.any()}
    trained = {name for group in stage.groups().values() for name, _ in group}
    tower = {n.removeprefix("image_tower.") for n in trained if n.startswith("image_tower.")}
    wanted = {
        "full": {n for n, _ in original().named_parameters()},
        "last_blocks": {"layers.1.0.weight", "layers.1.0.bias", "norm.weight", "norm.bias", "projection.weight"},
        "lora": {f"layers.{n}.0.lora_{letter}.default.weight" for n in (0, 1) for letter in "AB"},
    }[mode]
    assert tower == wanted
    assert {n for n in moved if not n.startswith("teacher.")} == trained
    assert {n for n, p in stage.named_parameters() if p.grad is not None} == trained
    followed = {n.removeprefix("teacher.") for n in moved if n.startswith("teacher.")}
    changing = {f"layers.{n}.0.weight" for n in (0, 1)} if mode == "lora" else wanted
    assert followed == (changing if teacher == "ema" else set())
    assert (stage.teacher is None) == (teacher == "cached")


def test_the_locked_tower_has_no_teacher_and_stays() -> None:
    stage = block_stage(image=MODES["locked"])
    moved = {n for n, change in one_step(stage, TinyPairs()).items() if change.any()}
    assert stage.teacher is None and not any(n.startswith("image_tower.") for n in moved)
    assert moved == {name for group in stage.groups().values() for name, _ in group}


def test_lora_dropout_leaves_the_teacher_alone() -> None:
    stage = block_stage(image=dataclasses.replace(LORA, dropout=0.5))
    one_step(stage, TinyPairs())
    stage.train()
    assert (
        stage.teacher is not None
        and stage.image_tower.training
        and not any(m.training for m in stage.teacher.modules())
    )
    batch = next(TinyPairs().epoch(1))
    assert torch.equal(stage.teacher(batch.pixel_values), stage.teacher(batch.pixel_values))
    assert not torch.equal(stage.image_tower(batch.pixel_values), stage.image_tower(batch.pixel_values))


@pytest.mark.parametrize("mode", ["full", "last_blocks", "lora"])
def test_cached_is_frozen_without_augmentation(mode: str) -> None:
    """The same loss and gradients after some steps; with augmentation the target is another."""
    found = {}
    for augmented in (False, True):
        for teacher in ("frozen", "cached"):
            image = dataclasses.replace(MODES[mode], dropout=0.0)
            stage, source = block_stage(image=image, teacher=teacher), CachedPairs(original(), augmented)
            one_step(stage, source)
            stage.zero_grad()
            terms = stage.loss(list(source.epoch(0))[3])
            terms["loss"].backward()
            gradients = {n: p.grad for group in stage.groups().values() for n, p in group}
            found[augmented, teacher] = {"loss": terms["loss"].detach(), "instance": terms["instance"], **gradients}
    for name, tensor in found[False, "frozen"].items():
        torch.testing.assert_close(found[False, "cached"][name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert found[False, "frozen"]["instance"] > 1e-5
    assert not torch.isclose(found[True, "cached"]["instance"], found[True, "frozen"]["instance"], rtol=0.01)


def test_cached_targets_are_the_batchs() -> None:
    stage, source = block_stage(teacher="cached", distillation_weight=0.3), CachedPairs(original())
    one_step(stage, source)
    batch = next(source.epoch(1))
    terms, v = stage.loss(batch), F.normalize(stage.image_tower(batch.pixel_values), dim=-1)
    assert batch.teacher_embeds is not None
    reg = distillation_loss(v, batch.teacher_embeds, reference_batch=6).loss
    assert terms["loss"].item() == pytest.approx(terms["contrastive"].item() + 0.3 * reg.item(), rel=1e-5)
    with pytest.raises(ProclipError, match="the batch has no teacher_embeds"):
        stage.loss(dataclasses.replace(batch, teacher_embeds=None))


def test_a_frozen_teacher_is_an_ema_with_a_equal_to_one() -> None:
    frozen, ema = block_stage(teacher="frozen"), block_stage(ema_decay=1.0)
    changes = [one_step(stage, TinyPairs()) for stage in (frozen, ema)]
    for name, change in changes[0].items():
        assert torch.equal(change, changes[1][name]), name


def final_tensors(run_dir: Path) -> dict[str, Tensor]:
    folder = latest_checkpoint(run_dir / "checkpoints" / "tune")
    assert folder is not None and folder.name == f"step-{EPOCHS * STEPS_PER_EPOCH:08d}"
    return {f"{f.stem}/{k}": t for f in sorted(folder.glob("*.safetensors")) for k, t in load_file(f).items()}


@pytest.mark.parametrize("case", ["lora", "cached", "lora frozen", "last_blocks", "sigmoid"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, case: str) -> None:
    changes: dict[str, Any] = {
        "lora": {"image": LORA}, "cached": {"teacher": "cached"}, "lora frozen": {"image": LORA, "teacher": "frozen"},
        "last_blocks": {"image": MODES["last_blocks"]}, "sigmoid": {"contrastive": "sigmoid"},
    }[case]  # fmt: skip
    with pytest.raises(InterruptedError):
        tiny_tune.train(tmp_path / "stopped", Stopping(original()), block_stage(0.2, **changes))
    outputs = []
    for name, start in (("whole", 0), ("stopped", 5)):
        source, stage = CachedPairs(original()), block_stage(0.2, **changes)  # in this order: both seed
        assert tiny_tune.train(tmp_path / name, source, stage).resumed_at == start
        stage.finish()
        assert not any("lora" in key or "base_layer" in key for key in stage.state_dict())
        outputs.append(stage.image_tower(source.images))
    whole, stopped = (final_tensors(tmp_path / name) for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert [key for key in whole if not torch.equal(whole[key], stopped[key])] == []
    assert torch.equal(*outputs)


def test_sigmoid_loss_takes_the_place_of_infonce() -> None:
    stage = block_stage(contrastive="sigmoid", distillation_weight=0.0)
    batch = next(TinyPairs().epoch(0))
    terms = stage.loss(batch)
    v = F.normalize(stage.image_tower(batch.pixel_values), dim=-1)
    t = F.normalize(stage.adapter(batch.llm_embeds), dim=-1)
    assert stage.logit_bias is not None
    wanted = sigmoid_loss(v, t, stage.logit_scale, stage.logit_bias)
    assert terms["loss"].item() == terms["contrastive"].item() == pytest.approx(wanted.item(), rel=1e-6)
    assert terms["logit_bias"].item() == -3.0
    assert [name for name, _ in stage.groups()["logit_scale"]] == ["logit_scale", "logit_bias"]
    optimizer = build_optimizer(stage.groups(), OptimConfig(rules=(ParameterRule(match="^logit_", lr=1e-2),)))
    of_bias = next(g for g in optimizer.param_groups if "logit_bias" in g["param_names"])
    assert (of_bias["lr"], of_bias["weight_decay"]) == (1e-2, 0.0)


def test_sigmoid_masks_duplicates_as_infonce_does() -> None:
    batch = next(TinyPairs().epoch(0))
    twice = dataclasses.replace(batch, text_ids=torch.tensor([0, 0, 1, 2, 3, 4]))
    for mask in (True, False):
        stage = block_stage(contrastive="sigmoid", mask_duplicates=mask)
        values = [stage.loss(b)["contrastive"].item() for b in (batch, twice)]
        assert (values[0] != values[1]) == mask


def test_the_temperature_is_clamped_for_infonce_alone() -> None:
    for contrastive, wanted in (("infonce", math.log(100)), ("sigmoid", 4.8)):
        stage = block_stage(contrastive=contrastive)
        with torch.no_grad():
            stage.logit_scale.fill_(4.8)
        stage.after_step()
        assert stage.logit_scale.item() == pytest.approx(wanted)


def test_the_bias_belongs_to_the_sigmoid_loss() -> None:
    tower, adapter = BlockTower(), Adapter(LLM_DIM, EMBED_DIM, AdapterConfig(num_blocks=1))
    scale, bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-10.0))
    with pytest.raises(
        ProclipError, match=r"tune\.contrastive is 'infonce': the sigmoid loss, and it alone, has a bias"
    ):
        ImageTextTuning(tower, adapter, scale, tune_config(), bias)
    with pytest.raises(ProclipError, match=r"tune\.contrastive is 'sigmoid'"):
        ImageTextTuning(tower, adapter, scale, tune_config(contrastive="sigmoid"))


@pytest.mark.parametrize("teacher", ["frozen", "cached"])
@pytest.mark.parametrize("settings", [{"image": MODES["locked"]}, {"distillation_weight": 0.0}])
def test_a_teacher_without_use_is_refused(teacher: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ProclipError, match=f"tune.teacher must be left alone where .* not {teacher!r}"):
        TuneConfig(teacher=teacher, **settings)
