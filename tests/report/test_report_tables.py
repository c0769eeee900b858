"""Tables: figures, marks and bold against what the outcomes say, and every way to write them."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from made_up_results import SKILLS, benchmark, model
from rich.console import Console

from proclip.errors import ProclipError
from proclip.metrics.outcomes import Outcomes, PairedDifference, mean_interval, paired_mean_difference
from proclip.report import ablation_table, make_tables, print_tables, write_report
from proclip.report.columns import MINI, PAPER, Column, per_cent, summary_columns, table_specs
from proclip.report.compared import Compared
from proclip.report.tables import Cell, Table
from proclip.report.text_tables import CSV_FIELDS, csv_text, escape_latex, latex, markdown
from proclip.results import BenchmarkResult, Comparison, Figure, ModelResults, compare


def of_hits(name: str, hits: dict[str, list[int]], *, checksum: str = "same", outcomes: bool = True) -> ModelResults:
    """A model with one retrieval benchmark and these hits a figure."""
    found = {key: Outcomes(values=np.array(values, dtype=np.float32)) for key, values in hits.items()}
    figures = {
        key: Figure(value=o.figure(), low=0.1, high=0.9, n=len(o.values), chance=0.01) for key, o in found.items()
    }
    result = dataclasses.replace(
        benchmark("coco", "retrieval", {"i2t_r@1": 0.5}, 0, 10, checksum=checksum), figures=figures,
        outcomes=found if outcomes else {},
    )  # fmt: skip
    return ModelResults(name=name, model={}, environment={}, benchmarks={"coco": result})


ALL, HALF, FEW = [1] * 40, [1, 0] * 20, [1] * 4 + [0] * 36
NEARLY = [1] * 39 + [0]


def column_of(table: Table, label: str) -> dict[str, Cell]:
    place = [column.title for column in table.columns].index(label)
    return {row.label: row.cells[place] for row in table.rows}


def test_figures_marks_and_bold_by_hand() -> None:
    results = [
        of_hits("base", {"i2t_r@1": HALF, "t2i_r@1": HALF}),
        of_hits("up", {"i2t_r@1": ALL, "t2i_r@1": HALF}),
        of_hits("level", {"i2t_r@1": NEARLY}),
        of_hits("down", {"i2t_r@1": FEW, "t2i_r@1": FEW}),
    ]
    (table,) = make_tables(Compared(results))
    assert [column.title for column in table.columns] == ["COCO I→T", "COCO T→I"]
    cells = column_of(table, "COCO I→T")
    assert {name: cell.text for name, cell in cells.items()} == {
        "base": "50.0", "up": "100.0", "level": "97.5", "down": "10.0", "Chance": "1.0",
    }  # fmt: skip
    assert {name: cell.mark for name, cell in cells.items()} == {
        "base": "", "up": "better", "level": "better", "down": "worse", "Chance": "",
    }  # fmt: skip
    # one miss of forty is not told from none, so both are bold
    assert [name for name, cell in cells.items() if cell.best] == ["up", "level"]
    assert cells["up"].aside == "10.0–90.0" and cells["Chance"].aside == ""
    other = column_of(table, "COCO T→I")
    assert other["level"].text == "–" and other["level"].value is None
    assert [name for name, cell in other.items() if cell.best] == ["base", "up"]
    assert not other["up"].mark and other["up"].difference is not None and other["up"].difference.difference == 0


def test_differences_are_those_of_compare() -> None:
    first, second = model("a", 1, 0.3, 0.7, items=60), model("b", 2, 0.5, 0.6, items=60)
    compared = Compared([second, first])
    keys = [column.keys[0] for column in MINI.columns if column.is_score]
    expected = {one.key: one for one in compare(first, second, keys).rows}
    for column in MINI.columns:
        if column.is_score:
            assert compared.difference(first, second, column) == expected[column.keys[0]].paired


def test_means_are_those_of_their_parts() -> None:
    first, second = (
        model("a", 1, 0.3, 0.7, items=40, mini=False, paper=True, resamples=20),
        model("b", 2, 0.5, 0.6, items=40, mini=False, paper=True, resamples=20),
    )
    compared = Compared([first, second])
    column = PAPER[0].columns[-1]
    assert column.label == "Mean" and len(column.keys) == 11
    parts = [first.figure(key) for key in column.keys]
    assert compared.value(first, column) == pytest.approx(sum(f.value for f in parts if f) / 11)

    def outcomes(one: ModelResults) -> list[Outcomes]:
        pairs = [key.split("/", 1) for key in column.keys]
        return [one.benchmarks[name].outcomes[rest] for name, rest in pairs]

    assert compared.interval(first, column) == mean_interval(outcomes(first))
    pairs = list(zip(outcomes(second), outcomes(first), strict=True))
    found, expected = compared.difference(second, first, column), paired_mean_difference(pairs)
    assert found is not None and found == pytest.approx(expected)


def test_what_cannot_be_compared_has_no_mark_and_is_said() -> None:
    results = [
        of_hits("base", {"i2t_r@1": HALF, "t2i_r@1": HALF}),
        of_hits("other data", {"i2t_r@1": ALL, "t2i_r@1": ALL}, checksum="another"),
        of_hits("bare", {"i2t_r@1": FEW, "t2i_r@1": FEW}, outcomes=False),
        of_hits("other count", {"i2t_r@1": ALL[:-1]}),
    ]
    (table,) = make_tables(Compared(results))
    cells = column_of(table, "COCO I→T")
    assert not any(cell.mark for cell in cells.values())
    # where it cannot be asked, only what is as high is bold
    assert [name for name, cell in cells.items() if cell.best] == ["other data", "other count"]
    notes = " ".join(table.notes)
    assert "Not compared with base: bare; what each item scored is not known." in notes
    assert "Not compared with base: other data, other count; measured on other data or by another protocol." in notes


def test_reference_by_name() -> None:
    results = [of_hits("up", {"i2t_r@1": ALL}), of_hits("base", {"i2t_r@1": HALF})]
    (table,) = make_tables(Compared(results, "base"))
    assert [row.kind for row in table.rows] == ["model", "reference", "chance"]
    assert column_of(table, "COCO I→T")["up"].mark == "better"
    with pytest.raises(ProclipError, match=r"'bass'.*did you mean 'base'"):
        Compared(results, "bass")
    with pytest.raises(ProclipError, match="two results are called 'up'"):
        Compared([results[0], results[0]])
    with pytest.raises(ProclipError, match="one model or more"):
        Compared([])


def test_tables_of_the_paper_and_the_mini_world() -> None:
    results = [model("a", 1, 0.3, 0.7, items=5, paper=True, resamples=5)]
    specs = {spec.name: spec for spec in table_specs(results)}
    assert list(specs) == [
        "mini-world", "zero-shot", "robustness", "retrieval", "linear-probe", "mini-world-multilingual-t2i",
        "xm3600-i2t", "xm3600-t2i", "mini-world-pairs", "mini-world-hard-negatives", "mmvp_vlm", "sugarcrepe",
        "ranks",
    ]  # fmt: skip
    assert len(specs["zero-shot"].columns) == 12 and len(specs["robustness"].columns) == 6
    assert [c.label for c in specs["retrieval"].columns] == ["I→T", "T→I"] * 7
    languages = [column.keys[0].split("/")[1] for column in specs["xm3600-t2i"].columns]
    assert len(languages) == 37 and languages == [*sorted(languages[:-1]), "mean"]
    assert [c.label for c in specs["sugarcrepe"].columns][::3] == ["Replace object", "Swap object", "Add attribute"]
    assert specs["mmvp_vlm"].columns[-1].label == "Mean" and len(specs["mmvp_vlm"].columns) == 10
    titles = [column.title for column in summary_columns(results)]
    assert "Zero-shot classification" in titles and "Retrieval T→I" in titles and "MMVP" in titles


def test_the_rule_of_pairs_is_that_of_the_result_file() -> None:
    rule = "each statement chooses between the two images of its pair"
    pairs = benchmark("mmvp_vlm", "pairs", {"Viewpoint": 0.5, "mean": 0.5}, 1, 10, resamples=5)
    pairs = dataclasses.replace(pairs, protocol=rule)
    results = [ModelResults(name="m", model={}, environment={}, benchmarks={"mmvp_vlm": pairs})]
    (table,) = make_tables(Compared(results))
    assert table.about == f"Per cent right. E{rule[1:]}."
    other = dataclasses.replace(pairs, protocol="each image chooses between the two statements.")
    results.append(ModelResults(name="n", model={}, environment={}, benchmarks={"mmvp_vlm": other}))
    (table,) = make_tables(Compared(results))
    assert table.about == f"Per cent right. MMVP: {rule}. MMVP: each image chooses between the two statements."


def test_ones_own_benchmark_has_a_table() -> None:
    own = benchmark("holidays", "retrieval", {"i2t_r@1": 0.4, "t2i_r@1": 0.3, "t2i_r@5": 0.5}, 0, 20)
    own = dataclasses.replace(own, headline=("i2t_r@1", "t2i_r@1"))
    results = [ModelResults(name="m", model={}, environment={}, benchmarks={"holidays": own})]
    table, deeper = make_tables(Compared(results))
    assert table.name == "other" and table.about == "Per cent. Recall at 1; all captions are kept."
    assert [column.title for column in table.columns] == ["holidays I→T R@1", "holidays T→I R@1"]
    assert deeper.name == "ranks" and [column.title for column in deeper.columns] == ["holidays T→I R@5"]


def test_parts_of_ones_own_benchmark_are_named(tmp_path: Path) -> None:
    ranks = {f"caption/t2i_{what}": 0.5 for what in ("r@1", "r@5", "r@10", "median_rank")}
    own = benchmark("holidays", "retrieval", ranks, 0, 20, headline=("caption/t2i_r@1",), resamples=5)
    rank = dataclasses.replace(own.figures["caption/t2i_median_rank"], value=3.0, low=2.0, high=4.0, chance=None)
    own = dataclasses.replace(own, figures={**own.figures, "caption/t2i_median_rank": rank})
    shares = {"acc1": 0.5, "mean_per_class": 0.5, "knn_acc1": 0.4}
    probe = benchmark("probe-leaves", "probe", shares, 0, 20, headline=("acc1",), resamples=5)
    one = ModelResults(name="m", model={}, environment={}, benchmarks={"holidays": own, "probe-leaves": probe})
    other, deeper, neighbours = make_tables(Compared([one]))
    assert [column.title for column in other.columns] == ["holidays, Caption T→I R@1", "leaves, probe Top 1"]
    assert [column.label for column in deeper.columns] == ["T→I R@5", "T→I R@10", "T→I median rank"]
    assert deeper.rows[0].cells[-1].text == "3" and deeper.rows[0].cells[-1].aside == "2–4"
    assert neighbours.name == "k-nn" and [column.title for column in neighbours.columns] == ["leaves"]
    assert [column.title for column in summary_columns([one])] == [column.title for column in other.columns]
    write_report([one], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>What m can do</h1>" in page and "Retrieval beyond the first place" in page


def test_no_figures_is_an_error() -> None:
    with pytest.raises(ProclipError, match="no figures"):
        make_tables(Compared([ModelResults(name="m", model={}, environment={}, benchmarks={})]))


def test_what_is_not_complete_has_a_dagger_in_every_format(tmp_path: Path) -> None:
    def on(name: str, pictures: int, complete: bool) -> ModelResults:
        shares = {"acc1": 0.5, "mean_per_class": 0.5}
        small = benchmark("imagenet1k", "classification", shares, 1, pictures, resamples=5)
        small = dataclasses.replace(small, data={**small.data, "complete": complete})
        whole = benchmark("cars", "classification", shares, 1, 20, resamples=5)
        return ModelResults(
            name=name, model={}, environment={}, benchmarks={"imagenet1k": small, "cars": whole}
        )  # fmt: skip

    results = [on("a", 9, False), on("b", 20, True)]
    (table,) = make_tables(Compared(results))
    assert [column.heading for column in table.columns] == ["Cars", "ImageNet†"]
    assert table.notes[-1].startswith("†: ") and table.notes[-1].endswith("ImageNet, 9 pictures (a).")
    for ending, heading, note in (
        ("md", "| Cars | ImageNet† |", "ImageNet, 9 pictures (a)"),
        ("tex", r"Cars & ImageNet\textdagger{} \\", r"\textdagger{}: the data"),
        ("html", '<th scope="col">ImageNet†</th>', "<li>†: the data"),
    ):
        write_report(results, tmp_path / f"t.{ending}")
        text = (tmp_path / f"t.{ending}").read_text(encoding="utf-8")
        assert heading in text and note in text
    rows = {(r["label"], r["model"]): r["complete"] for r in csv.DictReader(io.StringIO(csv_text([table])))}
    assert rows["ImageNet", "a"] == "0" and rows["ImageNet", "b"] == rows["Cars", "a"] == "1"
    assert not any("†" in column.title for column in make_tables(Compared(results[1:]))[0].columns)
    (all_of_it,) = make_tables(Compared(results[:1]))
    assert all_of_it.notes[-1].endswith("published benchmark: ImageNet, 9 pictures.")


def test_a_figure_is_rounded_one_way() -> None:
    column = Column(keys=("coco/i2t_r@1",), group="", label="")
    mean = math.fsum([0.0125] * 5 + [0.0125000000000001]) / 6
    for value in (1 / 80, 0.0125, mean, float(np.mean([0.0125] * 7)), math.nextafter(0.0125, 0)):
        assert column.shown(value) == "1.3"
    assert [column.shown(v) for v in (0.0, 1.0, 0.12449, 0.1235, 0.9996)] == ["0.0", "100.0", "12.4", "12.4", "100.0"]
    assert [per_cent(v, sign=True) for v in (0.0125, -0.0125, 0.0)] == ["+1.3", "−1.3", "+0.0"]


def test_cka_is_no_score() -> None:
    results = [model("a", 1, 0.3, 0.7, items=60), model("b", 2, 0.5, 0.2, items=60)]
    cells = column_of(make_tables(Compared(results))[0], "CKA to CLIP")
    assert not any(cell.best or cell.mark for cell in cells.values())
    assert re.fullmatch(r"0\.\d{3}", cells["a"].text)


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    names = ["CLIP", "100 % & <new> | model_{x}", "ProCLIP"]
    return make_tables(
        Compared([model(n, i, *s, items=40) for i, (n, s) in enumerate(zip(names, SKILLS.values(), strict=False))])
    )


def test_markdown(tables: list[Table]) -> None:
    text = markdown(tables)
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1
    assert "### The mini world" in text and "**" in text and "▲" in text and r"<new> \| model" in text


def test_latex_is_escaped_and_balanced(tables: list[Table]) -> None:
    assert escape_latex("50% of_x & {y} #1 $ ^~ \\") == (
        r"50\% of\_x \& \{y\} \#1 \$ \textasciicircum{}\textasciitilde{} \textbackslash{}"
    )
    text = latex(tables)
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == len(tables)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(tables)
    assert r"100 \% \& \textless{}new\textgreater{} \textbar{} model\_\{x\}" in text
    assert r"\multicolumn{2}{c}{Zero-shot}" in text and r"\cmidrule(lr){2-3}" in text
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, flags=re.S):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1
    assert text.isascii()


def test_csv_gives_every_figure_back(tables: list[Table]) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(tables))))
    assert tuple(rows[0]) == CSV_FIELDS
    found = {(row["table"], row["model"], row["group"], row["label"]): row for row in rows}
    count = 0
    for table in tables:
        for line in table.rows:
            for column, cell in zip(table.columns, line.cells, strict=True):
                if cell.value is None:
                    continue
                row, count = found[table.name, line.label, column.group, column.label], count + 1
                assert float(row["value"]) == cell.value and row["keys"].split(";") == list(column.keys)
                if cell.interval:
                    assert (float(row["low"]), float(row["high"])) == cell.interval
                else:
                    assert row["low"] == row["high"] == ""
                assert (row["p_value"] == "") == (cell.difference is None)
    assert count == len(rows) == len(found)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_terminal_tables_cut_no_figure(tables: list[Table], width: int) -> None:
    out = io.StringIO()
    print_tables(tables, Console(file=out, width=width))
    text = out.getvalue()
    assert "…" not in text and max(len(line.rstrip()) for line in text.splitlines()) <= width
    for row in tables[0].rows:
        assert row.label in text and all(cell.text in text for cell in row.cells)


def test_ablation_is_over_seeds() -> None:
    def run(value: float) -> ModelResults:
        figures = {"acc1": Figure(value=value, low=math.nan, high=math.nan, n=0)}
        result = BenchmarkResult(
            name="food101", task="classification", headline=("acc1",), protocol="p", data={}, prompts=None,
            figures=figures, seconds=0, images_per_second=None, texts_per_second=None,
        )  # fmt: skip
        return ModelResults(name="m", model={}, environment={}, benchmarks={"food101": result})

    columns = [Column(keys=("food101/acc1",), group="", label="Food101"), Column(keys=("x/y",), group="", label="Y")]
    table = ablation_table({"without": [run(0.2), run(0.4)], "with": [run(0.5)], "not run": []}, columns)
    (without,), (with_it,), (none,) = (row.cells for row in table.rows)
    assert (without.text, without.aside, without.best) == ("30.0", "± 14.1", False)
    assert (with_it.text, with_it.aside, with_it.best) == ("50.0", "", True)
    assert none.text == "–" and "0 to 2 seeds" in table.about
    with pytest.raises(ProclipError, match="no figures"):
        ablation_table({"not run": []}, columns)


def test_reports_by_their_ending(tmp_path: Path) -> None:
    results = [model("a", 1, 0.3, 0.7, items=10), model("b", 2, 0.5, 0.6, items=10)]
    for name in ("t.md", "deep/t.tex", "t.csv"):
        write_report(results, tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8")
    with pytest.raises(ProclipError, match=r"ends in \.html, \.md, \.tex, \.csv"):
        write_report(results, tmp_path / "t.docx")


@pytest.mark.parametrize(
    ("key", "low", "high", "wanted"),
    [
        ("flickr30k/i2t_r@1", 0.01, 0.05, "better"),
        ("flickr30k/i2t_r@1", -0.05, -0.01, "worse"),
        ("flickr30k/i2t_r@1", -0.01, 0.01, ""),
        ("flickr30k/i2t_median_rank", -9.0, -2.0, "better"),
        ("flickr30k/i2t_median_rank", 2.0, 9.0, "worse"),
    ],
)
def test_a_lower_rank_is_better(key: str, low: float, high: float, wanted: str) -> None:
    paired = PairedDifference((low + high) / 2, low, high, 0.0)
    assert Comparison(key=key, first=0.0, second=0.0, paired=paired).first_is == wanted
