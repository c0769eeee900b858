"""Keys by hash: against dicts of Python, and where two keys share half of a hash."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proclip.data.key_table import KeyIndex, KeyTable, digests, first_places
from proclip.errors import ProclipError


def test_digests_are_sha256() -> None:
    (high, low), _ = digests(["a cat", "赤い家"]).tolist()
    digest = sha256(b"a cat").digest()
    assert high == int.from_bytes(digest[:8], "big", signed=True)
    assert low == int.from_bytes(digest[8:16], "big", signed=True)
    assert digests([]).shape == (0, 2)


pairs = st.lists(st.tuples(st.sampled_from([-(2**63), -5, 0, 7, 2**63 - 1]), st.integers(-2, 2)), max_size=40)


@given(pairs)
def test_first_places_are_those_of_a_dict(rows: list[tuple[int, int]]) -> None:
    seen: dict[tuple[int, int], int] = {}
    wanted = [seen.setdefault(row, place) for place, row in enumerate(rows)]
    assert first_places(np.array(rows, dtype=np.int64).reshape(-1, 2)).tolist() == wanted


@given(pairs, pairs)
def test_an_index_finds_what_a_dict_finds(rows: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    """Many rows share their first half, as no two keys of a real store do."""
    rows = list(dict.fromkeys(rows))
    known = {row: (place, 100 + place) for place, row in enumerate(rows)}
    hashes = np.array(rows, dtype=np.int64).reshape(-1, 2)
    half = len(rows) // 2
    places = np.arange(len(rows))
    whole = KeyIndex.of(hashes, places, places + 100)
    joined = KeyIndex.of(hashes[:half], places[:half], places[:half] + 100).joined(
        KeyIndex.of(hashes[half:], places[half:], places[half:] + 100)
    )
    for index in (whole, joined):
        found = index.find(np.array([*asked, *rows], dtype=np.int64).reshape(-1, 2))
        assert list(zip(found.rows.tolist(), found.texts.tolist(), strict=True)) == [
            known.get(row, (-1, 0)) for row in [*asked, *rows]
        ]


def test_a_key_twice_is_refused() -> None:
    with pytest.raises(ProclipError, match="twice"):
        KeyIndex.of(np.array([[1, 2], [1, 3], [1, 2]]), np.arange(3), np.arange(3))


@given(st.lists(st.text(), max_size=30))
def test_a_table_keeps_keys_in_order(keys: list[str]) -> None:
    table = KeyTable.of(keys, digests(keys), np.arange(len(keys)))
    assert list(table) == keys
    kept = np.arange(len(keys)) % 3 == 1
    assert list(table.only(kept)) == keys[1::3]
    assert table.only(kept).rows.tolist() == list(range(len(keys)))[1::3]


def test_tables_and_indexes_are_read_from_disk(tmp_path: Path) -> None:
    keys = ["a#short", "赤#長", ""]
    table = KeyTable.of(keys, digests(["1", "2", "3"]), np.array([2, 0, 1]))
    table.write(tmp_path / "keys")
    again = KeyTable.open(tmp_path / "keys")
    assert list(again) == keys
    KeyIndex.of_tables([again]).write(tmp_path, "now")
    assert KeyIndex.read(tmp_path, "then") is None
    index = KeyIndex.read(tmp_path, "now")
    assert index is not None
    assert index.find(digests(["", "b", "a#short"])).rows.tolist() == [1, -1, 2]
    (tmp_path / "keys").write_bytes((tmp_path / "keys").read_bytes()[:-8])
    with pytest.raises(ProclipError, match="keys is damaged"):
        KeyTable.open(tmp_path / "keys")
