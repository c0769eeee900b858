"""Cached gradients: a batch in parts gives the loss and the gradients of the whole."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import tiny_tune
import torch
import torch.multiprocessing
from safetensors.torch import load_file
from test_tuning_modes import LORA, MODES, CachedPairs, block_stage, original
from tiny_tune import BATCH, EMBED_DIM, LLM_DIM, TinyPairs, TinyTower, tiny_stage
from torch import Tensor, nn

from proclip.config import AdapterConfig, DistillConfig, DistillLossConfig, OptimConfig, PretrainConfig, TuneConfig
from proclip.data.batches import DistillBatch, MicroBatches, PairIds, PretrainBatch, TuneBatch
from proclip.errors import ProclipError
from proclip.models.adapter import Adapter
from proclip.models.clip_transformers import ClipImageTower
from proclip.seeding import generator, seed_all
from proclip.train.backward import backward
from proclip.train.checkpoint import latest_checkpoint
from proclip.train.parallel import Parallel
from proclip.train.stages import ContrastivePretraining, ImageTextTuning, Stage, TextDistillation

SCALE = 64.0


def sliced(batch: Any, part: slice) -> Any:
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return type(batch)(**{name: t[part] for name, t in tensors.items() if t is not None})


def in_parts(batch: Any, size: int) -> MicroBatches[Any]:
    parts = [sliced(batch, slice(start, start + size)) for start in range(0, BATCH, size)]
    return MicroBatches(parts=parts)


def off() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


def found(stage: Stage, batch: Any, scaler: torch.amp.GradScaler | None = None) -> dict[str, Tensor]:
    """Terms and gradients."""
    stage.zero_grad()
    terms = backward(Parallel(stage), batch, scaler or off())
    return {**terms, **{n: p.grad for n, p in stage.named_parameters() if p.grad is not None}}


def at_once(stage: Stage, batch: MicroBatches[Any]) -> dict[str, Tensor]:
    """The same parts, with the same random numbers, in one graph that holds them all."""
    stage.zero_grad()
    embeds, targets = zip(*[(stage.encode(part), stage.targets(part)) for part in batch.parts], strict=True)
    joined = [{name: torch.cat([p[name] for p in parts]) for name in parts[0]} for parts in (embeds, targets)]
    ids = None
    if hasattr(batch.parts[0], "image_ids"):
        names = ("image_ids", "text_ids")
        ids = PairIds(**{name: torch.cat([getattr(part, name) for part in batch.parts]) for name in names})
    terms = stage.objective(*joined, ids)
    terms["loss"].backward()
    return {**terms, **{n: p.grad for n, p in stage.named_parameters() if p.grad is not None}}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def moved(stage: ImageTextTuning) -> ImageTextTuning:
    """In training mode, the student away from its teacher."""
    with torch.no_grad():
        for group in stage.groups().values():
            for _, parameter in group:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(0, "moved")))
    stage.train()
    return stage


CASES: dict[str, dict[str, Any]] = {
    **{mode: {"image": image} for mode, image in MODES.items()},
    "frozen": {"teacher": "frozen"}, "cached": {"teacher": "cached"},
    "lora frozen": {"image": LORA, "teacher": "frozen"},
    "no teacher": {"distillation_weight": 0.0}, "sigmoid": {"contrastive": "sigmoid"}, "stride": {"teacher_stride": 2},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_parts_give_what_the_whole_does(case: str) -> None:
    changes = dict(CASES[case])
    if "image" in changes:
        changes["image"] = dataclasses.replace(changes["image"], dropout=0.0)
    stage, batch = moved(block_stage(**changes)), next(CachedPairs(original()).epoch(0))
    batch = dataclasses.replace(batch, text_ids=torch.tensor([0, 1, 2, 3, 4, 0]))  # duplicates lie in different parts
    for size in (2, 4):
        assert_same(found(stage, in_parts(batch, size)), found(stage, batch))


@pytest.mark.parametrize("case", CASES)
def test_dropout_is_drawn_again_as_it_was(case: str) -> None:
    stage, batch = moved(block_stage(dropout=0.3, **CASES[case])), next(CachedPairs(original()).epoch(0))
    parts = in_parts(batch, 2)
    seed_all(5)
    wanted = at_once(stage, parts)
    after = torch.get_rng_state()
    seed_all(5)
    assert_same(found(stage, parts), wanted)
    assert torch.equal(torch.get_rng_state(), after)
    other = found(stage, parts)
    assert any(not torch.equal(tensor, wanted[name]) for name, tensor in other.items())


def test_nothing_is_encoded_twice_where_only_the_temperature_is_trained() -> None:
    stage, batch = moved(tiny_stage(dropout=0.0)), next(TinyPairs().epoch(0))
    for tower in (stage.image_tower, stage.adapter):
        tower.requires_grad_(False)
    wanted, passes = found(stage, batch), []
    stage.adapter.register_forward_hook(lambda module, args, output: passes.append(len(output)))
    assert_same(found(stage, in_parts(batch, 2)), wanted)
    assert "logit_scale" in wanted and passes == [2, 2, 2]


def test_dropout_of_the_image_tower_too() -> None:
    stage, parts = moved(tiny_stage(dropout=0.5)), in_parts(next(TinyPairs().epoch(0)), 2)
    seed_all(1)
    wanted = at_once(stage, parts)
    seed_all(1)
    assert_same(found(stage, parts), wanted)


def test_the_loss_scale_is_in_every_gradient_and_in_no_term() -> None:
    stage, parts = moved(block_stage()), in_parts(next(TinyPairs().epoch(0)), 2)
    plain = found(stage, parts)
    scaled = found(stage, parts, torch.amp.GradScaler("cpu", init_scale=SCALE))
    parameters = dict(stage.named_parameters())
    for name, tensor in plain.items():
        wanted = SCALE * tensor if name in parameters and parameters[name].grad is not None else tensor
        if name != "logit_scale":  # a term and a parameter
            torch.testing.assert_close(scaled[name], wanted, rtol=1e-4, atol=1e-5)
    assert parameters["logit_scale"].grad is not None
    torch.testing.assert_close(parameters["logit_scale"].grad, SCALE * plain["logit_scale"], rtol=1e-4, atol=1e-5)


def test_every_stage_can_do_it() -> None:
    seed_all(2)
    adapter = Adapter(LLM_DIM, EMBED_DIM, AdapterConfig(num_blocks=1))
    texts = DistillBatch(llm_embeds=torch.randn(BATCH, LLM_DIM), teacher_embeds=torch.randn(BATCH, EMBED_DIM))
    distillation = TextDistillation(adapter, DistillConfig(loss=DistillLossConfig(reference_batch=BATCH)))
    pairs = next(TinyPairs().epoch(0))
    tokens = PretrainBatch(
        pixel_values=pairs.pixel_values, input_ids=torch.randint(0, 11, (BATCH, 3)),
        attention_mask=torch.ones(BATCH, 3), image_ids=pairs.image_ids, text_ids=pairs.text_ids,
    )  # fmt: skip
    pretraining = ContrastivePretraining(TinyTower(0.0), _Bag(), nn.Parameter(torch.tensor(1.0)), PretrainConfig())
    for stage, batch in ((distillation, texts), (pretraining, tokens)):
        assert_same(found(stage, in_parts(batch, 2)), found(stage, batch))


class _Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, EMBED_DIM)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.embed(input_ids).mean(1)


def test_only_one_parts_activations_live() -> None:
    """Tensors that autograd keeps, counted."""
    stage, batch, alive, most = moved(block_stage()), next(TinyPairs().epoch(0)), [0], [0]

    def pack(tensor: Tensor) -> list[Tensor]:
        alive[0] += tensor.numel()
        most[0] = max(most[0], alive[0])
        return _Held([tensor], alive)

    peaks = {}
    for name, given in (("part", sliced(batch, slice(0, 2))), ("parts", in_parts(batch, 2)), ("whole", batch)):
        alive[0] = most[0] = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held[0]):
            found(stage, given)
        peaks[name] = most[0]
    assert peaks["parts"] < 1.2 * peaks["part"] < peaks["whole"]


class _Held(list):  # type: ignore[type-arg]
    """Takes its tensor off the count when autograd lets go of it."""

    def __init__(self, tensors: list[Tensor], alive: list[int]) -> None:
        super().__init__(tensors)
        self.numel, self.alive = tensors[0].numel(), alive

    def __del__(self) -> None:
        self.alive[0] -= self.numel


class PartPairs(TinyPairs):
    """TinyPairs in parts of two; optionally one process's share."""

    def __init__(self, rank: int = 0, processes: int = 1) -> None:
        super().__init__()
        self.batch_size = BATCH // processes
        self.share = slice(rank * self.batch_size, (rank + 1) * self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        for batch in super().epoch(epoch, start):
            own = sliced(batch, self.share)
            parts = [sliced(own, slice(s, s + 2)) for s in range(0, self.batch_size, 2)]
            yield MicroBatches(parts=parts)


def weights(folder: Path) -> dict[str, Tensor]:
    path = latest_checkpoint(folder / "checkpoints" / "tune")
    assert path is not None
    return load_file(path / "stage.safetensors")


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        for how in ("ddp", "fsdp"):
            optim = dataclasses.replace(tiny_tune.tune_config().optim, parallel=how)
            tiny_tune.train(folder / how, PartPairs(rank, 2), tiny_stage(dropout=0.0, optim=optim))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_training_in_parts_is_training_on_one_process_and_on_two(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (tmp_path,), nprocs=2)
    tiny_tune.train(tmp_path / "plain", stage=tiny_stage(dropout=0.0))
    tiny_tune.train(tmp_path / "parts", PartPairs(), tiny_stage(dropout=0.0))
    plain = weights(tmp_path / "plain")
    for name in ("parts", "ddp", "fsdp"):
        other = weights(tmp_path / name)
        for key, tensor in plain.items():
            torch.testing.assert_close(other[key], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")


class NoisePairs:
    """Parts whose pixels are made at each walk, as decoding makes them."""

    def __init__(self, parts: int, size: int) -> None:
        self.parts, self.size = parts, size

    def __iter__(self) -> Iterator[TuneBatch]:
        for number in range(self.parts):
            noise, ids = generator(0, number), torch.arange(number * self.size, (number + 1) * self.size)
            pixels = torch.randn(self.size, 3, 112, 112, generator=noise)
            llm = torch.randn(self.size, LLM_DIM, generator=noise)
            yield TuneBatch(pixel_values=pixels, llm_embeds=llm, image_ids=ids, text_ids=ids)


def peak_mib(parts: int, size: int) -> float:
    """Of this process after a step of stage 2; one part is a plain batch."""
    torch.set_num_threads(1)
    vision = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3}
    tower = ClipImageTower.from_config({**vision, "image_size": 112, "patch_size": 8}, 128)
    adapter = Adapter(LLM_DIM, 128, AdapterConfig(num_blocks=1))
    stage, noise = (
        ImageTextTuning(tower, adapter, nn.Parameter(torch.tensor(2.0)), TuneConfig()),
        NoisePairs(parts, size),
    )
    stage.train()
    whole = next(iter(noise)) if parts == 1 else MicroBatches(parts=noise)
    backward(Parallel(stage), whole, off())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.slow
def test_a_batch_16_times_as_large_takes_the_memory_of_a_part() -> None:
    peaks = {}
    for parts, size in ((1, 8), (16, 8), (1, 32)):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # a peak never falls: a process for each
            peaks[parts, size] = pool.submit(peak_mib, parts, size).result()
    three_parts = peaks[1, 32] - peaks[1, 8]
    assert three_parts > 100 and peaks[16, 8] - peaks[1, 8] < 0.15 * three_parts, peaks


def test_batch_normalisation_is_refused() -> None:
    tower = nn.Sequential(nn.Flatten(), nn.Linear(48, EMBED_DIM), nn.BatchNorm1d(EMBED_DIM))
    adapter, scale = Adapter(LLM_DIM, EMBED_DIM, AdapterConfig(num_blocks=1)), nn.Parameter(torch.tensor(2.0))
    with pytest.raises(ProclipError, match=r"tune\.micro_batch_size: the image tower has batch normalisation \(2\)"):
        ImageTextTuning(tower, adapter, scale, tiny_tune.tune_config(micro_batch_size=2))
    with pytest.raises(ProclipError, match=r"pretrain\.micro_batch_size: the image tower has batch norm"):
        ContrastivePretraining(tower, _Bag(), scale, PretrainConfig(micro_batch_size=2))
    ImageTextTuning(tower, adapter, scale, tiny_tune.tune_config(micro_batch_size=2, image=MODES["locked"]))


@pytest.mark.parametrize("size", [0, 512, 600])
def test_the_size_of_a_part_has_limits(size: int) -> None:
    with pytest.raises(ProclipError, match=r"tune\.micro_batch_size must be in \[1, 512\)"):
        TuneConfig(micro_batch_size=size)
    with pytest.raises(ProclipError, match=r"pretrain\.micro_batch_size must be in \[1, 256\)"):
        PretrainConfig(micro_batch_size=size)


def test_float16_overflow_shows_in_the_gradients() -> None:
    """As for a plain batch the scaler sees what is not finite, and leaves the step out."""
    stage, parts = moved(block_stage()), in_parts(next(TinyPairs().epoch(0)), 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    optimizer = torch.optim.SGD(stage.parameters(), lr=1.0)
    before = {n: p.detach().clone() for n, p in stage.named_parameters()}
    backward(Parallel(stage), parts, scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**127
    assert all(torch.equal(before[n], p) for n, p in stage.named_parameters())


def test_stage_2_takes_the_teacher_of_every_other_picture() -> None:
    stage, batch = moved(block_stage(teacher_stride=2, distillation_weight=0.3)), next(TinyPairs().epoch(0))
    seen: list[int] = []
    assert stage.teacher is not None
    stage.teacher.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    terms = stage.loss(batch)
    assert seen == [BATCH // 2]
    half = sliced(batch, slice(0, None, 2))
    alone = block_stage(distillation_weight=0.3)
    alone.load_state_dict(stage.state_dict())
    wanted = alone.loss(half)
    for name in ("instance", "structure"):
        assert terms[name].item() == pytest.approx(wanted[name].item(), rel=1e-5)
    gap = [(t["loss"] - t["contrastive"]).item() for t in (terms, wanted)]
    assert gap[0] == pytest.approx(gap[1], rel=1e-3) and gap[0] > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_stride": 0}, "must be 1 or more"),
        ({"teacher_stride": 5}, r"must be a divisor of 512 \(tune\.batch_size\) that"),
        ({"teacher_stride": 4, "micro_batch_size": 2}, r"512 \(tune\.batch_size\) and 2 \(micro_batch_size\)"),
        ({"teacher_stride": 4, "batch_size": 10, "micro_batch_size": 4}, "divisor of 10 .* and 4"),
        ({"teacher_stride": 512}, "leaves two pictures"),
        ({"teacher_stride": 2, "teacher": "cached"}, "must be 1 for the teacher 'cached'"),
        ({"teacher_stride": 2, "loss": DistillLossConfig(reduction="paper")}, "must be 1 where tune.loss.reduction"),
    ],
)
def test_a_stride_that_would_not_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProclipError, match=f"tune.teacher_stride {message}|tune.teacher_stride must be a .*{message}"):
        TuneConfig(**changes)
    assert TuneConfig(teacher_stride=2, optim=OptimConfig()).teacher_stride == 2
