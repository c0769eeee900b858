"""Ranks of retrieval against brute-force counts: ties, duplicates, ragged positives, any scale, dtype and chunk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proclip.errors import ProclipError
from proclip.metrics import ranks_of_first_positive
from proclip.metrics import retrieval as module

Search = tuple[Tensor, Tensor, list[list[int]]]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@st.composite
def searches(draw: st.DrawFn, elements: st.SearchStrategy[float]) -> Search:
    """Queries, gallery items and one or more positives a query; rows repeat."""
    q, g, d = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from(DTYPES))

    def matrix(rows: int) -> Tensor:
        some = draw(st.lists(st.lists(elements, min_size=d, max_size=d), min_size=1, max_size=rows))
        chosen = draw(st.lists(st.sampled_from(some), min_size=rows, max_size=rows))
        return torch.tensor(chosen, dtype=dtype)

    rows = st.lists(st.integers(0, g - 1), min_size=1, max_size=g + 2)  # unsorted, with repeats
    return matrix(q), matrix(g), draw(st.lists(rows, min_size=q, max_size=q))


def brute_force_ranks(queries: Tensor, gallery: Tensor, positives: list[list[int]]) -> list[int]:
    """Sort all items of each query, best first, negatives before positives at equal score; count to a positive."""
    rounded = np.float64 if queries.dtype == torch.float64 else np.float32
    ranks = []
    for query, right in zip(queries.double().tolist(), positives, strict=True):
        products = [[a * b for a, b in zip(query, item, strict=True)] for item in gallery.double().tolist()]
        scores = [rounded(math.fsum(row)) for row in products]
        order = sorted(range(len(scores)), key=lambda item: (-scores[item], item in right))
        ranks.append(next(place for place, item in enumerate(order, start=1) if item in right))
    return ranks


@settings(max_examples=80, deadline=None)
@given(search=searches(st.integers(-2, 2)), chunk=st.integers(2, 7), scale=st.sampled_from([1.0, 0.125, 4096.0]))
def test_ranks_are_the_brute_force_count_with_many_ties(search: Search, chunk: int, scale: float) -> None:
    queries, gallery, positives = search
    ranks = ranks_of_first_positive(queries * scale, gallery, positives, chunk=chunk)
    assert ranks.dtype == torch.int64 and ranks.tolist() == brute_force_ranks(queries * scale, gallery, positives)


@settings(max_examples=80, deadline=None)
@given(search=searches(st.floats(-4, 4, width=16)), chunk=st.integers(2, 7))
def test_ranks_are_the_brute_force_count_of_rounded_scores(search: Search, chunk: int) -> None:
    queries, gallery, positives = search
    wanted = brute_force_ranks(queries, gallery, positives)
    assert ranks_of_first_positive(queries, gallery, positives, chunk=chunk).tolist() == wanted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("crowded", [0.0, 1 / 32, 1.0])
def test_near_ties_are_settled_either_way(dtype: torch.dtype, crowded: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gallery of items a few float32 roundings apart, settled pair by pair and as blocks."""
    monkeypatch.setattr(module, "CROWDED", crowded)
    generator = torch.Generator().manual_seed(0)
    base = F.normalize(torch.randn(1, 48, generator=generator), dim=1)
    gallery = (base + 3e-7 * torch.randn(60, 48, generator=generator)).to(dtype)
    queries = (base + 0.1 * torch.randn(20, 48, generator=generator)).to(dtype)
    positives = [[i, 59 - i, (7 * i) % 60][: 1 + i % 3] for i in range(20)]
    wanted = brute_force_ranks(queries, gallery, positives)
    for chunk in (19, 64):
        assert ranks_of_first_positive(queries, gallery, positives, chunk=chunk).tolist() == wanted


def test_random_embeds_give_the_ranks_of_float64_products() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, gallery = (F.normalize(torch.randn(n, 96, generator=generator), dim=1) for n in (700, 900))
    positives = [[i, (5 * i) % 900] for i in range(700)]
    scores = (queries.double() @ gallery.double().T).float()
    best = torch.stack([row[rows].max() for row, rows in zip(scores, positives, strict=True)])
    for row, rows in zip(scores, positives, strict=True):
        row[rows] = -torch.inf
    wanted = 1 + (scores >= best[:, None]).sum(dim=1)
    assert torch.equal(ranks_of_first_positive(queries, gallery, positives, chunk=128), wanted)
    assert torch.equal(ranks_of_first_positive(queries, gallery, positives), wanted)


@pytest.mark.parametrize("power", [-130, -60, 50, 100])
def test_any_scale_gives_the_same_ranks(power: int) -> None:
    """Products would vanish or overflow in float32; float64 embeds go further still."""
    generator = torch.Generator().manual_seed(2)
    queries, gallery = torch.randn(9, 5, generator=generator), torch.randn(30, 5, generator=generator)
    gallery[15:] = gallery[:15]
    positives = [[i] for i in range(9)]
    wanted = brute_force_ranks(queries, gallery, positives)
    if power > -120:  # else float32 itself loses digits
        assert ranks_of_first_positive(queries * 2.0**power, gallery * 2.0**power, positives).tolist() == wanted
    assert ranks_of_first_positive(torch.eye(3) * 2.0**-140, torch.eye(3), [[0], [1], [2]]).tolist() == [1, 1, 1]
    wide, large = queries.double() * 2.0 ** (5 * power), gallery.double() * 2.0 ** (3 * power)
    assert ranks_of_first_positive(wide, large, positives).tolist() == wanted


def test_ranks_on_a_literal_matrix() -> None:
    """With a one-hot gallery a query's entries are its scores."""
    queries = torch.tensor([[0.9, 0.1, 0.5, 0.3], [0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.8, 0.1], [0.4, 0.4, 0.4, 0.4]])
    positives = [[0], [3, 1], [1], [2, 3]]  # ranks: 1; item 3, third; ties with item 2; ties with items 0 and 1
    assert ranks_of_first_positive(queries, torch.eye(4), positives).tolist() == [1, 3, 2, 3]
    assert ranks_of_first_positive(torch.zeros(2, 4), torch.eye(4), [[0], [1, 2]]).tolist() == [4, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_that_gives_one_vector_to_everything_gets_nothing(dtype: torch.dtype) -> None:
    same = torch.full((20, 7), 0.3779645, dtype=dtype)
    assert ranks_of_first_positive(same, same, [[i] for i in range(20)], chunk=6).tolist() == [20] * 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [7, 64, 333])
def test_equal_items_tie_whatever_the_order_of_summation(width: int, dtype: torch.dtype) -> None:
    """Each query's positive has a copy elsewhere in the gallery: never first, in any chunk, to the last query."""
    items = torch.randn(101, width, generator=torch.Generator().manual_seed(width), dtype=dtype)
    items = F.normalize(items, dim=-1)
    gallery = torch.cat([items, items.flip(0)])
    for chunk in (37, 1024):
        ranks = ranks_of_first_positive(items, gallery, [[i] for i in range(101)], chunk=chunk)
        assert ranks.tolist() == [2] * 101


def test_float64_is_not_rounded() -> None:
    gallery = torch.tensor([[1.0], [1.0 - 1e-12]], dtype=torch.float64)
    assert ranks_of_first_positive(torch.ones(1, 1, dtype=torch.float64), gallery, [[0]]).tolist() == [1]
    assert ranks_of_first_positive(torch.ones(1, 1), gallery.float(), [[0]]).tolist() == [2]


def test_settings_for_quick_products_change_nothing() -> None:
    """Neither autocast nor bfloat16 products; and the settings are left as they were."""
    generator = torch.Generator().manual_seed(3)
    queries, gallery = (F.normalize(torch.randn(200, 64, generator=generator), dim=1) for _ in range(2))
    gallery[100:] = gallery[:100] + 1e-5
    positives = [[i] for i in range(200)]
    wanted = ranks_of_first_positive(queries, gallery, positives)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            found = ranks_of_first_positive(queries.requires_grad_(), gallery, positives)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, wanted)


def test_the_error_bound_holds() -> None:
    """Rough scores of cancelling and of large terms are within the stated error of the exact ones."""
    generator = torch.Generator().manual_seed(4)
    for dtype in (torch.float32, torch.float64):
        queries = torch.randn(40, 300, generator=generator, dtype=dtype) * 10.0 ** torch.randint(-3, 4, (40, 300))
        gallery = torch.randn(50, 300, generator=generator, dtype=dtype)
        scores = module._Scores(queries, gallery)
        rough, error = scores.rough(slice(0, 40), slice(0, 50)), scores.error[:, None]
        exact = (queries.double() * scores.scales[0]) @ (gallery.double() * scores.scales[1]).T
        assert bool(((rough - exact).abs() <= error).all())


def test_memory_does_not_grow_with_queries_times_gallery() -> None:
    queries = F.normalize(torch.randn(3000, 8, generator=torch.Generator().manual_seed(5)), dim=1)
    found: list[tuple[int, ...]] = []
    original = module._Scores.rough

    def rough(self: module._Scores, down: slice, across: slice) -> Tensor:
        scores = original(self, down, across)
        found.append(tuple(scores.shape))
        return scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Scores, "rough", rough)
        ranks_of_first_positive(queries, queries, [[i] for i in range(3000)], chunk=512)
    assert max(a for a, _ in found) == max(b for _, b in found) == 512 and len(found) == 36


def test_bad_searches_are_errors_that_name_the_query() -> None:
    queries, gallery = torch.ones(2, 3), torch.ones(4, 3)
    with pytest.raises(ProclipError, match="query 1 has no positives"):
        ranks_of_first_positive(queries, gallery, [[0], []])
    with pytest.raises(ProclipError, match=r"query 0: positives must be gallery rows in \[0, 4\), not \[1, 4\]"):
        ranks_of_first_positive(queries, gallery, [[1, 4], [0]])
    with pytest.raises(ProclipError, match=r"query 1: .* not \[-1\]"):
        ranks_of_first_positive(queries, gallery, [[1], [-1]])
    with pytest.raises(ProclipError, match="one list for each of 2 queries, not 1"):
        ranks_of_first_positive(queries, gallery, [[0]])
    with pytest.raises(ProclipError, match="not empty"):
        ranks_of_first_positive(queries[:0], gallery, [])
    with pytest.raises(ProclipError, match="not empty"):
        ranks_of_first_positive(queries, gallery[:0], [[0], [0]])
    with pytest.raises(ProclipError, match=r"not \[2, 3\] and \[4, 2\]"):
        ranks_of_first_positive(queries, gallery[:, :2], [[0], [0]])
    with pytest.raises(ProclipError, match="make them the same"):
        ranks_of_first_positive(queries, gallery.double(), [[0], [0]])


def test_nan_is_an_error_and_not_a_perfect_rank() -> None:
    broken = torch.ones(3, 2)
    broken[2, 1] = torch.nan
    with pytest.raises(ProclipError, match="query_embeds must be finite; row 2 is not"):
        ranks_of_first_positive(broken, torch.ones(3, 2), [[0]] * 3)
    with pytest.raises(ProclipError, match="gallery_embeds must be finite; row 2 is not"):
        ranks_of_first_positive(torch.ones(3, 2), broken, [[0]] * 3)
