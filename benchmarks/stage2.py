"""Stage 2, images a second: ours against a plain loop written from the paper's equations on `CLIPModel`.

    python benchmarks/stage2.py            # ViT-B/32 at 224 pixels, batch 32; five minutes on two cores

Both train the same model (random weights), adapter (LLM width 1,024) and EMA teacher with the same objective on the
same batch in memory; their first losses are compared, and have to agree. What reading pictures costs is another
question. The limit is the rate of a product of matrices of 2,048 x 2,048, taken in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from limits import matmul
from measure import command_line, figure, in_turn, write
from profiles import where_time_goes
from torch import Tensor, nn
from training import LOGIT_SCALE, Steps, operations, random_clip, random_tune_batch
from transformers import CLIPModel

from proclip.config import AdapterConfig, DistillLossConfig, OptimConfig, TuneConfig
from proclip.data.batches import TuneBatch
from proclip.models.adapter import Adapter
from proclip.models.arithmetic import has_bfloat16
from proclip.models.clip_transformers import ClipImageTower
from proclip.train.stages import ImageTextTuning

LLM_DIM, BLOCKS, EXPANSION = 1024, 4, 2
WEIGHT, DECAY = 4e-4, 0.999


class Block(nn.Module):
    """``x + W2 GELU(W1 LN(x))``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand, self.contract = nn.Linear(dim, EXPANSION * dim), nn.Linear(EXPANSION * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[b, h] -> [b, h]."""
        change: Tensor = self.contract(F.gelu(self.expand(self.norm(x))))
        return x + change


class PlainAdapter(nn.Module):
    """The adapter as the paper draws it."""

    def __init__(self, llm_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(llm_dim) for _ in range(BLOCKS)))
        self.norm, self.project = nn.LayerNorm(llm_dim), nn.Linear(llm_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[b, h] -> [b, d]."""
        features: Tensor = self.project(self.norm(self.blocks(F.normalize(x, dim=-1))))
        return features


class PlainLoop:
    """The equations, one after the other."""

    def __init__(self, clip: CLIPModel, adapter: PlainAdapter, batch: TuneBatch) -> None:
        self.vision, self.projection, self.adapter, self.batch = (
            clip.vision_model,
            clip.visual_projection,
            adapter,
            batch,
        )
        self.log_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))
        self.teacher = copy.deepcopy(nn.ModuleList([self.vision, self.projection])).eval()
        self.student = nn.ModuleList([self.vision, self.projection]).train()
        trained = [*self.student.parameters(), *adapter.parameters(), self.log_scale]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05)

    @staticmethod
    def encode(towers: nn.ModuleList, pixel_values: Tensor) -> Tensor:
        """v, or with the teacher's towers v*."""
        return F.normalize(towers[1](towers[0](pixel_values=pixel_values).pooler_output), dim=-1)

    def step(self) -> float:
        """One step of training; its loss."""
        v = self.encode(self.student, self.batch.pixel_values)
        t = F.normalize(self.adapter(self.batch.llm_embeds), dim=-1)
        with torch.no_grad():
            target = self.encode(self.teacher, self.batch.pixel_values)
        logits = self.log_scale.exp() * v @ t.T  # Eq. 4
        labels = torch.arange(len(v))
        info = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        instance = (v - target).square().sum()  # Eq. 5
        structure = (F.pdist(v) - F.pdist(target)).square().sum()
        loss = info + WEIGHT * (instance + structure)  # Eq. 6
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            self.log_scale.clamp_(0, 4.6052)
            for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                ours.mul_(DECAY).add_(theirs, alpha=1 - DECAY)
        return float(loss.detach())


def ours(clip: CLIPModel, adapter: PlainAdapter, batch: TuneBatch, autocast: Literal["none", "bfloat16"]) -> Steps:
    """Our stage 2 of the same weights."""
    tower = ClipImageTower(copy.deepcopy(clip.vision_model), copy.deepcopy(clip.visual_projection))
    own = Adapter(batch.llm_embeds.shape[1], tower.embed_dim, AdapterConfig(num_blocks=BLOCKS, expansion=EXPANSION))
    own.load_state_dict(adapter.state_dict(), strict=False)  # but the input norm's buffers, which l2 has no use for
    config = TuneConfig(
        distillation_weight=WEIGHT, ema_decay=DECAY, loss=DistillLossConfig(reduction="paper"),
        optim=OptimConfig(autocast=autocast),
    )  # fmt: skip
    stage = ImageTextTuning(tower, own, nn.Parameter(torch.tensor(LOGIT_SCALE)), config)
    return Steps(stage, config.optim, [batch])


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=7, threads=1)
    name, side, count, square = ("tiny", 32, 4, 128) if options.small else ("ViT-B/32", 224, 32, 2048)
    clip, batch = random_clip(name), random_tune_batch(count, side, LLM_DIM if not options.small else 32)
    adapter = PlainAdapter(batch.llm_embeds.shape[1], clip.visual_projection.out_features)
    single = ours(clip, adapter, batch, "none")
    half = ours(clip, adapter, batch, "bfloat16") if has_bfloat16("cpu") else None
    plain = PlainLoop(clip, adapter, batch)
    first = {"plain": plain.step(), "ours": single.run()["loss"]}
    if abs(first["plain"] - first["ours"]) > 1e-4 * abs(first["plain"]):
        raise SystemExit(f"the two do not compute the same loss: {first}")
    needed = operations(single.run)
    product, in_product = matmul(square)
    ways: dict[str, Callable[[], object]] = {"plain": plain.step, "ours": single.run, "matmul": product}
    if half is not None:
        ways["ours, bfloat16"] = half.run
    turns = in_turn(ways, options.repeats)
    peak = sorted(turns.rate("matmul", in_product))[options.repeats // 2]
    reached = sorted(turns.rate("ours", needed))[options.repeats // 2]
    limit = ("images/s at the rate of a product of matrices", count * peak / needed, reached / peak)
    figures = [
        figure("ours over the plain loop, float32", turns.ratio("plain", "ours"), "x", aim="at least 1"),
        figure("ours, float32", turns.rate("ours", count), "images/s", limit=limit),
        figure("plain loop, float32", turns.rate("plain", count), "images/s"),
    ]
    if half is not None:
        ratio = turns.ratio("plain", "ours, bfloat16")
        figures.append(figure("ours in bfloat16 over the plain loop", ratio, "x", aim="at least 1.5"))
    details = {"clip": name, "side": side, "batch": count, "llm_dim": batch.llm_embeds.shape[1], "first_loss": first,
               "gflop_a_step": round(needed / 1e9, 3), "turns": turns.values(),
               "profiles": {"ours, float32": where_time_goes(single.run)}}  # fmt: skip
    write(options, __doc__, figures, details)


if __name__ == "__main__":
    main()
