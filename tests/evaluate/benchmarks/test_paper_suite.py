"""Every row of the paper's tables from files in their authors' formats: evaluated, compared, reported, by processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import published_files
import pytest
from test_classification import NAMES, write_set
from test_fine_grained import sugarcrepe_files, write_mmvp, write_sugarcrepe

from proclip.cli import main
from proclip.evaluate.benchmarks import ENTRIES, SUITES
from proclip.evaluate.benchmarks.classification import ELEVEN, ROBUSTNESS
from proclip.results import load_results

WITHOUT_PROBES = ",".join(name for name in SUITES["paper"] if name not in SUITES["probes"])
"""A probe takes a second, however small its set: one model's are enough."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a little of every set of the paper."""
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate((*ELEVEN, *ROBUSTNESS)):
        labels = [(number + row) % len(NAMES) for row in range(9)]
        write_set(folder / ENTRIES[name].folder, labels)
        if name in ELEVEN:  # the probe's
            write_set(folder / ENTRIES[name].folder, [row % len(NAMES) for row in range(24)], split="train")
    published_files.make_flickr(folder)
    published_files.make_coco(folder)
    published_files.make_sharegpt4v(folder, rows=5)
    for number in range(5):
        published_files.picture(folder / "sharegpt4v" / "sam" / "images" / f"sa_{number}.jpg", number)
    published_files.make_urban(folder)
    published_files.make_docci(folder)
    published_files.make_dci(folder)
    published_files.make_xm3600(folder)
    write_mmvp(folder / ENTRIES["mmvp_vlm"].folder)
    write_sugarcrepe(folder / "sugarcrepe", sugarcrepe_files(), folder / "sugarcrepe" / "val2017")
    return folder


def test_the_paper_suite(
    root: Path, tmp_path: Path, tiny_clip_path: Path, tiny_proclip_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data-root", str(root), "--cache", str(tmp_path / "cache")]
    assert main(["eval", str(tiny_clip_path), "--suite", "paper", *options]) == 2  # nothing runs on half of a set
    said = capsys.readouterr().err
    assert "no model was run" in said and "25,250" in said and "instead of 5,000" in said
    files = []
    for name, model, suite in (("clip", tiny_clip_path, WITHOUT_PROBES), ("ours", tiny_proclip_path, "paper")):
        files.append(tmp_path / f"{name}.json")
        command = ["eval", str(model), "--suite", suite, "--partial", *options, "--out", str(files[-1])]
        assert main([*command, "--gallery"] if name == "ours" else command) == 0
    ours = load_results(files[1])
    assert set(ours.benchmarks) == set(SUITES["paper"])
    for result in ours.benchmarks.values():
        assert not result.data["complete"] and result.data["checksum"] and result.protocol
        assert set(result.headline) <= set(result.figures)
        for figure in result.figures.values():
            assert figure.low <= figure.value <= figure.high or result.task == "winoground"
    assert ours.benchmarks["coco"].data["texts"] == 23
    assert {"de/t2i_r@1", "mean/t2i_r@1"} <= set(ours.benchmarks["xm3600"].figures)
    assert {"add", "replace", "swap", "mean"} <= set(ours.benchmarks["sugarcrepe"].figures)
    assert {"acc1", "knn_acc1"} <= set(ours.benchmarks["probe-dtd"].figures)
    capsys.readouterr()
    assert main(["eval", "--compare", *map(str, files)]) == 0
    assert "flickr30k/t2i_r@1" in capsys.readouterr().out.replace("\n", "")
    for name in ("page.html", "tables.md", "tables.tex", "tables.csv", "figures"):
        assert main(["report", *map(str, files), "-o", str(tmp_path / name)]) == 0
    swept = [*files, *tmp_path.glob("*.gallery.json")]  # as the shell's *.json gives them
    assert len(swept) == 3 and main(["report", *map(str, swept), "-o", str(tmp_path / "swept.md")]) == 0
    assert (tmp_path / "swept.md").read_text() == (tmp_path / "tables.md").read_text()
    tables = (tmp_path / "tables.md").read_text()
    for wanted in ("Food101", "IN-Sketch", "Urban-1k", "DCI", "Swahili", "SugarCrepe", "Orientation"):
        assert wanted.lower() in tables.lower(), wanted
    assert list((tmp_path / "figures").glob("*.svg")) and list((tmp_path / "figures").glob("*.png"))
    assert main(["report", str(files[0]), "--clip-benchmark", "-o", str(tmp_path / "cb")]) == 0
    theirs = sorted((tmp_path / "cb").glob("*.json"))
    assert main(["report", str(files[1]), *map(str, theirs), "-o", str(tmp_path / "both.md")]) == 0


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(root: Path, tmp_path: Path, tiny_clip_path: Path) -> None:
    command = [
        "eval",
        str(tiny_clip_path),
        "--suite",
        "flickr30k,mmvp_vlm,food101",
        "--partial",
        "--data-root",
        str(root),
    ]
    assert main([*command, "--cache", str(tmp_path / "a"), "--out", str(tmp_path / "one.json")]) == 0
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "proclip.cli"]
    two = [*run, *command, "--cache", str(tmp_path / "b"), "--out", str(tmp_path / "two.json")]
    done = subprocess.run(two, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr
    one, other = load_results(tmp_path / "one.json"), load_results(tmp_path / "two.json")
    assert {n: b.figures for n, b in one.benchmarks.items()} == {n: b.figures for n, b in other.benchmarks.items()}
