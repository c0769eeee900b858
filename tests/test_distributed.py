"""Two processes against one: the same loss and, once gradients are averaged, the same gradients."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from caption_world import COLUMNS, samples_of, slow_rows, write_world
from safetensors.torch import load_file, save_file
from torch import Tensor

from proclip.config import AdapterConfig
from proclip.data.broken import Broken, BrokenImages, files_like
from proclip.data.dataset import check_images
from proclip.data.store import EmbeddingStore
from proclip.data.stored_rows import StoredRows
from proclip.distributed import (
    all_reduce_mean,
    all_reduce_sum,
    barrier,
    check_alike,
    comparing_sizes,
    from_all,
    from_main,
    gather,
    is_main,
    own_rows,
    rank,
    share,
    world_size,
)
from proclip.errors import ProclipError
from proclip.losses import contrastive_loss, distillation_loss, sigmoid_loss
from proclip.models.adapter import Adapter

B, WIDTH, D, WORLD = 3, 5, 4, 2


def problem() -> dict[str, Tensor]:
    """Global inputs and shared parameters, of WORLD * B pairs; two share an image, across the processes."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    n = WORLD * B
    return {
        "image": noise(n, WIDTH), "text": noise(n, WIDTH), "teacher": F.normalize(noise(n, D), dim=-1),
        "image_ids": torch.tensor([0, 1, 2, 0, 3, 4]), "text_ids": torch.tensor([5, 6, 6, 7, 8, 9]),
        "image_weight": noise(WIDTH, D), "text_weight": noise(WIDTH, D),
        "logit_scale": torch.tensor(math.log(5.0), dtype=torch.float64),
        "logit_bias": torch.tensor(-2.0, dtype=torch.float64),
    }  # fmt: skip


def losses_and_gradients(of: slice) -> dict[str, Tensor]:
    """Each loss, and every parameter's gradient of it, from these rows of the inputs; averaged over processes."""
    p = problem()
    rows = {k: t[of] for k, t in p.items() if len(t.shape) > 0 and not k.endswith("weight")}
    weights = {k: p[k].requires_grad_(True) for k in ("image_weight", "text_weight", "logit_scale", "logit_bias")}
    image_embeds = gather(F.normalize(rows["image"] @ weights["image_weight"], dim=-1))
    text_embeds = gather(F.normalize(rows["text"] @ weights["text_weight"], dim=-1))
    ids = {name: gather(rows[name]) for name in ("image_ids", "text_ids")}
    part = own_rows(len(rows["image"]))
    regulariser = distillation_loss(image_embeds, gather(rows["teacher"]), reduction="paper", rows=part).loss
    scalars = weights["logit_scale"], weights["logit_bias"]
    losses = {
        "sigmoid": sigmoid_loss(image_embeds, text_embeds, *scalars, **ids, rows=part),
        "contrastive": contrastive_loss(image_embeds, text_embeds, weights["logit_scale"], **ids, rows=part),
        "structure": distillation_loss(
            text_embeds, gather(rows["teacher"]), instance_weight=0.0, reduction="paper", rows=part
        ).loss,
    }
    losses["tune"] = losses["contrastive"] + 0.1 * regulariser
    found = {name: all_reduce_mean(loss) for name, loss in losses.items()}
    for name, loss in losses.items():
        for weight, parameter in weights.items():
            (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)
            if gradient is not None:
                found[f"{name}/{weight}"] = all_reduce_mean(gradient)
    return found


def expect_error(tensor: Tensor) -> str:
    try:
        with comparing_sizes():
            gather(tensor)
    except ProclipError as error:
        return str(error)
    return ""


def expect_difference(values: dict[str, int]) -> str:
    try:
        check_alike(values, "why")
    except ProclipError as error:
        return str(error)
    return ""


def broken(folder: str) -> list[int]:
    """Totals of broken pictures: one of both processes, one of each; then after a restart."""
    totals, file = [], Path(folder) / "broken.jsonl"
    for keys in (["both", f"of {rank()}"], [f"later {rank()}"]):
        images = BrokenImages(1.0, 10, file)
        totals.append(images.total())
        for key in keys:
            images.record(range(10), [Broken(key, "why", "instead")])
            images.start_pass()
        totals += [images.total(), images.total()]
    return totals


def caption_rows(folder: Path) -> tuple[int, list[int], int]:
    """How many captions this process looks up, the rows of all, and how many it looks up the next time."""
    store, samples, told = EmbeddingStore.open(folder / "store"), samples_of(folder), [0]
    rows = StoredRows(folder / "rows", lambda done, total: told.append(total)).captions(store, samples, COLUMNS)
    again = list[int]()
    StoredRows(folder / "rows", lambda done, total: again.append(total)).captions(store, samples, COLUMNS)
    return told[-1], rows.tolist(), len(again)


def missing_picture(folder: Path) -> str:
    try:
        check_images(samples_of(folder))
    except ProclipError as error:
        return str(error)
    return ""


def input_norm() -> dict[str, Tensor]:
    """As it is fitted to vectors of which each process reads its share, in parts."""
    adapter = Adapter(WIDTH, D, AdapterConfig(input_norm="standardize"))
    vectors = 50 + torch.randn(23, WIDTH, generator=torch.Generator().manual_seed(1))
    adapter.fit_input_norm(vectors[share(23)].split(4))
    return {"input mean": adapter.input_mean, "input std": adapter.input_std}


def work(number: int, folder: str) -> None:
    """What each of the processes does; its findings go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=number, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    try:
        x = torch.full((B, 2), float(number + 1), requires_grad=True)
        everyone = gather(x)
        # a loss of this process alone: rank r weighs all rows by r + 1, so each row's gradient is the sum, 1 + 2
        ((number + 1) * everyone.sum()).backward()
        assert x.grad is not None
        column = torch.arange(6.0).view(3, 2)[:, number]  # not contiguous
        tensors = {
            **losses_and_gradients(slice(number * B, (number + 1) * B)),
            "gathered": everyone.detach(), "adjoint": x.grad, "strided": gather(column),
            "mean": all_reduce_mean(torch.tensor([float(number), 4.0])),
            "sum": all_reduce_sum(torch.tensor([float(number), 4.0])),
            **input_norm(),
        }  # fmt: skip
        notes = {
            "who": f"{rank()} of {world_size()}, main: {is_main()}",
            "uneven": expect_error(torch.ones(B + number, 2)), "uneven_width": expect_error(torch.ones(B, 2 + number)),
            "empty": expect_error(torch.ones(0, 2)), "scalar": expect_error(torch.tensor(1.0)),
            "alike": expect_difference({"a": 1, "b": 2}), "differ": expect_difference({"a": 1, "b": number}),
            "from main": str(from_main(number)), "from all": str(from_all(number)), "broken": str(broken(folder)),
            "rows": json.dumps(caption_rows(Path(folder))), "missing": missing_picture(Path(folder)),
        }  # fmt: skip
        save_file(tensors, Path(folder) / f"{number}.safetensors")
        (Path(folder) / f"{number}.json").write_text(json.dumps(notes))
        barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes left what they found."""
    folder = tmp_path_factory.mktemp("two_processes")
    write_world(folder)
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=WORLD)
    return folder


@pytest.fixture
def tensors(folder: Path) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{number}.safetensors") for number in range(WORLD)]


@pytest.fixture
def notes(folder: Path) -> list[dict[str, str]]:
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(WORLD)]


def test_two_processes_give_the_losses_and_gradients_of_one(tensors: list[dict[str, Tensor]]) -> None:
    wanted = losses_and_gradients(slice(None))
    assert (
        len([name for name in wanted if "/" in name]) == 11
    )  # structure has one parameter, sigmoid four, others three
    assert all(t.abs().max() > 1e-3 for t in wanted.values())
    for found in tensors:
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-12)


def test_gather_keeps_the_order_of_ranks_and_its_backward_is_the_adjoint(tensors: list[dict[str, Tensor]]) -> None:
    for found in tensors:
        assert found["gathered"].tolist() == [[1.0, 1.0]] * B + [[2.0, 2.0]] * B
        assert found["adjoint"].tolist() == [[3.0, 3.0]] * B
        assert found["strided"].tolist() == [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
        assert found["mean"].tolist() == [0.5, 4.0] and found["sum"].tolist() == [1.0, 8.0]


def test_who_is_who(notes: list[dict[str, str]]) -> None:
    assert [found["who"] for found in notes] == ["0 of 2, main: True", "1 of 2, main: False"]


def test_uneven_sizes_are_an_error_on_every_process(notes: list[dict[str, str]]) -> None:
    for found in notes:
        assert "by rank: 3 rows of 6 numbers in all, 4 rows of 8 numbers in all" in found["uneven"]
        assert "3 rows of 6 numbers in all, 3 rows of 9 numbers in all" in found["uneven_width"]
        assert "at least one" in found["empty"] and "at least one" in found["scalar"]


def test_what_processes_must_agree_on(notes: list[dict[str, str]]) -> None:
    for found in notes:
        assert found["alike"] == "" and found["from main"] == "0" and found["from all"] == "[0, 1]"
        assert found["differ"] == "the processes differ in b (by rank: 0, 1): why"


def test_broken_pictures_are_counted_once_whoever_met_them(folder: Path, notes: list[dict[str, str]]) -> None:
    assert [found["broken"] for found in notes] == ["[0, 3, 3, 3, 5, 5]"] * 2
    files = files_like(folder / "broken.jsonl")
    assert [file.name for file in files] == ["broken.rank0.jsonl", "broken.rank1.jsonl"]
    listed = [json.loads(line)["key"] for line in files[1].read_text().splitlines()]
    assert listed == ["both", "of 1", "later 1"]


def test_captions_are_looked_up_by_both_once(folder: Path, notes: list[dict[str, str]]) -> None:
    found = [json.loads(note["rows"]) for note in notes]
    wanted = slow_rows(samples_of(folder), EmbeddingStore.open(folder / "store"))
    assert found == [[2 * 512, wanted, 0], [2 * (1200 - 512), wanted, 0]]
    assert [path.suffix for path in (folder / "rows").iterdir()] == [".safetensors"]


def test_the_input_norm_is_that_of_all_vectors(tensors: list[dict[str, Tensor]]) -> None:
    assert share(23) == slice(0, 23)
    for found in tensors:
        for name, wanted in input_norm().items():
            torch.testing.assert_close(found[name], wanted, rtol=1e-7, atol=0.0)


def test_each_looks_for_its_share_of_the_pictures(notes: list[dict[str, str]]) -> None:
    assert [note["missing"].split(":")[0] for note in notes] == ["sample 'a0'", "sample 'a1'"]


def test_one_process_is_the_identity() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    assert gather(x) is x
    assert torch.equal(all_reduce_mean(x), torch.ones(2, 3)) and not all_reduce_mean(x).requires_grad
    assert own_rows(2) is None and from_main(7) == 7 and from_all(7) == [7]
    check_alike({"a": 1}, "why")
    barrier()
