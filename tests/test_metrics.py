"""The metrics against brute-force counts, ties and ragged positives included."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proclip.errors import ProclipError
from proclip.metrics import (
    hard_negative_accuracy,
    linear_cka,
    mean_per_class_accuracy,
    pair_accuracy,
    ranks_of_first_positive,
    recall_at_k,
    topk_accuracy,
)

Search = tuple[Tensor, Tensor, list[list[int]]]


@st.composite
def searches(draw: st.DrawFn) -> Search:
    """Queries, gallery items and one or more positives a query; small whole numbers, so that ties are many."""
    q, g, d = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))

    def matrix(rows: int) -> Tensor:
        row = st.lists(st.integers(-2, 2), min_size=d, max_size=d)
        return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)), dtype=dtype)

    rows = st.lists(st.integers(0, g - 1), min_size=1, max_size=g + 2)  # unsorted, with repeats
    return matrix(q), matrix(g), draw(st.lists(rows, min_size=q, max_size=q))


def brute_force_ranks(queries: Tensor, gallery: Tensor, positives: list[list[int]]) -> list[int]:
    """Sort all items of each query, best first, negatives before positives at equal score; count to a positive."""
    ranks = []
    for query, right in zip(queries.tolist(), positives, strict=True):
        scores = [sum(a * b for a, b in zip(query, item, strict=True)) for item in gallery.tolist()]
        order = sorted(range(len(scores)), key=lambda item: (-scores[item], item in right))
        ranks.append(next(place for place, item in enumerate(order, start=1) if item in right))
    return ranks


@settings(max_examples=300, deadline=None)
@given(search=searches(), chunk=st.integers(1, 7))
def test_ranks_and_recall_are_the_brute_force_count(search: Search, chunk: int) -> None:
    queries, gallery, positives = search
    wanted = brute_force_ranks(queries, gallery, positives)
    ranks = ranks_of_first_positive(queries, gallery, positives, chunk=chunk)
    assert ranks.dtype == torch.int64 and ranks.tolist() == wanted
    recall = recall_at_k(queries, gallery, positives, ks=(1, 2, 5), chunk=chunk)
    assert recall == {k: pytest.approx(sum(r <= k for r in wanted) / len(wanted)) for k in (1, 2, 5)}


def test_recall_on_a_literal_matrix() -> None:
    """With a one-hot gallery a query's entries are its scores."""
    queries = torch.tensor([[0.9, 0.1, 0.5, 0.3], [0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.8, 0.1], [0.4, 0.4, 0.4, 0.4]])
    positives = [[0], [3, 1], [1], [2, 3]]  # ranks: 1; item 3, third; ties with item 2; ties with items 0 and 1
    assert ranks_of_first_positive(queries, torch.eye(4), positives).tolist() == [1, 3, 2, 3]
    assert recall_at_k(queries, torch.eye(4), positives, ks=(1, 2, 3, 50)) == {1: 0.25, 2: 0.5, 3: 1.0, 50: 1.0}


def test_several_captions_an_image_and_back() -> None:
    """Two images, three and one captions: text retrieval counts images, image retrieval counts captions."""
    image_embeds = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text_embeds = torch.tensor([[1.0, 0.2], [0.1, 1.0], [0.9, 0.3], [0.2, 0.7]])
    assert recall_at_k(image_embeds, text_embeds, [[0, 1, 2], [3]], ks=(1, 2)) == {1: 0.5, 2: 1.0}
    assert recall_at_k(text_embeds, image_embeds, [[0], [0], [0], [1]], ks=(1,)) == {1: 0.75}


def test_a_model_that_gives_one_vector_to_everything_gets_nothing() -> None:
    same = torch.full((20, 7), 0.3779645)
    assert recall_at_k(same, same, [[i] for i in range(20)], ks=(1, 5, 19, 20)) == {1: 0.0, 5: 0.0, 19: 0.0, 20: 1.0}


@pytest.mark.parametrize("width", [7, 64, 333])
def test_equal_items_tie_whatever_the_order_of_summation(width: int) -> None:
    """Each query's positive has a copy elsewhere in the gallery: never first, in any chunk, to the last query."""
    items = torch.randn(101, width, generator=torch.Generator().manual_seed(width))
    items = torch.nn.functional.normalize(items, dim=-1)
    gallery = torch.cat([items, items.flip(0)])
    for chunk in (1, 8, 37, 1024):
        ranks = ranks_of_first_positive(items, gallery, [[i] for i in range(101)], chunk=chunk)
        assert ranks.tolist() == [2] * 101


def test_float64_is_not_rounded() -> None:
    gallery = torch.tensor([[1.0], [1.0 - 1e-12]], dtype=torch.float64)
    assert ranks_of_first_positive(torch.ones(1, 1, dtype=torch.float64), gallery, [[0]]).tolist() == [1]
    assert ranks_of_first_positive(torch.ones(1, 1), gallery.float(), [[0]]).tolist() == [2]


def test_bad_searches_are_errors_that_name_the_query() -> None:
    queries, gallery = torch.ones(2, 3), torch.ones(4, 3)
    with pytest.raises(ProclipError, match="query 1 has no positives"):
        recall_at_k(queries, gallery, [[0], []])
    with pytest.raises(ProclipError, match=r"query 0: positives must be gallery rows in \[0, 4\), not \[1, 4\]"):
        recall_at_k(queries, gallery, [[1, 4], [0]])
    with pytest.raises(ProclipError, match=r"query 1: .* not \[-1\]"):
        recall_at_k(queries, gallery, [[1], [-1]])
    with pytest.raises(ProclipError, match="one list for each of 2 queries, not 1"):
        recall_at_k(queries, gallery, [[0]])
    with pytest.raises(ProclipError, match="not empty"):
        recall_at_k(queries[:0], gallery, [])
    with pytest.raises(ProclipError, match="not empty"):
        recall_at_k(queries, gallery[:0], [[0], [0]])
    with pytest.raises(ProclipError, match=r"not \[2, 3\] and \[4, 2\]"):
        recall_at_k(queries, gallery[:, :2], [[0], [0]])
    with pytest.raises(ProclipError, match="make them the same"):
        recall_at_k(queries, gallery.double(), [[0], [0]])
    for ks in ((), (0, 1)):
        with pytest.raises(ProclipError, match="ks must be"):
            recall_at_k(queries, gallery, [[0], [0]], ks=ks)


def test_nan_is_an_error_and_not_a_perfect_rank() -> None:
    broken = torch.ones(3, 2)
    broken[2, 1] = torch.nan
    with pytest.raises(ProclipError, match="query_embeds must be finite; row 2 is not"):
        recall_at_k(broken, torch.ones(3, 2), [[0]] * 3)
    with pytest.raises(ProclipError, match="gallery_embeds must be finite; row 2 is not"):
        recall_at_k(torch.ones(3, 2), broken, [[0]] * 3)
    with pytest.raises(ProclipError, match="logits must be finite"):
        topk_accuracy(broken, torch.tensor([0, 0, 1]))
    with pytest.raises(ProclipError, match="scores must be finite"):
        pair_accuracy(torch.full((1, 2, 2), torch.nan))
    with pytest.raises(ProclipError, match="negative_scores must be finite"):
        hard_negative_accuracy(torch.ones(1), torch.full((1,), torch.nan))
    with pytest.raises(ProclipError, match="features must be finite"):
        linear_cka(torch.eye(5), torch.full((5, 2), torch.inf))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_topk_accuracy_is_the_brute_force_count(data: st.DataObject) -> None:
    n, c = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    row = st.lists(st.integers(0, 3), min_size=c, max_size=c)
    logits = data.draw(st.lists(row, min_size=n, max_size=n))
    targets = data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n))
    for k in range(1, c + 2):
        ahead = [sum(row[j] >= row[t] for j in range(c) if j != t) for row, t in zip(logits, targets, strict=True)]
        found = topk_accuracy(torch.tensor(logits, dtype=torch.float32), torch.tensor(targets), k)
        assert found == pytest.approx(sum(a < k for a in ahead) / n)


def test_topk_accuracy_errors() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ProclipError, match=r"classes in \[0, 3\), found 0\.\.3"):
        topk_accuracy(logits, torch.tensor([0, 3]))
    with pytest.raises(ProclipError, match="k must be 1 or more"):
        topk_accuracy(logits, torch.tensor([0, 1]), k=0)
    with pytest.raises(ProclipError, match=r"not \[2, 3\] and \[3\]"):
        topk_accuracy(logits, torch.tensor([0, 1, 2]))


def test_mean_per_class_accuracy_weighs_classes_not_samples() -> None:
    """Class 0: 3 of 4; class 7: 0 of 1; class 2 is predicted but never right, so it is no class of the mean."""
    predictions, targets = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([0, 0, 0, 0, 7])
    assert mean_per_class_accuracy(predictions, targets) == pytest.approx(0.375)


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_mean_per_class_accuracy_is_the_brute_force_count(pairs: list[tuple[int, int]]) -> None:
    classes = sorted({t for _, t in pairs})
    shares = [np.mean([p == t for p, t in pairs if t == c]) for c in classes]
    predictions, targets = torch.tensor(pairs).T
    assert mean_per_class_accuracy(predictions, targets) == pytest.approx(np.mean(shares))


def test_pair_accuracy_needs_both_images_strictly() -> None:
    scores = torch.tensor(
        [
            [[0.9, 0.1], [0.2, 0.3]],  # both
            [[0.9, 0.1], [0.4, 0.3]],  # only the first image
            [[0.1, 0.9], [0.2, 0.3]],  # only the second
            [[0.5, 0.5], [0.2, 0.3]],  # the first cannot tell
            [[0.5, 0.4], [0.3, 0.3]],  # the second cannot tell
        ]
    )
    assert [pair_accuracy(row[None]) for row in scores] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert pair_accuracy(scores) == pytest.approx(0.2)


def test_pair_accuracy_compares_statements_for_an_image_not_images_for_a_statement() -> None:
    """Each statement prefers its own image, but the second image prefers the first statement."""
    assert pair_accuracy(torch.tensor([[[0.9, 0.1], [0.8, 0.7]]])) == 0.0


def test_hard_negative_ties_are_wrong() -> None:
    assert hard_negative_accuracy(torch.tensor([0.3, 0.2, 0.1, 0.4]), torch.tensor([0.2, 0.2, 0.3, -1.0])) == 0.5


def test_empty_and_misshapen_sets_are_errors() -> None:
    with pytest.raises(ProclipError, match="n >= 1"):
        mean_per_class_accuracy(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ProclipError, match=r"not \[2\] and \[3\]"):
        mean_per_class_accuracy(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ProclipError, match=r"wanted scores \[n, 2, 2\]"):
        pair_accuracy(torch.zeros(3, 2, 3))
    with pytest.raises(ProclipError, match=r"n >= 1"):
        pair_accuracy(torch.zeros(0, 2, 2))
    with pytest.raises(ProclipError, match=r"not \[2\] and \[1\]"):
        hard_negative_accuracy(torch.zeros(2), torch.zeros(1))


def features(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_hsic(x: Tensor, y: Tensor) -> float:
    """The estimator's definition: the mean over all (i, j, q, r), distinct, of K_ij (L_ij + L_qr - 2 L_iq)."""
    k, l = (x @ x.T).tolist(), (y @ y.T).tolist()  # noqa: E741
    terms = [k[i][j] * (l[i][j] + l[q][r] - 2 * l[i][q]) for i, j, q, r in permutations(range(len(x)), 4)]
    return sum(terms) / len(terms)


def test_cka_is_the_definition_of_unbiased_hsic() -> None:
    x, y = features(7, 3, 1), features(7, 2, 2)
    y[:, 0] += x[:, 0]
    wanted = slow_hsic(x, y) / (slow_hsic(x, x) * slow_hsic(y, y)) ** 0.5
    assert linear_cka(x, y) == pytest.approx(wanted, rel=1e-9)


def test_cka_is_one_up_to_rotation_scale_and_shift() -> None:
    x = features(40, 6, 3)
    rotation, _ = torch.linalg.qr(features(6, 6, 4))
    assert linear_cka(x, x) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, -3.5 * x @ rotation + 100.0) == pytest.approx(1.0, abs=1e-9)
    assert linear_cka(x, torch.cat([x, x], dim=1)) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, x @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1, 1], dtype=torch.float64))) < 0.9


def test_cka_is_symmetric_and_blind_to_order() -> None:
    x, y = features(30, 5, 5), features(30, 8, 6)
    y[:, :5] += x
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert 0.05 < linear_cka(x, y) < 0.95
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-10)
    assert linear_cka(x[order], y[order]) == pytest.approx(linear_cka(x, y), rel=1e-9)


def test_cka_of_a_known_mixture() -> None:
    """y keeps one of x's two equally strong dimensions: cross / sqrt(own own') = 1 / sqrt(2 * 1), for large n."""
    x = features(20_000, 2, 7)
    assert linear_cka(x, x[:, :1]) == pytest.approx(2**-0.5, abs=0.02)


def test_cka_of_unrelated_features_is_zero_on_average_where_the_biased_one_is_not() -> None:
    found = [linear_cka(features(24, 50, 2 * s), features(24, 50, 2 * s + 1)) for s in range(60)]
    assert np.mean(found) == pytest.approx(0.0, abs=0.03)
    assert min(found) < 0 < max(found)


def test_cka_survives_a_large_common_offset_in_float32() -> None:
    x = features(50, 4, 8).float()
    assert linear_cka(x + 64.0, x) == pytest.approx(1.0, abs=1e-4)


def test_cka_that_is_not_defined_is_an_error() -> None:
    x = features(10, 3, 9)
    with pytest.raises(ProclipError, match="the same for every sample"):
        linear_cka(x, torch.full((10, 2), 0.1))
    with pytest.raises(ProclipError, match="the same for every sample"):
        linear_cka(torch.zeros(10, 2), x)
    with pytest.raises(ProclipError, match=r"n >= 4, not \[3, 3\] and \[3, 3\]"):
        linear_cka(x[:3], x[:3])
    with pytest.raises(ProclipError, match=r"not \[10, 3\] and \[9, 3\]"):
        linear_cka(x, x[:9])
