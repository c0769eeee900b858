"""Result files of one name and several seeds: each seed in the tables, mean and deviation in the ablation's."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from pathlib import Path

import pytest
from made_up_results import benchmark

from proclip.errors import ProclipError
from proclip.results import ModelResults
from proclip.results.gallery import Gallery, gallery_path
from proclip.runs.report import report_command, write_report_of


def saved(folder: Path, name: str, seed: int | None, share: float, file: str) -> ModelResults:
    one = benchmark("coco", "retrieval", {"i2t_r@1": share, "t2i_r@1": share}, seed or 0, 60, resamples=5)
    results = ModelResults(name=name, model={"seed": seed}, environment={}, benchmarks={"coco": one})
    results.save(folder / file)
    return results


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_seeds_of_one_name_are_a_setting(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    saved(folder, "CLIP", None, 0.2, "clip.json")
    seeds = [saved(folder, "ours", seed, 0.5 + 0.1 * seed, f"ours-{seed}.json") for seed in range(3)]
    report_command([folder], tmp_path / "r.csv", reference="ours")
    found = rows(tmp_path / "r.csv")
    shown = [row for row in found if row["table"] == "retrieval" and row["label"] == "I→T"]
    names = [row["model"] for row in shown if row["model"] != "Chance"]
    assert names == ["CLIP", "ours, seed 0", "ours, seed 1", "ours, seed 2"]
    assert [bool(row["difference"]) for row in shown][:4] == [True, False, True, True]
    (mean,) = (r for r in found if (r["table"], r["model"], r["label"]) == ("ablation", "ours", "I→T"))
    values = [one.benchmarks["coco"].figures["i2t_r@1"].value for one in seeds]
    assert float(mean["value"]) == pytest.approx(statistics.fmean(values))
    assert float(mean["seed_deviation"]) == pytest.approx(statistics.stdev(values))
    assert {row["model"] for row in found if row["table"] == "ablation"} == {"CLIP", "ours"}


def test_a_gallery_is_of_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        saved(tmp_path, "ours", seed, 0.5, f"ours-{seed}.json")
        Gallery(name="ours", pictures={}).save(gallery_path(tmp_path / f"ours-{seed}.json"))
    shown: list[Gallery] = []
    monkeypatch.setattr("proclip.runs.report.write_report", lambda *_, galleries, **__: shown.extend(galleries))
    write_report_of([tmp_path / "ours-0.json", tmp_path / "ours-1.json"], tmp_path / "r.md")
    assert [gallery.name for gallery in shown] == ["ours, seed 0", "ours, seed 1"]


@pytest.mark.parametrize("seeds", [(0, 0), (None, None), (None, 1)])
def test_one_name_without_different_seeds_is_an_error(tmp_path: Path, seeds: tuple[int | None, int | None]) -> None:
    for place, seed in enumerate(seeds):
        one = saved(tmp_path, "ours", seed, 0.5, f"{place}.json")
        dataclasses.replace(one, model={"seed": seed, "identity": place}).save(tmp_path / f"{place}.json")
    with pytest.raises(ProclipError, match="two results are called 'ours'"):
        report_command([tmp_path / "0.json", tmp_path / "1.json"], tmp_path / "r.md", reference=None)
