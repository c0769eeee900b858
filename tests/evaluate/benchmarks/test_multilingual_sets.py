"""Crossmodal-3600 in both protocols, and means over languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published_files as files
import pytest

from proclip.errors import ProclipError
from proclip.evaluate.benchmark import Benchmark
from proclip.evaluate.benchmarks import find_entry, language_means, mean_languages
from proclip.evaluate.benchmarks.multilingual import XM3600_LANGUAGES, language_code
from proclip.evaluate.tasks import RetrievalTask


def load(name: str, root: Path) -> Benchmark:
    return find_entry(name).load(root / "xm3600")


def test_the_languages_are_the_36_in_order() -> None:
    assert list(XM3600_LANGUAGES) == files.LANGUAGES == sorted(files.LANGUAGES) and len(XM3600_LANGUAGES) == 36


@pytest.mark.parametrize("every", [False, True])
def test_both_protocols(tmp_path: Path, every: bool) -> None:
    files.make_xm3600(tmp_path)
    benchmark = load("xm3600-all" if every else "xm3600", tmp_path)
    raw = [json.loads(line) for line in (tmp_path / "xm3600" / "captions.jsonl").read_text().splitlines()]
    assert list(benchmark.tasks) == files.LANGUAGES
    for code, task in benchmark.tasks.items():
        assert isinstance(task, RetrievalTask)
        wanted = [(row["image/key"], row[code]["caption"][: None if every else 1]) for row in raw]
        assert [(key, list(texts)) for key, texts in task.items] == wanted
    german = benchmark.tasks["de"]
    assert isinstance(german, RetrievalTask) and len(german.items[1][1]) == (3 if every else 1)
    assert benchmark.images.missing([row["image/key"] for row in raw]) == []
    assert benchmark.means["mean/t2i_r@1"] == tuple(f"{code}/t2i_r@1" for code in files.LANGUAGES)
    assert set(benchmark.headline) <= set(benchmark.means)


def test_means_over_languages_that_were_learnt() -> None:
    means = language_means(("de", "fil", "no", "zh"), ["en", "zh-Hans", "nb", "tl_PH"])
    assert means["mean/i2t_r@5"] == ("de/i2t_r@5", "fil/i2t_r@5", "no/i2t_r@5", "zh/i2t_r@5")
    assert means["mean_trained/i2t_r@5"] == ("fil/i2t_r@5", "no/i2t_r@5", "zh/i2t_r@5")
    assert len(means) == 12
    assert set(language_means(("de",), ["en"])) == set(language_means(("de",))) and len(language_means(("de",))) == 6
    nested = language_means(("multilingual/de", "multilingual/fr"), ["fr"])
    assert nested["multilingual/mean/t2i_r@1"] == ("multilingual/de/t2i_r@1", "multilingual/fr/t2i_r@1")
    assert nested["multilingual/mean_trained/t2i_r@1"] == ("multilingual/fr/t2i_r@1",)
    assert language_means(()) == {}
    assert [language_code(code) for code in ("zh-CN", "pt_BR", "EN", "iw", "quz")] == ["zh", "pt", "en", "he", "quz"]


def test_a_runner_finds_the_languages_of_a_benchmark(tmp_path: Path) -> None:
    files.make_xm3600(tmp_path)
    benchmark = load("xm3600", tmp_path)
    assert mean_languages(benchmark) == XM3600_LANGUAGES
    both = language_means(mean_languages(benchmark), ["de", "fr"])
    assert both["mean_trained/t2i_r@1"] == ("de/t2i_r@1", "fr/t2i_r@1")
    assert {key: both[key] for key in benchmark.means} == benchmark.means


def rename(old: str, new: str) -> Any:
    return lambda rows: [row.update({new: row.pop(old)}) for row in rows]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rename("de", "dee"), "unknown language 'dee'; did you mean 'de'"),
        (lambda rows: [row.pop("te") for row in rows], "languages are missing: 'te'"),
        (lambda rows: rows[1].pop("te"), "images without captions in 'te': '00e8f6a1ac36c2b0'"),
        (lambda rows: rows[1]["te"].update(caption=[]), "image '00e8f6a1ac36c2b0', language 'te': 'caption' must be"),
        (lambda rows: rows[1]["te"].update(caption=["a", " "]), "'caption' must be a list of texts, none empty"),
        (lambda rows: rows[1].pop("image/key"), "entry 1: 'image/key' must be a text"),
        (lambda rows: rows.append(rows[0]), "images are listed more than once: '000411001ff7dd4f'"),
    ],
)
def test_captions_that_are_not_right(tmp_path: Path, spoil: Any, message: str) -> None:
    files.make_xm3600(tmp_path)
    rows = files.xm_rows()
    spoil(rows)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "xm3600" / "captions.jsonl").write_text(text)
    with pytest.raises(ProclipError, match=message):
        load("xm3600", tmp_path)
