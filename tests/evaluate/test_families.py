"""Zero-shot, retrieval and fine-grained tasks on vectors whose answers can be told by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proclip.errors import ProclipError
from proclip.evaluate.encoders import Encode, Encoders, encode_distinct
from proclip.evaluate.fine_grained import hard_negative_accuracies, pair_accuracies
from proclip.evaluate.retrieval import retrieval_recall
from proclip.evaluate.tasks import (
    ClassificationTask,
    HardNegativeItem,
    HardNegativesTask,
    PairItem,
    PairsTask,
    RetrievalTask,
)
from proclip.evaluate.zero_shot import zero_shot_accuracy
from proclip.models.zero_shot import build_zero_shot_classifier


def lookup(vectors: Mapping[str, Sequence[float]]) -> Encode:
    def encode(inputs: Sequence[str]) -> Tensor:
        return F.normalize(torch.tensor([list(vectors[i]) for i in inputs], dtype=torch.float32), dim=-1)

    return encode


def encoders(images: Mapping[str, Sequence[float]], texts: Mapping[str, Sequence[float]]) -> Encoders:
    return Encoders(encode_image=lookup(images), encode_text=lookup(texts), image_features=lookup(images))


def test_zero_shot_classifier_is_the_normalised_mean_of_prompts() -> None:
    texts = lookup({"a cat": [1, 0, 0], "the cat": [0, 1, 0], "a dog": [0, 0, 1], "the dog": [0, 0, 5]})
    classifier = build_zero_shot_classifier(texts, ["cat", "dog"], ["a {}", "the {}"])
    expected = torch.tensor([[0.5**0.5, 0.5**0.5, 0.0], [0.0, 0.0, 1.0]]).T
    torch.testing.assert_close(classifier, expected)


def test_zero_shot_is_the_mean_over_classes_not_over_images() -> None:
    model = encoders({"1": [1, 0], "2": [1, 0], "3": [1, 0], "4": [1, 0.1]}, {"a cat": [1, 0], "a dog": [0, 1]})
    task = ClassificationTask(
        name="t",
        items=(("1", 0), ("2", 0), ("3", 0), ("4", 1)),
        classnames=("cat", "dog"),
        templates=("a {}",),
        chance=0.5,
    )
    assert zero_shot_accuracy(task, model) == 0.5  # all cats right, the one dog wrong; over images it were 0.75


def test_retrieval_with_ragged_captions() -> None:
    model = encoders(
        {"1": [1, 0, 0], "2": [0, 1, 0], "3": [0, 0, 1]},
        {"one": [1, 0, 0], "uno": [0.1, 1, 0], "two": [0, 1, 0], "three": [0, 1, 0.5]},
    )
    task = RetrievalTask(
        name="t", items=(("1", ("one", "uno")), ("2", ("two",)), ("3", ("three",))), chance={1: 0.3, 5: 1.0, 10: 1.0}
    )
    found = retrieval_recall(task, model)
    assert found["i2t_r@1"] == 1.0  # image 1 by "one", although "uno" is nearer to image 2
    assert found["t2i_r@1"] == 0.5  # "one" and "two" of four captions; the other two land on image 2
    assert found["i2t_r@5"] == found["t2i_r@5"] == 1.0
    assert set(found) == {f"{way}_r@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)}


def test_a_caption_of_two_images_is_right_for_both() -> None:
    model = encoders({"1": [1, 0.1], "2": [1, 0], "3": [0, 1]}, {"flag": [1, 0], "moon": [0, 1]})
    task = RetrievalTask(name="t", items=(("1", ("flag",)), ("2", ("flag",)), ("3", ("moon",))), chance={1: 0.3})
    found = retrieval_recall(task, model, ks=(1,))
    assert found == {"i2t_r@1": 1.0, "t2i_r@1": 1.0}


def test_pairs_need_both_images_and_average_over_patterns() -> None:
    model = encoders({"red": [1, 0], "blue": [0, 1], "both": [1, 0.9]}, {"it is red": [1, 0], "it is blue": [0, 1]})
    sentences = ("it is red", "it is blue")
    task = PairsTask(
        name="pairs",
        items=(
            PairItem(pattern="colour", keys=("red", "blue"), captions=sentences),
            PairItem(pattern="colour", keys=("blue", "red"), captions=sentences),
            PairItem(pattern="state", keys=("red", "both"), captions=sentences),
            PairItem(pattern="other", keys=("red", "blue"), captions=sentences),
        ),
        chance=0.25,
    )
    found = pair_accuracies(task, model)
    assert found == {"colour": 0.5, "other": 1.0, "state": 0.0, "mean": 0.5}


def test_hard_negatives_ties_are_wrong_and_kinds_weigh_the_same() -> None:
    model = encoders({"red": [1, 0]}, {"red": [1, 0], "rouge": [1, 0], "blue": [0, 1]})

    def item(kind: str, negative: str, caption: str = "red") -> HardNegativeItem:
        return HardNegativeItem(kind=kind, key="red", caption=caption, negative=negative)

    items = (item("swap", "blue"), item("swap", "rouge"), item("add", "blue"), item("drop", "red", "blue"))
    found = hard_negative_accuracies(HardNegativesTask(name="h", items=items, chance=0.5), model)
    assert found == {"add": 1.0, "drop": 0.0, "swap": 0.5, "mean": 0.5}


def test_encode_distinct_encodes_once_and_keeps_the_order() -> None:
    asked: list[list[str]] = []

    def encode(inputs: Sequence[str]) -> Tensor:
        asked.append(list(inputs))
        return torch.tensor([[float(i)] for i in inputs], dtype=torch.float64)

    vectors = encode_distinct(encode, ["2", "1", "2"])
    assert asked == [["2", "1"]] and vectors.tolist() == [[2.0], [1.0], [2.0]] and vectors.dtype == torch.float32


def test_encode_distinct_refuses_wrong_vectors() -> None:
    with pytest.raises(ProclipError, match=r"shape \[1, 3\] for 2 inputs"):
        encode_distinct(lambda inputs: torch.zeros(1, 3), ["a", "b"])
    with pytest.raises(ProclipError, match="not finite for 'b'"):
        encode_distinct(lambda inputs: torch.tensor([[0.0], [float("nan")]]), ["a", "b"])
