"""Galleries: what is found and what is wrong, against plain loops, and their file."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
from drawn_pictures import KEYS, Drawn, caption, drawn_benchmark, words_encoders
from PIL import Image

from proclip.errors import ProclipError
from proclip.evaluate.gallery import ERRORS, PICTURE_QUERIES, QUERIES, SIZE, TOP, make_gallery
from proclip.results.gallery import Gallery, gallery_path, joined_galleries, load_gallery


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return make_gallery("m", drawn_benchmark("flickr30k", ("",)), words_encoders(3, 1.2))


def test_queries_find_what_a_loop_finds(gallery: Gallery) -> None:
    encoders = words_encoders(3, 1.2)
    texts = [query for query in gallery.queries if query.direction == "t2i"]
    assert len(texts) == QUERIES and len(gallery.queries) == QUERIES + PICTURE_QUERIES
    for query in texts:
        text = encoders.encode_text([query.asked])[0]
        ranked = sorted(KEYS, key=lambda key: -float(encoders.encode_image([key])[0] @ text))
        assert [found.what for found in query.found] == [f"flickr30k/{key}" for key in ranked[:TOP]]
        (answer,) = query.answers
        assert query.asked == caption(answer.partition("/")[2])
        assert query.rank == 1 + ranked.index(answer.partition("/")[2])
        assert [found.right for found in query.found] == [found.what == answer for found in query.found]
    for query in gallery.queries[QUERIES:]:
        assert query.answers == (caption(query.asked.partition("/")[2]),)
        assert query.found[0].right == (query.rank == 1)


def test_every_model_is_asked_the_same() -> None:
    first, second = (make_gallery(n, drawn_benchmark(), words_encoders(i, 1.0)) for i, n in enumerate("ab"))
    assert [q.asked for q in first.queries] == [q.asked for q in second.queries]
    assert [q.found for q in first.queries] != [q.found for q in second.queries]
    assert {q.task for q in first.queries} == {"retrieval_long", "multilingual/de"}
    chosen = make_gallery("a", drawn_benchmark(), words_encoders(0, 1.0), {"multilingual/de": 2, "absent": 3})
    assert [q.task for q in chosen.queries] == ["multilingual/de"] * 2


def test_errors_are_errors(gallery: Gallery) -> None:
    encoders = words_encoders(3, 1.2)
    assert 0 < len(gallery.wrong_classes) <= ERRORS
    for wrong in gallery.wrong_classes:
        assert wrong.truth == wrong.picture.split()[-1] and wrong.predicted != wrong.truth
        assert wrong.predicted_score >= wrong.truth_score
    kinds = {wrong.task for wrong in gallery.wrong_choices}
    assert kinds == {"pairs", "hard_negatives", "winoground"}
    for wrong in gallery.wrong_choices:
        scores = [
            [
                float(encoders.encode_image([key.partition("/")[2]])[0] @ encoders.encode_text([text])[0])
                for text in wrong.texts
            ]
            for key in wrong.pictures
        ]
        assert [list(row) for row in wrong.scores] == [pytest.approx(row, abs=1e-4) for row in scores]
        right = scores[0][0] > scores[0][1]
        if wrong.task != "hard_negatives":
            right = right and scores[1][1] > scores[1][0]
        if wrong.task == "winoground":
            right = right and scores[0][0] > scores[1][0] and scores[1][1] > scores[0][1]
        assert not right


def test_a_perfect_model_has_no_errors() -> None:
    perfect = make_gallery("m", drawn_benchmark(), words_encoders(0, 0.0))
    assert all(query.rank == 1 for query in perfect.queries)
    assert not perfect.wrong_choices or {w.task for w in perfect.wrong_choices} == set()


def test_pictures_are_small_and_stand_once(gallery: Gallery) -> None:
    benchmark = drawn_benchmark("flickr30k", ("",))
    make_gallery("m", benchmark, words_encoders(3, 1.2))
    assert isinstance(benchmark.images, Drawn)
    assert len(benchmark.images.opened) == len(set(benchmark.images.opened))
    for uri in gallery.pictures.values():
        head, _, content = uri.partition(",")
        assert head == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert max(image.size) == SIZE and image.size == (128, 85)
    assert max(map(len, gallery.pictures.values())) < 5000


def test_file_gives_the_gallery_back(tmp_path: Path, gallery: Gallery) -> None:
    path = gallery_path(tmp_path / "deep" / "clip.json")
    assert path.name == "clip.gallery.json"
    gallery.save(path)
    assert load_gallery(path) == gallery
    both = joined_galleries([gallery, make_gallery("m", drawn_benchmark(), words_encoders(3, 1.2))])
    assert len(both.queries) == len(gallery.queries) + 8 and set(gallery.pictures) < set(both.pictures)


def test_bad_files_are_named(tmp_path: Path, gallery: Gallery) -> None:
    path = tmp_path / "x.gallery.json"
    gallery.save(path)
    good = json.loads(path.read_text())
    first = good["queries"][0]["found"][0]["what"]
    cases = {
        "'format' must be": {**good, "format": "other"},
        "a field is missing": {k: v for k, v in good.items() if k != "queries"},
        "not as it should be.*direction": {**good, "queries": [{**good["queries"][0], "direction": "t2t"}]},
        "is named but not there": {**good, "pictures": {k: v for k, v in good["pictures"].items() if k != first}},
        "must be a data:image/": {**good, "pictures": {**good["pictures"], first: "https://example.org/x.png"}},
    }
    for message, values in cases.items():
        path.write_text(json.dumps(values))
        with pytest.raises(ProclipError, match=message) as error:
            load_gallery(path)
        assert str(path) in str(error.value)
