"""The stages' own maths: what is trained, the teacher, the temperature, and losses against a plain reading."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_tune import EMBED_DIM, LLM_DIM, SIDE, TinyPairs, TinyTower, tiny_stage
from torch import Tensor, nn

from proclip.config import (
    AdapterConfig,
    DistillConfig,
    DistillLossConfig,
    ImageTuningConfig,
    OptimConfig,
    PretrainConfig,
)
from proclip.data.batches import DistillBatch, PretrainBatch
from proclip.models.adapter import Adapter
from proclip.seeding import seed_all
from proclip.train.stages import ContrastivePretraining, TextDistillation


def distill_batch(size: int = 7) -> DistillBatch:
    seed_all(3)
    return DistillBatch(
        llm_embeds=torch.randn(size, LLM_DIM), teacher_embeds=F.normalize(torch.randn(size, EMBED_DIM), dim=-1)
    )


def info_nce(image_embeds: Tensor, text_embeds: Tensor, scale: float) -> float:
    image_embeds, text_embeds, n, total = image_embeds.detach(), text_embeds.detach(), len(image_embeds), 0.0
    logits = [[scale * float(v @ t) for t in text_embeds] for v in image_embeds]
    for i in range(n):
        total -= logits[i][i] - math.log(sum(math.exp(logits[i][j]) for j in range(n)))
        total -= logits[i][i] - math.log(sum(math.exp(logits[j][i]) for j in range(n)))
    return total / (2 * n)


def l_dis(student: Tensor, teacher: Tensor) -> float:
    student, teacher, n = student.detach(), teacher.detach(), len(student)
    instance = sum(float((student[i] - teacher[i]).square().sum()) for i in range(n))
    structure = sum(
        (float((student[i] - student[j]).norm()) - float((teacher[i] - teacher[j]).norm())) ** 2
        for i in range(n)
        for j in range(i + 1, n)
    )
    return instance + structure


def test_stage_1_is_equation_3() -> None:
    batch = distill_batch()
    adapter = Adapter(LLM_DIM, EMBED_DIM, AdapterConfig(num_blocks=1))
    stage = TextDistillation(adapter, DistillConfig(loss=DistillLossConfig(reduction="paper")))
    terms = stage.loss(batch)
    wanted = l_dis(F.normalize(adapter(batch.llm_embeds), dim=-1), batch.teacher_embeds)
    assert terms["loss"].item() == pytest.approx(wanted, rel=1e-5)
    assert terms.keys() == {"loss", "instance", "structure"}
    assert stage.groups().keys() == {"adapter"}


def test_stage_1_reads_stored_halves_as_the_float32_they_stand_for() -> None:
    stage, batch = TextDistillation(Adapter(LLM_DIM, EMBED_DIM, AdapterConfig()), DistillConfig()), distill_batch()
    halves = DistillBatch(llm_embeds=batch.llm_embeds.half(), teacher_embeds=batch.teacher_embeds.bfloat16())
    whole = DistillBatch(llm_embeds=halves.llm_embeds.float(), teacher_embeds=halves.teacher_embeds.float())
    of_halves, of_whole = stage.loss(halves), stage.loss(whole)
    assert of_halves.keys() == of_whole.keys()
    assert all(torch.equal(of_halves[name], of_whole[name]) for name in of_whole)


def test_stage_2_is_equation_6() -> None:
    stage = tiny_stage(dropout=0.0, distillation_weight=0.3, loss=DistillLossConfig(reduction="paper"))
    assert stage.teacher is not None
    with torch.no_grad():
        stage.teacher.project.weight.add_(0.1)  # type: ignore[union-attr, operator]
    batch = next(TinyPairs().epoch(0))
    v = F.normalize(stage.image_tower(batch.pixel_values), dim=-1)
    v_star = F.normalize(stage.teacher(batch.pixel_values), dim=-1)
    t_star = F.normalize(stage.adapter(batch.llm_embeds), dim=-1)
    terms = stage.loss(batch)
    info, reg = info_nce(v, t_star, math.exp(2.0)), l_dis(v, v_star)
    assert terms["contrastive"].item() == pytest.approx(info, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(info + 0.3 * reg, rel=1e-5)
    assert reg > 1e-3


def test_ema_closed_form() -> None:
    """With a student that stands still, n steps leave a^n teacher_0 + (1 - a^n) student."""
    stage = tiny_stage(ema_decay=0.9)
    assert stage.teacher is not None
    before = {k: t.clone() for k, t in stage.teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in stage.image_tower.parameters():
            parameter.add_(torch.randn_like(parameter))
    for _ in range(5):
        stage.after_step()
    student, share = stage.image_tower.state_dict(), 0.9**5
    for name, tensor in stage.teacher.state_dict().items():
        torch.testing.assert_close(tensor, share * before[name] + (1 - share) * student[name])


def test_teacher_is_frozen_and_in_evaluation_mode() -> None:
    stage = tiny_stage()
    stage.train()
    assert stage.image_tower.training
    assert stage.teacher is not None
    assert not any(m.training for m in stage.teacher.modules())
    stage.loss(next(TinyPairs().epoch(0)))["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in stage.teacher.parameters())
    trained = {name for group in stage.groups().values() for name, _ in group}
    assert not any(name.startswith("teacher.") for name in trained)
    assert any(name.startswith("teacher.") for name in stage.state_dict())
    with_gradient = {n for n, p in stage.named_parameters() if p.grad is not None}
    assert trained == with_gradient


def test_no_teacher_where_it_has_no_use() -> None:
    assert tiny_stage(distillation_weight=0.0).teacher is None
    terms = tiny_stage(distillation_weight=0.0).loss(next(TinyPairs().epoch(0)))
    assert torch.equal(terms["loss"], terms["contrastive"])


def test_locked_image_tower() -> None:
    stage = tiny_stage(image=ImageTuningConfig(mode="locked"))
    stage.train()
    assert stage.teacher is None
    assert not stage.image_tower.training
    assert stage.groups().keys() == {"adapter", "logit_scale"}
    stage.loss(next(TinyPairs().epoch(0)))["loss"].backward()
    assert all(p.grad is None for p in stage.image_tower.parameters())
    assert all(p.grad is not None for p in stage.adapter.parameters())


@pytest.mark.parametrize(("value", "wanted"), [(-0.3, 0.0), (7.0, math.log(100)), (3.0, 3.0)])
def test_logit_scale_is_clamped(value: float, wanted: float) -> None:
    stage = tiny_stage()
    with torch.no_grad():
        stage.logit_scale.fill_(value)
    stage.after_step()
    assert stage.logit_scale.item() == pytest.approx(wanted)


class TinyTextTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(11, EMBED_DIM, mode="sum")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features: Tensor = self.embed(input_ids, per_sample_weights=attention_mask.float())
        return features


def pretrain_batch() -> PretrainBatch:
    seed_all(4)
    mask = (torch.arange(3) < torch.randint(1, 4, (5, 1))).long()
    return PretrainBatch(
        pixel_values=torch.randn(5, 3, SIDE, SIDE), input_ids=torch.randint(0, 11, (5, 3)), attention_mask=mask,
        image_ids=torch.arange(5), text_ids=torch.arange(5),
    )  # fmt: skip


def test_pretraining_is_equation_4() -> None:
    batch = pretrain_batch()
    stage = ContrastivePretraining(TinyTower(0.0), TinyTextTower(), nn.Parameter(torch.tensor(1.0)), PretrainConfig())
    v = F.normalize(stage.image_tower(batch.pixel_values), dim=-1)
    t = F.normalize(stage.text_tower(batch.input_ids, batch.attention_mask), dim=-1)
    assert stage.loss(batch)["loss"].item() == pytest.approx(info_nce(v, t, math.e), rel=1e-5)
    assert stage.groups().keys() == {"image_tower", "text_tower", "logit_scale"}


def test_losses_are_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proclip.train.stages.has_bfloat16", lambda device: True)
    batch, optim = next(TinyPairs().epoch(0)), OptimConfig(autocast="bfloat16")
    half, full = tiny_stage(dropout=0.0, optim=optim).loss(batch), tiny_stage(dropout=0.0).loss(batch)
    assert {t.dtype for t in half.values()} == {torch.float32}
    assert half["contrastive"].item() != full["contrastive"].item()
    assert half["contrastive"].item() == pytest.approx(full["contrastive"].item(), rel=0.05)
