"""The quickstart's summary: ``results.json`` has the keys that others read."""

from __future__ import annotations

from proclip.mini.concepts import LANGUAGES
from proclip.results import BenchmarkResult, Figure, ModelResults
from proclip.runs.quickstart import summary

KEYS = {
    "zero_shot/openmoji", "zero_shot/twemoji", "retrieval_short/i2t_r@1", "retrieval_short/t2i_r@1",
    "retrieval_long/i2t_r@1", "retrieval_long/t2i_r@1", "multilingual/mean", "pairs/mean", "hard_negatives/mean",
    "linear_probe/openmoji", "cka", *(f"multilingual/{language}/t2i_r@1" for language in LANGUAGES),
}  # fmt: skip


def results(figures: dict[str, float]) -> ModelResults:
    world = BenchmarkResult(
        name="mini-world", task="world", headline=(), protocol="", data={}, prompts=None,
        figures={key: Figure(value=value, low=value, high=value, n=1) for key, value in figures.items()},
        seconds=1.0, images_per_second=None, texts_per_second=None,
        notes={"name": "mini-world", "version": "1", "checksum": "c", "cka": {"batches": 1}},
    )  # fmt: skip
    return ModelResults(name="m", model={}, environment={}, benchmarks={"mini-world": world})


def test_the_summary_names_the_main_figures_of_every_method() -> None:
    measured = {
        "zero_shot/openmoji/mean_per_class": 0.1, "zero_shot/openmoji/acc1": 0.9,
        "zero_shot/twemoji/mean_per_class": 0.2,
        "retrieval_short/i2t_r@1": 0.3, "retrieval_short/t2i_r@1": 0.4, "retrieval_long/i2t_r@1": 0.5,
        "retrieval_long/t2i_r@1": 0.6, "multilingual/mean/t2i_r@1": 0.7, "pairs/mean": 0.8, "hard_negatives/mean": 0.85,
        "linear_probe/openmoji/acc1": 0.9, "linear_probe/openmoji/knn_acc1": 0.1, "cka": 0.95,
        **{f"multilingual/{language}/t2i_r@1": 0.01 * place for place, language in enumerate(LANGUAGES)},
    }  # fmt: skip
    found = summary({"clip": results(measured), "proclip": results({"pairs/mean": 0.5})}, 3, {"embed": 1.5})
    assert found["benchmark"] == {"name": "mini-world", "version": "1", "checksum": "c"}
    assert (found["seed"], found["seconds"]) == (3, {"embed": 1.5})
    of_clip = found["methods"]["clip"]
    assert set(of_clip) == KEYS
    assert (of_clip["zero_shot/openmoji"], of_clip["multilingual/mean"], of_clip["linear_probe/openmoji"]) == (
        0.1,
        0.7,
        0.9,
    )
    assert found["methods"]["proclip"] == {"pairs/mean": 0.5}  # a short form measures a part
