"""The page: nothing is loaded from elsewhere, all that is given is shown, all that is shown is escaped."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from drawn_pictures import drawn_benchmark, words_encoders
from made_up_results import SKILLS, model

from proclip import report
from proclip.errors import ProclipError
from proclip.evaluate.gallery import make_gallery
from proclip.report import write_figures, write_report
from proclip.results import ModelResults
from proclip.results.gallery import Gallery, joined_galleries

VOID, OUTER = frozenset({"meta", "img", "br"}), frozenset({"html", "head", "body", "main"})
CURVES = {
    "ProCLIP": {"distill": [{"step": s, "loss": 10.0 - s} for s in range(9)], "tune": [{"step": 0, "loss": 1.0}]},
    "LiT": {"tune": [{"step": s, "loss": 2.0, "lr": 0.1} for s in range(300)], "other": [{"step": 1}]},
}


class Page(HTMLParser):
    """Checks that tags close in order, and collects what the page shows and refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attributes)
        if tag not in (*VOID, *OUTER):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href", "data") and v is not None]
        self.addresses += re.findall(r"url\(([^)]*)\)", " ".join(v or "" for _, v in attributes))
        self.ids += [v for k, v in attributes if k == "id" and v is not None]

    def handle_endtag(self, tag: str) -> None:
        if tag not in OUTER:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def models() -> list[ModelResults]:
    return [model(n, i, *SKILLS[n], items=30, resamples=20) for i, n in enumerate(("CLIP", "LiT", "ProCLIP"))]


def parts(models: list[ModelResults], *starts: str) -> list[ModelResults]:
    """The same models with fewer figures, so that there is less to draw."""
    found = []
    for one in models:
        mini = one.benchmarks["mini-world"]
        figures = {key: figure for key, figure in mini.figures.items() if key.startswith(starts)}
        found.append(dataclasses.replace(one, benchmarks={"mini-world": dataclasses.replace(mini, figures=figures)}))
    return found


@pytest.fixture(scope="module")
def galleries() -> list[Gallery]:
    benchmarks = [drawn_benchmark(), drawn_benchmark("flickr30k", ("",))]
    return [
        joined_galleries([make_gallery(name, one, words_encoders(seed, 1.5)) for one in benchmarks])
        for seed, name in enumerate(("CLIP", "ProCLIP"))
    ]


def test_page_holds_all_it_shows(tmp_path: Path, models: list[ModelResults], galleries: list[Gallery]) -> None:
    out = tmp_path / "deep" / "report.html"
    paper = dict(model("CLIP", 7, 0.2, 0.8, items=8, mini=False, paper=True, resamples=5).benchmarks)
    base, *others = parts(models, "zero_shot", "retrieval", "multilingual/d", "multilingual/e", "linear_probe", "cka")
    few = ("mean/", "fr/", "quz/")
    ways = {k: f for k, f in paper["xm3600"].figures.items() if k.startswith(few) and "t2i" in k}
    paper["xm3600"] = dataclasses.replace(paper["xm3600"], figures=ways)
    results = [dataclasses.replace(base, benchmarks={**base.benchmarks, **paper}), *others]
    ablation = {"without": [models[1]], "with": [models[2]]}
    write_report(
        results, out, title="A title", lead="A lead.", galleries=galleries, curves=CURVES, ablation=ablation,
        acknowledgement="Drawn by hand.",
    )  # fmt: skip
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    shown = " ".join(page.texts)
    assert page.addresses and all(a.startswith(("#", "data:image/webp;base64,")) for a in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert "http" not in re.sub(r"data:[^\"]*", "", text) and "@import" not in text and "script" not in page.tags
    for part in (
        "A title", "A lead.", "Zero-shot classification", "Retrieval", "Forgetting against gain, mini world",
        "Gained and forgotten", "German", "Quechua", "Quantity and Count", "Replace attribute", "Ablation", "without",
        "Stage 1: representation inheritance", "What is found", "Wrong classes", "Wrong details", "SmolLM2", "1f2e3d4c",
        "0123456789ab", "Recall at 1; all captions are kept.", "proclip eval runs/ProCLIP", "Drawn by hand.",
        "mini-world/linear_probe/openmoji/acc1",
    ):  # fmt: skip
        assert part in shown, part
    for colour in ("#858a93", "#1c1d20", "#fdfdfb"):  # figures have the page's variables, only the style sheet colours
        assert colour not in text.split("</style>")[1]
    assert text.count("<image ") == len(set(re.findall(r'href="(#pic\d+)"', text)))  # a picture stands once
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]


def test_tiles_say_how_far_a_model_is_from_the_reference(models: list[ModelResults]) -> None:
    from proclip.report.columns import Column, per_cent
    from proclip.report.compared import Compared
    from proclip.report.page import headline

    column = Column(keys=("mini-world/zero_shot/openmoji/mean_per_class",), group="", label="")
    for results in (models[:2], models[1::-1]):  # the reference wins; the other wins
        compared = Compared(results)
        found = compared.difference(results[1], results[0], column)
        assert found is not None and found.significant
        change, low, high = (per_cent(value, sign=True) for value in found[:3])
        (tile,) = (one for one in headline(compared).split('<div class="stat">') if "Zero-shot classes" in one)
        text = re.sub("<[^>]*>", "", tile)
        base, other = results[0].name, results[1].name
        assert f"{other} against {base}: {change}{'▲' if found.low > 0 else '▼'} ({low} to {high})" in text
        assert all(column.shown(one.figure(column.keys[0]).value) in text for one in results)  # type: ignore[union-attr]
    assert "against" not in headline(Compared(models[:1]))


def test_page_escapes_what_it_is_given(tmp_path: Path, models: list[ModelResults]) -> None:
    base, other = parts(models[:2], "retrieval_short/i2t")
    evil = dataclasses.replace(
        other, name='<b>"x"&y', model={"path": "<i>", "note": "<u>"}, environment={"command": "<s>"}
    )
    write_report([base, evil], tmp_path / "r.html", title="<h1>", lead="<em>", acknowledgement="<a>",
                 curves={'<b>"x"&y': CURVES["LiT"]}, ablation={"<q>": [base]})  # fmt: skip
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    Page(text)
    for tag in ("b", "i", "u", "s", "h1", "em", "a", "q"):
        assert f"&lt;{tag}&gt;" in text, tag
    assert '<b>"x"' not in text and text.count("<h1>") == 1


def test_page_of_little(tmp_path: Path, models: list[ModelResults]) -> None:
    only = dataclasses.replace(parts(models[:1], "pairs/mean")[0], name="mine", model={}, environment={})
    few = dataclasses.replace(only.benchmarks["mini-world"], outcomes={}, prompts=None)
    write_report([dataclasses.replace(only, benchmarks={"mini-world": few})], tmp_path / "r.html", title="Little")
    shown = " ".join(Page((tmp_path / "r.html").read_text(encoding="utf-8").split("</style>")[1]).texts)
    assert "mine" in shown and "30.0" in shown
    for absent in ("Gained", "Forgetting", "Training", "What is found", "Ablation", "reference", "Bold", "Compared"):
        assert absent not in shown, absent


def test_models_on_other_data_are_told_apart(tmp_path: Path, models: list[ModelResults]) -> None:
    base, same = parts(models[:2], "pairs/mean")
    mini = same.benchmarks["mini-world"]
    other = dataclasses.replace(mini, data={**mini.data, "checksum": "ffff000011112222", "complete": False})
    write_report([base, dataclasses.replace(same, benchmarks={"mini-world": other})], tmp_path / "r.html")
    shown = " ".join(Page((tmp_path / "r.html").read_text(encoding="utf-8")).texts)
    assert "ffff00001111" in shown and "0123456789ab" in shown and "not complete" in shown
    assert "measured on other data" in shown


def test_more_models_than_charts_can_show(tmp_path: Path, models: list[ModelResults]) -> None:
    (few,) = parts(models[:1], "pairs/mean")
    many = [dataclasses.replace(few, name=f"model {i}") for i in range(11)]
    write_report(many, tmp_path / "r.html", reference="model 9")
    shown = " ".join(Page((tmp_path / "r.html").read_text(encoding="utf-8")).texts)
    assert "the last 3 models" in shown and "model 10" in shown


def test_figures_are_files(tmp_path: Path, models: list[ModelResults]) -> None:
    from xml.etree import ElementTree

    from PIL import Image

    few = parts(models, "zero_shot/openmoji", "retrieval_long/t2i_r@1", "multilingual/de", "multilingual/en",
                "multilingual/ar", "multilingual/mean", "pairs/c", "hard_negatives/a")  # fmt: skip
    paths = write_figures(few, tmp_path / "figures", curves=CURVES)
    names = {path.stem for path in paths}
    assert names == {
        "forgetting-mini-world", "changes", "mini-world-multilingual-t2i", "mini-world-pairs",
        "mini-world-hard-negatives", "training",
    }  # fmt: skip
    assert {path.suffix for path in paths} == {".png", ".svg"} and len(paths) == 2 * len(names)
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                extremes = image.convert("L").getextrema()
                assert image.width >= 1000 and isinstance(extremes[0], int) and extremes[0] < 100 < extremes[1]
            continue
        root = ElementTree.parse(path).getroot()
        tags = [element.tag.rpartition("}")[2] for element in root.iter()]
        assert tags[1:3] == ["title", "desc"] and root.get("role") == "img" and "text" in tags
        assert "var(" not in path.read_text(encoding="utf-8")
    told = ElementTree.parse(tmp_path / "figures" / "changes.svg").getroot()[1].text or ""
    assert "Zero-shot OpenMoji: LiT" in told
    names_shown = (tmp_path / "figures" / "mini-world-multilingual-t2i.svg").read_text(encoding="utf-8")
    order = re.findall(r">(Arabic|German|English|Mean)<", names_shown)
    assert order == ["Arabic", "German", "English", "Mean"]


def test_bars_are_as_high_as_the_figures(models: list[ModelResults]) -> None:
    from proclip.report.compared import Compared
    from proclip.report.drawing import style
    from proclip.report.figures import make_drawings

    compared = Compared(models)
    drawing = next(d for d in make_drawings(compared) if d.name == "mini-world-pairs")
    with style():
        wide, narrow = drawing.draw(False), drawing.draw(True)
    heights = [bar.get_height() for bar in wide.axes[0].patches]
    keys = [f"pairs/{k}" for k in ("colour", "count", "direction", "gender", "skin tone", "state", "mean")]
    expected = [100 * m.benchmarks["mini-world"].figures[key].value for m in models for key in keys]
    assert heights == pytest.approx(expected)
    assert [line.get_xdata().tolist() for line in narrow.axes[0].lines if len(line.get_xdata()) == 7] == [
        pytest.approx(expected[i : i + 7]) for i in (0, 7, 14)
    ]


def test_without_matplotlib_the_message_names_the_extra(
    tmp_path: Path, models: list[ModelResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ProclipError, match=r"proclip-align\[eval\]"):
        write_report(models, tmp_path / "r.html")
    write_report(models, tmp_path / "r.md")  # tables need none


def test_matplotlib_is_imported_only_where_something_is_drawn() -> None:
    for path in Path(report.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            assert not (isinstance(node, (ast.Import, ast.ImportFrom)) and "matplotlib" in ast.unparse(node)), path
