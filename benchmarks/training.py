"""What the benchmarks of training share: CLIPs of known sizes with random weights, batches in memory, `fit`'s steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel

from proclip.config import OptimConfig
from proclip.data.batches import TuneBatch
from proclip.train.loop import to_device, train_step
from proclip.train.optim import build_optimizer, build_scaler, lr_at, set_lr
from proclip.train.parallel import Parallel
from proclip.train.record import Scalars
from proclip.train.stages import Stage

LOGIT_SCALE = 2.659
"""ln(1 / 0.07)."""
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
TEXT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIPS: dict[str, dict[str, Any]] = {
    "ViT-B/32": {"vision_config": {**BASE, "patch_size": 32}, "text_config": TEXT, "projection_dim": 512},
    "ViT-B/16": {"vision_config": {**BASE, "patch_size": 16}, "text_config": TEXT, "projection_dim": 512},
    "ViT-L/14": {"vision_config": {**LARGE, "patch_size": 14}, "text_config": TEXT_L, "projection_dim": 768},
    "tiny": {
        "vision_config": {**TINY, "patch_size": 8, "image_size": 32},
        "text_config": {**TINY, "vocab_size": 600, "bos_token_id": 598, "eos_token_id": 599},
        "projection_dim": 32,
    },
}
"""OpenAI's sizes, 224 pixels and 77 tokens, and one for runs of seconds."""


def random_clip(name: str) -> CLIPModel:
    """A ``CLIPModel`` of a size in `CLIPS`, random weights, float32."""
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(**CLIPS[name]))


def random_tune_batch(batch: int, side: int, llm_dim: int, device: str = "cpu") -> TuneBatch:
    """Noise instead of pictures and captions: no time of a step depends on what they show."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(batch, device=device)
    pixels = torch.randn(batch, 3, side, side, generator=generator)
    llm = torch.randn(batch, llm_dim, generator=generator)
    return TuneBatch(
        pixel_values=pixels.to(device), llm_embeds=llm.to(device), image_ids=numbers, text_ids=numbers.clone()
    )


class Steps:
    """Training steps as `fit` does them, without its checkpoints and log.

    Args:
        stage: what is trained.
        optim: of the optimiser.
        batches: taken round and round.
    """

    def __init__(self, stage: Stage, optim: OptimConfig, batches: Iterable[Any]) -> None:
        self.stage, self.optim, self.batches = stage, optim, _round_and_round(batches)
        self.spread = Parallel(stage)
        self.optimizer = build_optimizer(stage.groups(), optim)
        self.scaler = build_scaler(optim, next(stage.parameters()).device)
        self.done = 0
        stage.train()

    def run(self, steps: int = 1) -> dict[str, float]:
        """Do some; the terms of the last one, for which alone the device is waited for."""
        scalars: Scalars | None = None
        device = next(self.stage.parameters()).device
        quiet = torch.zeros((), device=device)  # no signal came
        for _ in range(steps):
            set_lr(self.optimizer, lr_at(self.done, 10_000, self.optim.warmup_steps))
            batch = to_device(next(self.batches), device)
            scalars = train_step(self.spread, batch, self.optimizer, self.scaler, self.optim, quiet)
            self.done += 1
        return scalars.values() if scalars else {}


def _round_and_round(batches: Iterable[Any]) -> Iterator[Any]:
    """As `itertools.cycle`, which would keep every batch."""
    while True:
        yield from batches


def operations(call: Callable[[], object]) -> float:
    """Floating-point operations of the products of matrices and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())
