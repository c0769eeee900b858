"""Ranks of classes and hits of pairs against brute-force counts, scikit-learn and the published definitions."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from torch import Tensor

from proclip.errors import ProclipError
from proclip.metrics import Outcomes, class_ranks, hard_negative_hits, image_hits, text_hits


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_class_ranks_are_the_brute_force_count(data: st.DataObject) -> None:
    n, c = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    row = st.lists(st.integers(0, 3), min_size=c, max_size=c)
    logits = data.draw(st.lists(row, min_size=n, max_size=n))
    targets = data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n))
    wanted = [1 + sum(row[j] >= row[t] for j in range(c) if j != t) for row, t in zip(logits, targets, strict=True)]
    found = class_ranks(torch.tensor(logits, dtype=torch.float32), torch.tensor(targets))
    assert found.dtype == torch.int64 and found.tolist() == wanted


def test_accuracies_are_those_of_scikit_learn() -> None:
    logits = torch.randn(300, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(9, (300,), generator=torch.Generator().manual_seed(1)) // 2  # some classes never occur
    logits[torch.arange(300), targets] += 1
    ranks = class_ranks(logits, targets)
    for k in (1, 5):
        wanted = top_k_accuracy_score(targets, logits, k=k, labels=range(9))
        assert float((ranks <= k).double().mean()) == pytest.approx(wanted)
    hits = (ranks == 1).numpy().astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of predicted classes that do not occur
        wanted = balanced_accuracy_score(targets, logits.argmax(dim=1))
    assert Outcomes(values=hits, strata=targets.numpy().astype(np.int32)).figure() == pytest.approx(wanted)


def test_class_ranks_errors() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ProclipError, match=r"classes in \[0, 3\), found 0\.\.3"):
        class_ranks(logits, torch.tensor([0, 3]))
    with pytest.raises(ProclipError, match=r"not \[2, 3\] and \[3\]"):
        class_ranks(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(ProclipError, match="n >= 1"):
        class_ranks(logits[:0], torch.empty(0, dtype=torch.int64))
    logits[1, 2] = torch.nan
    with pytest.raises(ProclipError, match="logits must be finite; row 1"):
        class_ranks(logits, torch.tensor([0, 1]))


@settings(max_examples=100, deadline=None)
@given(scores=st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=8))
def test_pairs_are_the_published_definitions(scores: list[tuple[int, int, int, int]]) -> None:
    """Winoground's score functions, and MMVP-VLM's: for each statement the image whose softmax is above a half."""
    tensor = torch.tensor(scores, dtype=torch.float32).view(-1, 2, 2)  # [n, image, statement]
    text, image = text_hits(tensor), image_hits(tensor)
    for n, (c0_i0, c1_i0, c0_i1, c1_i1) in enumerate(scores):
        assert bool(text[n]) == (c0_i0 > c1_i0 and c1_i1 > c0_i1)
        assert bool(image[n]) == (c0_i0 > c0_i1 and c1_i1 > c1_i0)
        first = torch.softmax(tensor[n].double(), dim=0)[0] > 0.5  # image 0 is chosen, for each statement
        chooses_second = tensor[n, 1, 1] > tensor[n, 0, 1]
        assert bool(image[n]) == (bool(first[0]) and bool(chooses_second) and not bool(first[1]))


def test_pairs_need_both_strictly() -> None:
    scores = torch.tensor(
        [
            [[0.9, 0.1], [0.2, 0.3]],  # both images, and both statements
            [[0.9, 0.1], [0.4, 0.3]],  # only the first image
            [[0.1, 0.9], [0.2, 0.3]],  # only the second
            [[0.5, 0.5], [0.2, 0.3]],  # the first cannot tell
            [[0.5, 0.4], [0.3, 0.3]],  # the second cannot tell
            [[0.9, 0.1], [0.8, 0.7]],  # each statement prefers its own image, but the second image the first statement
        ]
    )
    assert text_hits(scores).tolist() == [True, False, False, False, False, False]
    assert image_hits(scores).tolist() == [True, True, False, False, False, True]


def test_hard_negative_ties_are_misses() -> None:
    found = hard_negative_hits(torch.tensor([0.3, 0.2, 0.1, 0.4]), torch.tensor([0.2, 0.2, 0.3, -1.0]))
    assert found.tolist() == [True, False, False, True]


@pytest.mark.parametrize("hits", [text_hits, image_hits])
def test_empty_misshapen_and_broken_pairs_are_errors(hits: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ProclipError, match=r"wanted scores \[n, 2, 2\]"):
        hits(torch.zeros(3, 2, 3))
    with pytest.raises(ProclipError, match=r"n >= 1"):
        hits(torch.zeros(0, 2, 2))
    with pytest.raises(ProclipError, match="scores must be finite"):
        hits(torch.full((1, 2, 2), torch.nan))


def test_empty_misshapen_and_broken_hard_negatives_are_errors() -> None:
    with pytest.raises(ProclipError, match=r"not \[2\] and \[1\]"):
        hard_negative_hits(torch.zeros(2), torch.zeros(1))
    with pytest.raises(ProclipError, match="n >= 1"):
        hard_negative_hits(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ProclipError, match="negative_scores must be finite"):
        hard_negative_hits(torch.ones(1), torch.full((1,), torch.nan))
