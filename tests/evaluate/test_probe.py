from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from proclip.errors import ProclipError
from proclip.evaluate.encoders import Encode, Encoders
from proclip.evaluate.probe import COARSE_LOG10_C, NEIGHBOURS, TEMPERATURE, _held_out, knn_hits, measure_probe
from proclip.evaluate.tasks import ProbeTask


def features_by_key(features: Tensor) -> Encode:
    def encode(keys: Sequence[str]) -> Tensor:
        return features[[int(key) for key in keys]]

    return encode


def probe(features: Tensor, labels: Sequence[int], train: int) -> tuple[ProbeTask, Encoders]:
    rows = [(str(i), label) for i, label in enumerate(labels)]
    names = tuple(str(label) for label in range(max(labels) + 1))
    task = ProbeTask(name="p", train=tuple(rows[:train]), test=tuple(rows[train:]), classnames=names, chance=0.25)
    encode = features_by_key(features)
    return task, Encoders(encode_image=encode, encode_text=encode, image_features=encode)


def clusters(spread: float) -> tuple[Tensor, list[int]]:
    generator = torch.Generator().manual_seed(0)
    labels = [i % 4 for i in range(160)]
    centres = torch.randn(4, 12, generator=generator)
    return centres[labels] + spread * torch.randn(160, 12, generator=generator), labels


def test_separable_classes_are_read_out() -> None:
    found = measure_probe(*probe(*clusters(0.1), train=120))
    assert found.figures() == {"acc1": 1.0, "mean_per_class": 1.0, "knn_acc1": 1.0}
    assert found.notes["validation_accuracy"] == 1.0 and found.notes["converged"] and found.notes["neighbours"] == 20
    assert found.chance == {"acc1": 0.25, "mean_per_class": 0.25, "knn_acc1": 0.25}


def test_labels_that_the_features_do_not_hold_give_chance() -> None:
    features, _ = clusters(0.5)
    labels = torch.randint(4, (160,), generator=torch.Generator().manual_seed(1)).tolist()
    assert max(measure_probe(*probe(features, labels, train=120)).figures().values()) < 0.5


def test_scale_and_offset_of_the_features_change_nothing() -> None:
    features, labels = clusters(1.2)
    plain = measure_probe(*probe(features, labels, train=120))
    moved = measure_probe(*probe(features * 300 + 7, labels, train=120))
    assert 0.3 < plain.figures()["acc1"] < 1.0
    assert moved.figures()["acc1"] == plain.figures()["acc1"] and moved.notes == plain.notes


def test_regularisation_stays_on_the_grid() -> None:
    c = measure_probe(*probe(*clusters(1.2), train=120)).notes["inverse_regularisation"]
    assert 10 ** COARSE_LOG10_C[0] <= c <= 10 ** COARSE_LOG10_C[-1]
    steps = np.log10(c) * 8  # an eighth of a decade
    assert abs(steps - round(steps)) < 1e-6


def test_the_probe_is_scikit_learns_at_the_best_c_of_the_grid() -> None:
    """The whole grid of eighths of a decade, by brute force: no better C than the search found, within a few images."""
    features, labels = clusters(1.2)
    found = measure_probe(*probe(features, labels, train=120))
    train, test = features[:120], features[120:]
    scale = (train - train.mean(dim=0)).square().mean().sqrt()
    x, z = (((part - train.mean(dim=0)) / scale).numpy() for part in (train, test))
    y, wanted = np.array(labels[:120]), np.array(labels[120:])
    held_out = _held_out(y)
    fits = (LogisticRegression(C=10.0**c, max_iter=1000).fit(x[~held_out], y[~held_out]) for c in np.arange(-4, 4, 0.5))
    best = max(fit.score(x[held_out], y[held_out]) for fit in fits)
    assert found.notes["validation_accuracy"] >= best - 2 / held_out.sum()
    reference = LogisticRegression(C=found.notes["inverse_regularisation"], max_iter=1000).fit(x, y).predict(z)
    assert found.figures()["acc1"] == pytest.approx(np.mean(reference == wanted))
    assert found.figures()["mean_per_class"] == pytest.approx(balanced_accuracy_score(wanted, reference))


def test_neighbours_vote_as_in_scikit_learn() -> None:
    features, labels = clusters(1.5)
    train, test = (features[:120], torch.tensor(labels[:120])), (features[120:], torch.tensor(labels[120:]))
    reference = KNeighborsClassifier(
        NEIGHBOURS, metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    ).fit(*train)
    wanted = reference.predict(test[0]) == test[1].numpy()
    found = knn_hits(train, test)
    assert found.tolist() == wanted.tolist() and 0.4 < wanted.mean() < 1.0


def test_a_tie_of_votes_is_a_miss_and_few_images_all_vote() -> None:
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 2])
    test = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 2, 3])
    assert knn_hits(train, test).tolist() == [False, True, False]


def test_every_fifth_image_of_a_class_is_held_out() -> None:
    labels = np.array([0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
    assert np.flatnonzero(_held_out(labels)).tolist() == [5, 11]


def test_refuses_what_cannot_be_probed() -> None:
    features, labels = clusters(0.1)
    with pytest.raises(ProclipError, match="two classes"):
        measure_probe(*probe(features, [0] * 160, train=120))
    with pytest.raises(ProclipError, match="no class has 5 training images"):
        measure_probe(*probe(features, labels, train=8))
    with pytest.raises(ProclipError, match="same features"):
        measure_probe(*probe(torch.ones(160, 3), labels, train=120))
