"""CLIP_benchmark's files in and out, written here as its command line writes them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from made_up_results import model

from proclip.errors import ProclipError
from proclip.report import make_tables
from proclip.report.clip_benchmark import read_clip_benchmark, write_clip_benchmark
from proclip.report.compared import Compared
from proclip.report.names import KINDS, LANGUAGES
from proclip.results import ModelResults, load_results


def entry(
    dataset: str, task: str, metrics: dict[str, Any], language: str = "en", name: str = "ViT-B-32"
) -> dict[str, Any]:
    return {
        "dataset": dataset, "model": name, "pretrained": "openai", "task": task, "metrics": metrics,
        "language": language,
    }  # fmt: skip


RETRIEVAL = "zeroshot_retrieval"
PROBE = {"lp_acc1": 0.95, "lp_acc5": float("nan"), "lp_mean_per_class_recall": 0.95, "weight_decay": 0.1}
ENTRIES = [
    entry("wds/food101", "zeroshot_classification", {"acc1": 0.84, "acc5": 0.97, "mean_per_class_recall": 0.83}),
    entry("wds/vtab/pets", "zeroshot_classification", {"acc1": 0.87, "acc5": 0.99, "mean_per_class_recall": 0.86}),
    entry("wds/mscoco_captions", RETRIEVAL, {"image_retrieval_recall@5": 0.56, "text_retrieval_recall@5": 0.75}),
    entry("wds/imagenet_sketch", "zeroshot_classification", {"acc1": 0.42}),
    entry("wds/country211", "zeroshot_classification", {"acc1": 0.17, "acc5": 0.39, "mean_per_class_recall": 0.17}),
    entry("crossmodal3600", RETRIEVAL, {"image_retrieval_recall@1": 0.2, "text_retrieval_recall@1": 0.3}, "de"),
    entry("sugar_crepe/add_obj", "image_caption_selection", {"acc": 0.77}),
    entry("winoground", "image_caption_selection", {"image_acc": 0.1, "text_acc": 0.3, "group_acc": 0.08}),
    entry("cifar10", "linear_probe", PROBE),
    entry("wds/food101", "zeroshot_classification", {"acc1": 0.9}, name="ViT-L-14"),
]  # fmt: skip
EXPECTED = {
    "food101/acc1": 0.84, "food101/acc5": 0.97, "food101/mean_per_class": 0.83, "pets/mean_per_class": 0.86,
    "coco/t2i_r@5": 0.56, "coco/i2t_r@5": 0.75, "imagenet_sketch/acc1": 0.42, "country211/acc1": 0.17,
    "xm3600/de/t2i_r@1": 0.2, "xm3600/de/i2t_r@1": 0.3, "sugarcrepe/add_obj": 0.77, "winoground/image": 0.1,
    "winoground/text": 0.3, "winoground/group": 0.08, "probe-cifar10/acc1": 0.95, "probe-cifar10/mean_per_class": 0.95,
}  # fmt: skip


def check(models: list[ModelResults]) -> None:
    assert [one.name for one in models] == ["ViT-B-32 openai", "ViT-L-14 openai"]
    for key, value in EXPECTED.items():
        figure = models[0].figure(key)
        assert figure is not None and figure.value == pytest.approx(value), key
        assert math.isnan(figure.low) and figure.n == 0
    assert set(models[0].benchmarks["probe-cifar10"].figures) == {"acc1", "mean_per_class"}


def test_json_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.json" for i in range(len(ENTRIES))]
    for path, values in zip(paths, ENTRIES, strict=True):
        path.write_text(json.dumps(values))
    check(read_clip_benchmark(paths))


def test_csv_of_its_build(tmp_path: Path) -> None:
    rows = []
    for one in ENTRIES:
        row = {**one["metrics"], **one, "model_fullname": f"{one['model']} {one['pretrained']}"}
        del row["metrics"]
        rows.append(row)
    path = tmp_path / "benchmark.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    check(read_clip_benchmark([path]))


def test_means_only_where_all_parts_are_there(tmp_path: Path) -> None:
    def written(entries: list[dict[str, Any]]) -> ModelResults:
        paths = [tmp_path / f"{i}.json" for i in range(len(entries))]
        for path, values in zip(paths, entries, strict=True):
            path.write_text(json.dumps(values))
        return read_clip_benchmark(paths)[0]

    kinds = [entry(f"sugar_crepe/{k}", "image_caption_selection", {"acc": i / 10}) for i, k in enumerate(KINDS)]
    ways = [entry("crossmodal3600", RETRIEVAL, {"image_retrieval_recall@1": 0.5}, code) for code in LANGUAGES]
    full, part = written(kinds + ways), written(kinds[1:] + ways[1:])
    mean = full.figure("sugarcrepe/mean")
    assert mean is not None and mean.value == pytest.approx(0.3)
    assert full.figure("xm3600/mean/t2i_r@1") is not None
    assert part.figure("sugarcrepe/mean") is None and part.figure("xm3600/mean/t2i_r@1") is None


def test_beside_ours_without_marks(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ENTRIES[0]))
    ours = model("ours", 1, 0.5, 0.6, items=20, mini=False, paper=True, resamples=5)
    table = next(t for t in make_tables(Compared([ours, *read_clip_benchmark([path])])) if t.name == "zero-shot")
    cell = table.rows[1].cells[0]
    assert (cell.text, cell.aside, cell.mark) == ("84.0", "", "") and cell.best
    assert any("ViT-B-32 openai; what each item scored is not known" in note for note in table.notes)


def test_ours_out_and_in_again(tmp_path: Path) -> None:
    ours = model("ours", 1, 0.5, 0.6, items=20, paper=True, resamples=5)
    paths = write_clip_benchmark(ours, tmp_path)
    fields = {"dataset", "model", "pretrained", "task", "metrics", "language"}
    contents = [json.loads(path.read_text()) for path in paths]
    assert all(set(content) == fields for content in contents)
    assert {c["dataset"] for c in contents} >= {
        "food101",
        "vtab/pets",
        "mscoco_captions",
        "crossmodal3600",
        "sugar_crepe/swap_obj",
    }
    (back,) = read_clip_benchmark(paths)
    for name, result in ours.benchmarks.items():
        if name in ("mini-world", "mmvp_vlm"):
            continue
        for key, figure in result.figures.items():
            again = back.figure(f"{name}/{key}")
            assert again is not None, (name, key)
            if not key.startswith("mean/") and key != "mean":
                assert again.value == figure.value


def test_figures_without_an_interval_survive_a_result_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ENTRIES[0]))
    (read,) = read_clip_benchmark([path])
    read.save(tmp_path / "model.json")
    assert "NaN" not in (tmp_path / "model.json").read_text()
    figure = load_results(tmp_path / "model.json").figure("food101/acc1")
    assert figure is not None and figure.value == 0.84 and math.isnan(figure.low) and math.isnan(figure.high)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", "lacks dataset, model, pretrained, task, metrics"),
        ("a.json", json.dumps(entry("x", "zeroshot_classification", {"acc1": "high"})), "acc1 must be a number"),
        ("a.csv", "dataset,model\nx,y\n", "line 2 lacks pretrained, task"),
        ("a.txt", "", "are .json or .csv"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ProclipError, match=message) as error:
        read_clip_benchmark([tmp_path / name])
    assert str(tmp_path / name) in str(error.value)
    with pytest.raises(ProclipError, match="missing"):
        read_clip_benchmark([tmp_path / "none.csv"])
