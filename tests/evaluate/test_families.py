"""Zero-shot, retrieval and fine-grained tasks on vectors whose answers can be told by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from torch import Tensor

from proclip.errors import ProclipError
from proclip.evaluate.encoders import Encode, Encoders, encode_distinct
from proclip.evaluate.fine_grained import measure_hard_negatives, measure_pairs, measure_winoground
from proclip.evaluate.kinds import measure
from proclip.evaluate.retrieval import measure_retrieval
from proclip.evaluate.similarity import measure_cka
from proclip.evaluate.tasks import (
    ClassificationTask,
    HardNegativeItem,
    HardNegativesTask,
    PairItem,
    PairsTask,
    ProbeTask,
    RetrievalTask,
    Task,
    WinogroundTask,
)
from proclip.evaluate.zero_shot import measure_classification
from proclip.metrics import interval
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


def numbered(vectors: Tensor) -> Encode:
    """Inputs are numbers, perhaps after a word: rows of `vectors`."""
    return lambda inputs: vectors[[int(one.split()[-1]) for one in inputs]]


def unit(rows: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_zero_shot_counts_over_images_and_over_classes() -> None:
    model = encoders({"1": [1, 0], "2": [1, 0], "3": [1, 0], "4": [1, 0.1]}, {"a cat": [1, 0], "a dog": [0, 1]})
    task = ClassificationTask(
        name="t",
        items=(("1", 0), ("2", 0), ("3", 0), ("4", 1)),
        classnames=("cat", "dog"),
        templates=("a {}",),
        chance=0.5,
    )
    found = measure_classification(task, model)
    assert found.figures() == {"acc1": 0.75, "mean_per_class": 0.5}  # all cats right, the one dog wrong; no acc5 of 2
    assert found.chance == {"acc1": 0.5, "mean_per_class": 0.5}


def test_zero_shot_is_scikit_learns_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    images, classes = unit(200, 12, 0), unit(9, 12, 1)
    labels = [i % 8 for i in range(200)]
    images = F.normalize(images + 0.4 * classes[labels], dim=1)
    model = Encoders(encode_image=numbered(images), encode_text=numbered(classes), image_features=numbered(images))
    task = ClassificationTask(
        name="t",
        items=tuple((str(i), label) for i, label in enumerate(labels)),
        classnames=tuple(map(str, range(9))),
        templates=("{}", "a {}"),
        chance=1 / 9,
    )
    monkeypatch.setattr("proclip.evaluate.zero_shot.CHUNK", 64)
    found = measure_classification(task, model)
    logits = images @ classes.T
    predictions = logits.argmax(dim=1).tolist()
    assert found.figures() == pytest.approx(
        {
            "acc1": accuracy_score(labels, predictions),
            "acc5": top_k_accuracy_score(labels, logits, k=5, labels=range(9)),
            "mean_per_class": np.mean([np.mean([p == t for p, t in zip(predictions, labels, strict=True) if t == c])
                                       for c in range(8)]),
        }
    )  # fmt: skip
    assert found.chance == pytest.approx({"acc1": 1 / 9, "acc5": 5 / 9, "mean_per_class": 1 / 9})


def test_classes_of_one_direction_are_both_wrong_and_the_class_prompt_is_used() -> None:
    model = Encoders(
        encode_image=lookup({"1": [1, 0]}),
        encode_text=lookup({"cat": [0, 1], "feline": [0, 1], "dog": [1, 0]}),
        encode_class=lookup({"cat": [1, 0], "feline": [1, 0], "dog": [0, 1]}),
        image_features=lookup({}),
    )
    task = ClassificationTask(
        name="t", items=(("1", 0),), classnames=("cat", "feline", "dog"), templates=("{}",), chance=1 / 3
    )
    assert measure_classification(task, model).figures()["acc1"] == 0.0
    other = dataclasses.replace(task, classnames=("cat", "dog"))
    assert measure_classification(other, model).figures()["acc1"] == 1.0


def test_retrieval_with_ragged_captions() -> None:
    model = encoders(
        {"1": [1, 0, 0], "2": [0, 1, 0], "3": [0, 0, 1]},
        {"one": [1, 0, 0], "uno": [0.1, 1, 0], "two": [0, 1, 0], "three": [0, 1, 0.5]},
    )
    task = RetrievalTask(name="t", items=(("1", ("one", "uno")), ("2", ("two",)), ("3", ("three",))), chance={})
    measured = measure_retrieval(task, model)
    found = measured.figures()
    assert found["i2t_r@1"] == 1.0  # image 1 by "one", although "uno" is nearer to image 2
    assert found["t2i_r@1"] == 0.5  # "one" and "two" of four captions; the other two land on image 2
    assert found["i2t_r@5"] == found["t2i_r@5"] == 1.0
    assert found["i2t_median_rank"] == 1.0 and found["t2i_median_rank"] == 1.5  # 1, 2, 1, 2
    keys = {f"{way}_{name}" for way in ("i2t", "t2i") for name in ("r@1", "r@5", "r@10", "median_rank")}
    assert set(found) == set(measured.chance) == keys
    clusters = measured.outcomes["t2i_r@5"].clusters
    assert clusters is not None and clusters[0] == clusters[1]  # captions of an image are drawn with it
    assert len(set(clusters.tolist())) == 3
    of_images = measured.outcomes["i2t_r@5"].clusters
    assert of_images is not None and of_images.tolist() == clusters[[0, 2, 3]].tolist()  # and by the same numbers


def test_a_caption_of_two_images_is_right_for_both() -> None:
    model = encoders({"1": [1, 0.1], "2": [1, 0], "3": [0, 1]}, {"flag": [1, 0], "moon": [0, 1]})
    task = RetrievalTask(name="t", items=(("1", ("flag",)), ("2", ("flag",)), ("3", ("moon",))), chance={})
    found = measure_retrieval(task, model).figures()
    assert found["i2t_r@1"] == found["t2i_r@1"] == 1.0


def test_chance_of_retrieval_is_what_random_models_get() -> None:
    """Ragged captions, one of them of two images; against 150 models of random vectors and the hypergeometric law."""
    captions = [("a", "b", "c"), ("d",), ("e", "f", "a"), ("g",), ("h",), ("i", "j"), ("k",), ("l",), ("m",), ("n",)]
    task = RetrievalTask(name="t", items=tuple((str(i), c) for i, c in enumerate(captions)), chance={})
    sums: dict[str, float] = {}
    for seed in range(150):
        texts = dict(zip("abcdefghijklmn", unit(14, 6, 2 * seed).tolist(), strict=True))
        model = Encoders(
            encode_image=numbered(unit(10, 6, 2 * seed + 1)), encode_text=lookup(texts), image_features=lookup({})
        )
        measured = measure_retrieval(task, model)
        for key, value in measured.figures().items():
            sums[key] = sums.get(key, 0.0) + value / 150
    for key, level in measured.chance.items():
        assert sums[key] == pytest.approx(level, abs=0.6 if "median" in key else 0.06), key
    sizes = [3, 1, 3, 1, 1, 2, 1, 1, 1, 1]
    for k in (1, 5, 10):
        wanted = np.mean([1 - math.comb(14 - m, k) / math.comb(14, k) for m in sizes])
        assert measured.chance[f"i2t_r@{k}"] == pytest.approx(wanted, abs=1e-11)
    assert measured.chance["t2i_r@1"] == pytest.approx((13 * 0.1 + 2 * 0.2) / 15)  # "a" is asked for twice


def test_chance_of_one_caption_an_image() -> None:
    items = tuple((str(i), (f"text {i}",)) for i in range(40))
    vectors = numbered(torch.eye(40))
    model = Encoders(encode_image=vectors, encode_text=vectors, image_features=vectors)
    chance = measure_retrieval(RetrievalTask(name="t", items=items, chance={}), model).chance
    for way in ("i2t", "t2i"):
        levels = [chance[f"{way}_{name}"] for name in ("r@1", "r@5", "r@10", "median_rank")]
        assert levels == pytest.approx([1 / 40, 5 / 40, 10 / 40, 20.5])


SENTENCES = ("it is red", "it is blue")


def test_pairs_need_both_images_and_average_over_patterns() -> None:
    model = encoders({"red": [1, 0], "blue": [0, 1], "both": [1, 1]}, {"it is red": [1, 0], "it is blue": [0, 1]})
    task = PairsTask(
        name="pairs",
        items=(
            PairItem(pattern="colour", keys=("red", "blue"), captions=SENTENCES),
            PairItem(pattern="colour", keys=("blue", "red"), captions=SENTENCES),
            PairItem(pattern="state", keys=("red", "both"), captions=SENTENCES),
            PairItem(pattern="other", keys=("red", "blue"), captions=SENTENCES),
        ),
        chance=0.25,
    )
    measured = measure_pairs(task, model)
    assert measured.figures() == {"colour": 0.5, "other": 1.0, "state": 0.0, "mean": 0.5}
    assert measured.notes == {"ties": 1} and measured.chance == dict.fromkeys(measured.outcomes, 0.25)


def test_pairs_compare_statements_or_images() -> None:
    """Both statements prefer their own image, but the second image prefers the first statement."""
    model = encoders({"1": [1, 0], "2": [0.9, 0.43]}, {"it is red": [1, 0], "it is blue": [0.6, 0.8]})
    item = PairItem(pattern="colour", keys=("1", "2"), captions=SENTENCES)
    task = PairsTask(name="pairs", items=(item,), chance=0.25)
    assert measure_pairs(task, model).figures()["mean"] == 0.0
    assert measure_pairs(dataclasses.replace(task, compare="images"), model).figures()["mean"] == 1.0


def test_hard_negatives_ties_are_wrong_and_counted_and_kinds_weigh_the_same() -> None:
    model = encoders({"red": [1, 0]}, {"red": [1, 0], "rouge": [1, 0], "blue": [0, 1]})

    def item(kind: str, negative: str, caption: str = "red") -> HardNegativeItem:
        return HardNegativeItem(kind=kind, key="red", caption=caption, negative=negative)

    items = (item("swap", "blue"), item("swap", "rouge"), item("add", "blue"), item("drop", "red", "blue"))
    found = measure_hard_negatives(HardNegativesTask(name="h", items=items, chance=0.5), model)
    assert found.figures() == {"add": 1.0, "drop": 0.0, "swap": 0.5, "mean": 0.5}
    assert found.notes == {"ties": 1} and found.chance["swap"] == 0.5


def test_winoground_scores_are_the_published_ones() -> None:
    images, texts = unit(60, 4, 3), unit(60, 4, 4)
    images = F.normalize(images + texts, dim=1)
    items = tuple(
        PairItem(pattern=("Object", "Relation")[i % 2], keys=(str(2 * i), str(2 * i + 1)),
                 captions=(f"text {2 * i}", f"text {2 * i + 1}"))
        for i in range(30)
    )  # fmt: skip
    model = Encoders(encode_image=numbered(images), encode_text=numbered(texts), image_features=numbered(images))
    measured = measure_winoground(WinogroundTask(name="w", items=items), model)
    s = (images.double() @ texts.double().T).float()
    right: dict[str, list[bool]] = {"text": [], "image": [], "group": []}
    for i in range(30):
        a, b = 2 * i, 2 * i + 1  # s[image, caption]
        right["text"].append(bool(s[a, a] > s[a, b] and s[b, b] > s[b, a]))
        right["image"].append(bool(s[a, a] > s[b, a] and s[b, b] > s[a, b]))
        right["group"].append(right["text"][-1] and right["image"][-1])
    wanted = {key: np.mean(hits) for key, hits in right.items()}
    wanted |= {f"Object/{key}": np.mean(hits[::2]) for key, hits in right.items()}
    wanted |= {f"Relation/{key}": np.mean(hits[1::2]) for key, hits in right.items()}
    assert measured.figures() == pytest.approx(wanted)
    assert measured.chance["Object/group"] == pytest.approx(1 / 6) and set(measured.chance) == set(wanted)
    assert measured.notes == {"ties": 0}


def test_winoground_ties_are_wrong_and_counted() -> None:
    model = encoders({"1": [1, 0], "2": [1, 0]}, {"it is red": [1, 0], "it is blue": [0, 1]})
    item = PairItem(pattern="", keys=("1", "2"), captions=SENTENCES)
    measured = measure_winoground(WinogroundTask(name="w", items=(item,)), model)
    assert measured.figures() == {"text": 0.0, "image": 0.0, "group": 0.0} and measured.notes == {"ties": 1}


def test_cka_of_any_two_encoders_has_an_interval() -> None:
    features = torch.randn(700, 8, generator=torch.Generator().manual_seed(5))
    wider = torch.cat([features, torch.randn(700, 8, generator=torch.Generator().manual_seed(6))], dim=1)
    keys = [str(i) for i in range(700)]
    measured = measure_cka(keys, numbered(features), numbered(wider))
    low, high = interval(measured.outcomes["cka"])
    assert low - 0.01 < 2**-0.5 < high + 0.01 and 0 < high - low < 0.1  # half of the directions: 1 / sqrt(2)
    assert measured.notes == {"batches": 10, "images": 700}
    assert measure_cka(keys, numbered(features), numbered(3 * features)).figures()["cka"] == pytest.approx(1.0)


def test_measure_takes_every_kind() -> None:
    vectors = numbered(torch.eye(8))
    model = Encoders(encode_image=vectors, encode_text=vectors, image_features=vectors)
    pair = PairItem(pattern="p", keys=("0", "1"), captions=("text 0", "text 1"))
    rows = (("0", 0), ("1", 1))
    tasks: dict[str, Task] = {
        "mean_per_class": ClassificationTask(
            name="c", items=rows, classnames=("0", "1"), templates=("{}",), chance=0.5
        ),
        "t2i_r@1": RetrievalTask(name="r", items=(("0", ("text 0",)), ("1", ("text 1",))), chance={}),
        "p": PairsTask(name="p", items=(pair,), chance=0.25),
        "k": HardNegativesTask(
            name="h", items=(HardNegativeItem(kind="k", key="0", caption="text 0", negative="text 1"),), chance=0.5
        ),
        "group": WinogroundTask(name="w", items=(pair,)),
        "acc1": ProbeTask(name="p", train=rows * 5, test=rows, classnames=("0", "1"), chance=0.5),
    }
    for key, task in tasks.items():
        assert measure(task, model).figures()[key] == 1.0, key


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
