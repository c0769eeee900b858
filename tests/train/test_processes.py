"""Two and four processes train as one does, whole (DDP) or in shards (FSDP2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import several_processes as several
import torch
import torch.multiprocessing
from safetensors.torch import load_file
from several_processes import KINDS, STEPS, How, first_half, run_folder
from torch import Tensor

from proclip.errors import ProclipError
from proclip.train.checkpoint import latest_checkpoint

CLOSE = {"rtol": 1e-3, "atol": 2e-5}
"""AdamW makes of a rounding error in a gradient near 0 a step of some size."""


SOME = ("distill", "tune", "parts")


def runs(folder: Path, plan: several.Plan) -> Path:
    """Of one process, and of several."""
    for kind in dict.fromkeys(kind for kinds, _ in plan.values() for kind in kinds):
        several.train(run_folder(folder, kind, 1, "ddp"), kind)
    torch.multiprocessing.spawn(several.work, (folder, plan), nprocs=max(plan))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 2 by four processes, whole on each; some stages by two."""
    return runs(tmp_path_factory.mktemp("some"), {4: (("tune",), ("ddp",)), 2: (SOME, ("ddp", "fsdp"))})


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage, by four and by two."""
    both: tuple[How, ...] = ("ddp", "fsdp")
    return runs(tmp_path_factory.mktemp("all"), {4: (KINDS, both), 2: (KINDS, both)})


def saved(run: Path, kind: str) -> dict[str, Tensor]:
    """Weights, EMA teacher and the optimiser's moments after the last step."""
    path = latest_checkpoint(run / "checkpoints" / kind)
    assert path is not None and path.name == f"step-{2 * STEPS:08d}"
    return load_file(path / "stage.safetensors") | load_file(path / "optimizer.safetensors")


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


def assert_as_one(folder: Path, kind: str, world: int, how: How) -> None:
    one, run = run_folder(folder, kind, 1, "ddp"), run_folder(folder, kind, world, how)
    wanted, found = saved(one, kind), saved(run, kind)
    assert_close(found, wanted)
    given = torch.load(run / "given.pt", weights_only=True)  # what the last process's caller has then
    assert_close(given, {name: tensor for name, tensor in found.items() if name in given})
    assert len(lines(run)) == len(lines(one)) == 2 * STEPS
    for mine, other in zip(lines(run), lines(one), strict=True):
        measured = {k: v for k, v in other.items() if k not in ("stage", "seconds", "samples_per_second")}
        assert {k: mine[k] for k in measured} == pytest.approx(measured, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", SOME)
def test_two_processes_train_as_one(folder: Path, kind: str, how: How) -> None:
    assert_as_one(folder, kind, 2, how)


def test_four_processes_train_as_one(folder: Path) -> None:
    assert_as_one(folder, "tune", 4, "ddp")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_several_processes_train_as_one(everything: Path, kind: str, world: int, how: How) -> None:
    assert_as_one(everything, kind, world, how)


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_what_is_compared(kind: str, tmp_path: Path) -> None:
    several.train(tmp_path, kind)
    before, after = several.make_stage(kind).state_dict(), saved(tmp_path, kind)
    still = {name for name, tensor in before.items() if torch.allclose(tensor, after[name], atol=1e-3)}
    assert still <= {"adapter.input_mean", "adapter.input_std", "image_tower.idle", "teacher.idle"} | {
            name for name in before if kind == "last block" and (".embed" in name or "_blocks.0" in name)
        } | {name for name in before if kind == "frozen" and name.endswith("embed.bias")}  # fmt: skip


def test_two_go_on_in_shards_from_what_four_had_done_whole(folder: Path) -> None:
    assert_close(saved(folder / "fewer go on", "tune"), saved(run_folder(folder, "tune", 1, "ddp"), "tune"))


def test_one_goes_on_from_what_two_had_done_in_shards(folder: Path, tmp_path: Path) -> None:
    first_half(run_folder(folder, "tune", 2, "fsdp"), "tune", tmp_path / "run")
    _, result = several.train(tmp_path / "run", "tune")
    assert (result.resumed_at, result.steps) == (STEPS, 2 * STEPS)
    assert_close(saved(tmp_path / "run", "tune"), saved(run_folder(folder, "tune", 1, "ddp"), "tune"))


def test_another_global_batch_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_half(run_folder(folder, "tune", 2, "ddp"), "tune", tmp_path / "run")
    monkeypatch.setattr(several, "BATCH", 4)
    with pytest.raises(ProclipError, match="has global_batch 8, this run 4"):
        several.train(tmp_path / "run", "tune")


def test_sources_that_differ_are_an_error_on_every_process(folder: Path) -> None:
    for rank in range(2):
        assert "differ in global_batch (by rank: 8, 10)" in (folder / f"odd-{rank}.txt").read_text()
