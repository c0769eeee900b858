from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proclip.errors import ProclipError
from proclip.evaluate import Encoders, chance_levels, evaluated_images, load_tasks, run_suite
from proclip.evaluate.similarity import cka_to_reference

COUNT = 12
CHANCE = {"r@1": 1 / COUNT, "r@5": 5 / COUNT, "r@10": 10 / COUNT}


def index_of(text: str) -> int:
    """Images and texts of this world are numbered; the number is what they mean."""
    return int(text.split("/")[-1].split()[-1])


def perfect(inputs: Sequence[str]) -> Tensor:
    return torch.eye(100)[[index_of(i) for i in inputs]]


def blind(inputs: Sequence[str]) -> Tensor:
    rows = [torch.randn(100, generator=torch.Generator().manual_seed(hash_of(i))) for i in inputs]
    return F.normalize(torch.stack(rows), dim=-1)


def hash_of(text: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(text)) % 2**31


def retrieval(name: str, word: str) -> dict[str, Any]:
    items = [[f"a/{i}", [f"{word} {i}"]] for i in range(COUNT)]
    return {"task": "retrieval", "name": name, "items": items, "chance": CHANCE}


@pytest.fixture(scope="module")
def tasks_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    classnames = ["class 0", "class 1", "class 2"]
    probe_rows = [[f"a/{c}", c] for c in range(3)]  # an image of this world is the same as its class
    files: list[dict[str, Any]] = [
        {"task": "classification", "name": "zero_shot_openmoji", "items": probe_rows, "classnames": ["0", "1", "2"],
         "templates": ["a drawing of {}", "picture of {}"], "chance": 1 / 3},
        retrieval("retrieval_short", "short"), retrieval("multilingual_en", "en"),
        retrieval("multilingual_de", "de"), retrieval("multilingual_ja", "ja"),
        {"task": "pairs", "name": "pairs", "chance": 0.25,
         "items": [{"pattern": "count", "keys": ["a/1", "a/2"], "captions": ["has 1", "has 2"]}]},
        {"task": "hard_negatives", "name": "hard_negatives", "chance": 0.5,
         "items": [{"kind": "swap", "key": "a/1", "caption": "has 1", "negative": "has 2"}]},
        {"task": "probe", "name": "linear_probe_openmoji", "chance": 1 / 3, "classnames": classnames,
         "train": [[f"train{i}/{c}", c] for i in range(6) for c in range(3)],
         "test": [[f"test/{c}", c] for c in range(3)]},
    ]  # fmt: skip
    for values in files:
        (folder / f"{values['name']}.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def model(encode: Any) -> Encoders:
    return Encoders(encode_image=encode, encode_text=encode, image_features=encode)


def expected_keys() -> set[str]:
    sets = ("retrieval_short", "multilingual/en", "multilingual/de", "multilingual/ja")
    return {f"{s}/{way}_r@{k}" for s in sets for way in ("i2t", "t2i") for k in (1, 5, 10)} | {
        "zero_shot/openmoji", "multilingual/mean", "pairs/count", "pairs/mean", "hard_negatives/swap",
        "hard_negatives/mean", "linear_probe/openmoji",
    }  # fmt: skip


def test_a_perfect_model_is_right_everywhere(tasks_dir: Path) -> None:
    figures = run_suite(tasks_dir, model(perfect), reference_features=perfect)
    assert set(figures) == expected_keys() | {"cka"}
    assert all(abs(value - 1) < 1e-5 for value in figures.values()), figures


def test_a_blind_model_is_not(tasks_dir: Path) -> None:
    figures = run_suite(tasks_dir, model(blind), reference_features=perfect)
    assert figures["multilingual/mean"] < 0.5 and abs(figures["cka"]) < 0.5


def test_the_mean_over_languages_leaves_english_out(tasks_dir: Path) -> None:
    def reads_english_and_german(texts: Sequence[str]) -> Tensor:
        known = torch.tensor([[float(t.startswith(("en", "de")))] for t in texts])
        return perfect(texts) * known + blind(texts) * (1 - known)

    encoders = Encoders(encode_image=perfect, encode_text=reads_english_and_german, image_features=perfect)
    figures = run_suite(tasks_dir, encoders, tasks=["multilingual_en", "multilingual_de", "multilingual_ja"])
    german, japanese = figures["multilingual/de/t2i_r@1"], figures["multilingual/ja/t2i_r@1"]
    assert german == 1.0 and japanese < 1.0 and figures["multilingual/en/t2i_r@1"] == 1.0
    assert figures["multilingual/mean"] == pytest.approx((german + japanese) / 2)


def test_only_the_tasks_asked_for(tasks_dir: Path) -> None:
    assert set(run_suite(tasks_dir, model(perfect), tasks=["pairs"])) == {"pairs/count", "pairs/mean"}
    with pytest.raises(ProclipError, match="no task 'pair'"):
        run_suite(tasks_dir, model(perfect), tasks=["pair"])


def test_a_probe_that_was_measured_is_not_measured_again(tasks_dir: Path) -> None:
    probed = {"linear_probe/openmoji": 0.125}
    assert run_suite(tasks_dir, model(perfect), tasks=["linear_probe_openmoji"], probed=probed) == probed
    assert run_suite(tasks_dir, model(perfect), tasks=["linear_probe_openmoji"])["linear_probe/openmoji"] == 1.0


def test_chance_has_a_level_for_every_figure(tasks_dir: Path) -> None:
    levels = chance_levels(tasks_dir)
    assert set(levels) == expected_keys()
    assert levels["multilingual/mean"] == pytest.approx(1 / COUNT) and levels["pairs/mean"] == 0.25
    assert levels["retrieval_short/i2t_r@5"] == pytest.approx(5 / COUNT)


def test_evaluated_images_leave_out_what_the_probe_is_fitted_on(tasks_dir: Path) -> None:
    keys = evaluated_images(load_tasks(tasks_dir))
    assert keys == sorted({f"a/{i}" for i in range(COUNT)} | {f"test/{c}" for c in range(3)})


def test_cka_falls_as_the_tower_moves() -> None:
    keys = [f"a/{i}" for i in range(40)]
    start = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    other = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))

    def tower(share: float) -> Any:
        return lambda inputs: ((1 - share) * start + share * other)[[index_of(i) for i in inputs]]

    values = [cka_to_reference(keys, tower(share), tower(0.0)) for share in (0.0, 0.3, 0.6, 1.0)]
    assert values[0] == pytest.approx(1.0, abs=1e-5) and values == sorted(values, reverse=True)
    assert abs(values[-1]) < 0.2
