"""Approximate search: what it finds is scored exactly, its recall is measured, and a graph is never trusted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up_index import add_vectors, clustered, make_graph, path_of

from proclip.errors import ProclipError
from proclip.search import Index
from proclip.search.catalogue import Catalogue, Filter
from proclip.search.graph import KINDS, Kind
from proclip.search.index import Hit
from proclip.search.upkeep import update_graph

pytest.importorskip("usearch")
COUNT, DIM = 1500, 64
VECTORS = clustered(COUNT, DIM)
QUERIES = clustered(40, DIM, seed=1) - 0.3 * VECTORS.mean(axis=0)
"""Elsewhere than the pictures, as texts are."""


def slow(query: np.ndarray, k: int, vectors: np.ndarray = VECTORS) -> list[int]:
    scores = (vectors.astype(float) @ query.astype(float) / np.linalg.norm(query)).round(6)
    found: list[int] = np.argsort(-scores, kind="stable")[:k].tolist()
    return found


def numbers(hits: list[Hit]) -> list[int]:
    return [int(hit.path.stem) for hit in hits]


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def made(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(f"graph_{kind}") / "index"
    add_vectors(path, VECTORS)
    assert make_graph(path, kind) == ""
    return path


@pytest.fixture()
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(made, tmp_path / "index"))


def test_the_graph_finds_nearly_all_and_scores_exactly(folder: Path, kind: Kind) -> None:
    with Index.open(folder) as index:
        assert index.stats["graph"]["kind"] == kind and index.stats["graph"]["pictures"] == COUNT
        found = 0
        for query in QUERIES:
            hits = index.search_vector(query, 10)
            exact = VECTORS @ (query / np.linalg.norm(query))
            assert [hit.score for hit in hits] == pytest.approx(exact[numbers(hits)], abs=2e-6)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            found += len(set(numbers(hits)) & set(slow(query, 10)))
        assert found / (10 * len(QUERIES)) > 0.95


def test_recall_is_measured_and_kept(folder: Path) -> None:
    with Index.open(folder) as index:
        kept, (nearest, stats) = index.stats["recall"], (index._nearest, index.stats)
        shares = []
        for place in np.unique(np.linspace(0, COUNT - 1, 200).astype(int)):
            wanted = [n for n in slow(VECTORS[place], 11) if n != place][:10]
            ids, scores = nearest.find(VECTORS[place], 11)
            order = np.lexsort((ids, -scores))[:11]
            shares.append(len(set(wanted) & set((ids[order] - 1).tolist())) / 10)  # ids begin at 1
    assert kept == {"at_10": pytest.approx(np.mean(shares), abs=0.002), "queries": 200, "of": "pictures of the index"}
    assert kept["at_10"] > 0.95 and stats["search"] == "approximate, scored exactly"


def test_recall_of_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Index.open(folder) as index:
        monkeypatch.setattr(index, "_encode_texts", lambda texts: QUERIES[: len(texts)])
        shares = [
            len(set(numbers(index.search_vector(query, 10))) & set(slow(query, 10))) / 10 for query in QUERIES[:30]
        ]
        found = index.recall(["text"] * 30)
    assert found == {"at_10": pytest.approx(np.mean(shares), abs=0.002), "queries": 30, "of": "texts"}


def test_what_the_graph_lacks_is_compared_and_what_it_has_too_much_is_left_out(folder: Path, kind: Kind) -> None:
    new = clustered(50, DIM, seed=5)
    add_vectors(folder, new)
    with Catalogue(folder, write=True) as catalogue, catalogue.changing():
        catalogue.remove_files(path_of(number) for number in range(0, 1000, 3))
        catalogue.remove_pictures_without_file()
    left = set(range(0, 1000, 3))
    with Index.open(folder) as index:
        assert numbers(index.search_vector(new[7], 1)) == [COUNT + 7]
        assert not left & set(numbers(index.search_vector(VECTORS[3], 50)))
    assert make_graph(folder, kind) == ""
    with Index.open(folder) as index:
        assert index.stats["graph"]["pictures"] == COUNT + 50 - len(left) == len(index)
        assert numbers(index.search_vector(new[7], 1)) == [COUNT + 7]
        assert not len(index._nearest.later)
        assert index.stats["recall"]["at_10"] > 0.95


def test_filters_are_exact(folder: Path) -> None:
    with Index.open(folder) as index:
        wanted = index._catalogue.matching(Filter())
        among = wanted[wanted % 7 == 0]
        for query in QUERIES[:5]:
            unit = query / np.linalg.norm(query)
            ids, scores = index._nearest.find(unit, 10, among)
            best = np.argsort(-(VECTORS[among - 1] @ unit))[:10]
            assert set(ids) == set(among[best]) and len(scores) == len(ids)


def test_another_kind_and_too_few_pictures(folder: Path, kind: Kind) -> None:
    other = KINDS[(KINDS.index(kind) + 1) % 3]
    assert make_graph(folder, other) == ""
    with Catalogue(folder, write=True) as catalogue:
        assert catalogue.fact("graph")["kind"] == other
        assert [path.name for path in folder.glob("graph-*")] == [catalogue.fact("graph")["file"]]
        before = catalogue.fact("graph")
        update_graph(folder, catalogue, None, 0, lambda done, total: pytest.fail("made again"))
        assert catalogue.fact("graph") == before
        update_graph(folder, catalogue, None, COUNT * DIM, lambda done, total: None)
        assert catalogue.fact("graph") is None and catalogue.fact("graph_kind") == other
    with Index.open(folder) as index:
        assert index.stats["search"] == "exact"
        assert numbers(index.search_vector(QUERIES[0], 10)) == slow(QUERIES[0], 10)


def test_a_damaged_graph_is_refused_and_made_again(folder: Path, kind: Kind) -> None:
    (path,) = folder.glob("graph-*")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ProclipError, match="is damaged: delete it, and proclip index makes it again"):
        Index.open(folder)
    assert make_graph(folder, kind) == ""
    with Index.open(folder) as index:
        assert index.stats["recall"]["at_10"] > 0.95


def test_without_the_extra_search_is_exact_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_vectors(tmp_path / "index", VECTORS)
    monkeypatch.setattr("proclip.search.upkeep.installed", lambda: False)
    assert "pip install 'proclip-align[search]'" in make_graph(tmp_path / "index", "int8")
    with Index.open(tmp_path / "index") as index:
        assert numbers(index.search_vector(QUERIES[0], 10)) == slow(QUERIES[0], 10)
