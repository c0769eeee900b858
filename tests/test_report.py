from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from rich.console import Console

from proclip.errors import ProclipError
from proclip.report import GalleryItem, markdown_table, print_table, summary_rows, write_report
from proclip.report.svg import MAX_POINTS, change_bars, curves_chart, grouped_bars, thinned, ticks

RESULTS: dict[str, Any] = {
    "benchmark": {"name": "mini-world", "version": "1", "checksum": "abcdef0123456789"},
    "seed": 3,
    "seconds": {"embed": 61.0, "tune": 5.5},
    "methods": {
        "proclip": {"zero_shot/openmoji": 0.5004, "retrieval_long/t2i_r@1": 0.31, "cka": 0.9,
                    "multilingual/de/t2i_r@1": 0.2, "multilingual/en/t2i_r@1": 0.4},
        "mine <b>": {"zero_shot/openmoji": 0.1, "retrieval_long/t2i_r@1": 0.32, "cka": 0.95},
        "clip": {"zero_shot/openmoji": 0.5, "cka": 1.0, "multilingual/de/t2i_r@1": 0.01,
                 "retrieval_long/t2i_r@1": 0.05},
    },
    "chance": {"zero_shot/openmoji": 0.0125, "multilingual/de/t2i_r@1": 0.003},
}  # fmt: skip


def test_rows_are_in_order_and_the_best_is_marked() -> None:
    rows = summary_rows(RESULTS)
    assert [row.label for row in rows] == ["CLIP", "ProCLIP", "mine <b>", "Chance"]
    texts = [[cell.text for cell in row.cells] for row in rows]
    assert texts == [["50.0", "5.0", "1.000"], ["50.0", "31.0", "0.900"], ["10.0", "32.0", "0.950"], ["1.2", "–", "–"]]
    # 50.0 and 50.04 read the same, so both are best; CKA is no score and chance does not compete
    best = [[cell.best for cell in row.cells] for row in rows]
    assert best == [[True, False, False], [True, False, False], [False, True, False], [False, False, False]]


def test_no_chance_row_without_chance_levels() -> None:
    assert [row.method for row in summary_rows({"methods": {"clip": {"cka": 1.0}}})] == ["clip"]


@pytest.mark.parametrize("results", [{}, {"methods": {}}, {"methods": []}])
def test_results_without_methods_are_refused(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="no figures"):
        write_report(results, curves={}, gallery=[], out=tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_markdown_table() -> None:
    lines = markdown_table(RESULTS).splitlines()
    assert lines[0] == "| Method | Zero-shot OpenMoji | Long t→i | CKA to CLIP |"
    assert lines[2] == "| CLIP | **50.0** | 5.0 | 1.000 |"
    assert all(line.count("|") == lines[0].count("|") for line in lines)


@pytest.mark.parametrize("width", [44, 80, 200])
def test_terminal_table_cuts_no_figure(width: int) -> None:
    out = io.StringIO()
    print_table(RESULTS, Console(file=out, width=width))
    text = out.getvalue()
    assert "…" not in text and max(len(line.rstrip()) for line in text.splitlines()) <= width
    for row in summary_rows(RESULTS):
        assert row.label in text and all(cell.text in text for cell in row.cells)


def test_terminal_table_shows_the_best_in_bold() -> None:
    out = io.StringIO()
    print_table(RESULTS, Console(file=out, width=100, force_terminal=True, color_system="standard"))
    lines = {label: line for line in out.getvalue().splitlines() for label in ("ProCLIP", "mine") if label in line}
    assert re.search(r"\x1b\[1m *50\.0", lines["ProCLIP"]) and re.search(r"\x1b\[1m *32\.0", lines["mine"])
    assert not re.search(r"\x1b\[1m *31\.0", lines["ProCLIP"])


class Page(HTMLParser):
    """Checks that tags close in order, and collects what the page shows and refers to."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.classes: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.addresses += [v for k, v in attributes if k in ("src", "href") and v is not None]
        self.classes += (values.get("class") or "").split()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.classes += (dict(attributes).get("class") or "").split()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(path)
    return paths


def gallery(pictures: list[Path]) -> list[GalleryItem]:
    found = [(path, path == pictures[2]) for path in pictures[:5]]
    missed = [(path, False) for path in pictures[1:]]
    query = 'an <apple> & a "pear"'
    return [
        GalleryItem(query=query, kind="Long caption", answer=pictures[2], results={"clip": missed, "proclip": found})
    ]


CURVES = {
    "proclip": {"distill": [{"step": s, "loss": 10.0 - s} for s in range(9)], "tune": [{"step": 0, "loss": 1.0}]},
    "lit": {"tune": [{"step": s, "loss": 2.0, "lr": 0.1} for s in range(300)], "other": [{"step": 1}]},
}


def test_page_holds_all_it_shows(tmp_path: Path, pictures: list[Path]) -> None:
    out = tmp_path / "deep" / "report.html"
    write_report(RESULTS, curves=CURVES, gallery=gallery(pictures), out=out)
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    shown = " ".join(page.texts)
    assert len(page.addresses) == 11 and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert "<script" not in text and "url(" not in text and "@import" not in text
    for part in ("mini-world", "abcdef012345", "German", "English", "right at 3", "not in the first 5", "1 min 6 s"):
        assert part in shown, part
    assert page.classes.count("right") == 1 and page.classes.count("tick-mark") == 1
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]


def test_page_escapes_what_it_is_given(tmp_path: Path, pictures: list[Path]) -> None:
    out = tmp_path / "report.html"
    write_report(RESULTS, curves=CURVES, gallery=gallery(pictures), out=out)
    text = out.read_text(encoding="utf-8")
    assert "<apple>" not in text and "an &lt;apple&gt; &amp; a &quot;pear&quot;" in text
    assert "mine <b>" not in text and "mine &lt;b&gt;" in text


def test_page_of_little(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report({"methods": {"mine": {"pairs/mean": 0.5}}}, curves={}, gallery=[], out=out)
    shown = " ".join(Page(out.read_text(encoding="utf-8")).texts)
    assert "mine" in shown and "forgotten, task" not in shown and "Training" not in shown


def test_gallery_names_an_image_that_is_not_there(tmp_path: Path) -> None:
    for name, message in (("gone.png", "no image at"), ("notes.txt", "not an image file")):
        item = GalleryItem(query="q", kind="k", answer=tmp_path / name, results={})
        with pytest.raises(ProclipError, match=message):
            write_report(RESULTS, curves={}, gallery=[item], out=tmp_path / "report.html")


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0, 47) == [0, 20, 40, 60]
    assert ticks(-0.3, 0.5, count=3) == [-0.5, 0.0, 0.5]
    for low, high in ((0, 1), (-3, 12), (5, 5), (0.001, 0.0042), (0, 123456)):
        marks = ticks(low, high)
        assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 8


def test_thinned_keeps_the_mean_and_the_order() -> None:
    points = [(float(i), float(i % 7)) for i in range(MAX_POINTS * 10)]
    thin = thinned(points)
    assert len(thin) == MAX_POINTS and [x for x, _ in thin] == sorted(x for x, _ in thin)
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(y for _, y in points) / len(points))
    assert thinned(points[:5]) == points[:5]


def bars(svg: str) -> list[dict[str, str]]:
    return [e.attrib for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("rect")]


def test_change_bars_go_left_for_less_and_in_proportion() -> None:
    gain, loss = bars(change_bars("t", {"proclip": 20.0, "lit": -10.0, "clip": 0.0}, -10.0, 20.0))
    zero = float(gain["x"])
    assert float(loss["x"]) + float(loss["width"]) == pytest.approx(zero, abs=0.02)
    assert float(gain["width"]) == pytest.approx(2 * float(loss["width"]), abs=0.02)


def test_grouped_bars_have_the_height_of_their_value() -> None:
    svg = grouped_bars("t", ["a", "b"], {"clip": [0.2, None], "proclip": [0.4, 0.1]}, [0.01, None])
    heights = [float(bar["height"]) for bar in bars(svg)]
    assert len(heights) == 3
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.02) and heights[0] == pytest.approx(
        2 * heights[2], abs=0.02
    )


def test_curves_stay_inside_their_box() -> None:
    svg = curves_chart("t", {"clip": [(0, 5.0), (10, 1.0)], "proclip": [(3, 2.0)], "lit": []})
    lines = [e for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("polyline")]
    assert len(lines) == 2
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 440 and 0 <= y <= 270
