from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from proclip.errors import ProclipError
from proclip.evaluate.encoders import Encode, Encoders
from proclip.evaluate.probe import COARSE_LOG10_C, _held_out, linear_probe
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
    result = linear_probe(*probe(*clusters(0.1), train=120))
    assert result.accuracy == 1.0 and result.validation_accuracy == 1.0 and result.converged


def test_labels_that_the_features_do_not_hold_give_chance() -> None:
    features, _ = clusters(0.5)
    labels = torch.randint(4, (160,), generator=torch.Generator().manual_seed(1)).tolist()
    assert linear_probe(*probe(features, labels, train=120)).accuracy < 0.5


def test_scale_and_offset_of_the_features_change_nothing() -> None:
    features, labels = clusters(1.2)
    plain = linear_probe(*probe(features, labels, train=120))
    moved = linear_probe(*probe(features * 300 + 7, labels, train=120))
    assert 0.3 < plain.accuracy < 1.0
    assert moved.accuracy == plain.accuracy and moved.inverse_regularisation == plain.inverse_regularisation


def test_regularisation_stays_on_the_grid() -> None:
    result = linear_probe(*probe(*clusters(1.2), train=120))
    assert 10 ** COARSE_LOG10_C[0] <= result.inverse_regularisation <= 10 ** COARSE_LOG10_C[-1]
    steps = np.log10(result.inverse_regularisation) * 8
    assert abs(steps - round(steps)) < 1e-6


def test_every_fifth_image_of_a_class_is_held_out() -> None:
    labels = np.array([0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
    assert np.flatnonzero(_held_out(labels)).tolist() == [5, 11]


def test_refuses_what_cannot_be_probed() -> None:
    features, labels = clusters(0.1)
    with pytest.raises(ProclipError, match="two classes"):
        linear_probe(*probe(features, [0] * 160, train=120))
    with pytest.raises(ProclipError, match="no class has 5 training images"):
        linear_probe(*probe(features, labels, train=8))
    with pytest.raises(ProclipError, match="same features"):
        linear_probe(*probe(torch.ones(160, 3), labels, train=120))
