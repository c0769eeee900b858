"""On a GPU: float16 with loss scaling, a resumed run that keeps the scale and the generators, DDP by NCCL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_tune
import torch
from safetensors.torch import load_file
from tiny_tune import STEPS_PER_EPOCH, TinyPairs, tiny_stage
from torch import distributed as dist

from proclip.config import OptimConfig
from proclip.data.batches import TuneBatch
from proclip.train.checkpoint import latest_checkpoint
from proclip.train.loop import to_device, train_step
from proclip.train.optim import build_optimizer, build_scaler
from proclip.train.parallel import Parallel, Replicated

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class Stopping(TinyPairs):
    """Breaks off before step 13."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TuneBatch]:
        for index, batch in enumerate(super().epoch(epoch, start), start):
            if epoch * STEPS_PER_EPOCH + index == 12:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize("autocast", ["none", "bfloat16", "float16"])
def test_resume_on_a_gpu(tmp_path: Path, autocast: str) -> None:
    optim = OptimConfig(lr=1e-2, grad_clip=5.0, autocast=autocast)  # type: ignore[arg-type]
    tiny_tune.train(tmp_path / "whole", stage=tiny_stage(optim=optim).cuda())
    with pytest.raises(KeyboardInterrupt):
        tiny_tune.train(tmp_path / "broken", Stopping(), tiny_stage(optim=optim).cuda())
    assert tiny_tune.train(tmp_path / "broken", stage=tiny_stage(optim=optim).cuda()).resumed_at == 10
    paths = [latest_checkpoint(tmp_path / name / "checkpoints" / "tune") for name in ("whole", "broken")]
    whole, broken = (load_file(p / "stage.safetensors") for p in paths if p is not None)
    for name, tensor in whole.items():
        torch.testing.assert_close(broken[name], tensor, rtol=1e-4, atol=1e-5)
    scalers = [json.loads((p / "state.json").read_text())["scaler"] for p in paths if p is not None]
    assert scalers[0] == scalers[1]
    assert bool(scalers[0]) == (autocast == "float16")


@pytest.fixture
def nccl(tmp_path: Path) -> Iterator[None]:
    """A group of one process; one machine with one GPU has no more of them."""
    store, device = dist.FileStore(str(tmp_path / "meeting"), 1), torch.device("cuda", 0)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1, device_id=device)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("nccl")
def test_ddp_by_nccl_trains_as_one_process() -> None:
    found = []
    for kind in (Parallel, Replicated):
        stage, device = tiny_stage(dropout=0.0).cuda(), torch.device("cuda")
        optim, spread = stage.config.optim, kind(stage)
        optimizer, scaler = build_optimizer(spread.stage.groups(), optim), build_scaler(optim, device)
        spread.stage.train()
        for batch in TinyPairs().epoch(0):
            quiet = torch.zeros((), device=device)
            train_step(spread, to_device(batch, device), optimizer, scaler, optim, quiet)
        spread.gather()
        found.append({name: tensor.clone() for name, tensor in stage.state_dict().items()})
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-5, atol=1e-6, msg=name)
