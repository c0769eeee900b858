"""How texts are put into batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proclip.models.token_rows import batches


@given(st.lists(st.integers(1, 300), max_size=60), st.sampled_from([1, 64, 1024]))
def test_each_text_once_within_the_budget_and_with_little_padding(lengths: list[int], budget: int) -> None:
    parts = list(batches(lengths, budget))
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        longest = lengths[part[0]]
        assert longest == max(lengths[row] for row in part)
        assert len(part) == 1 or longest * len(part) <= budget
        assert sum(longest - lengths[row] for row in part) <= budget // 16


def test_texts_of_one_length_fill_a_batch() -> None:
    assert [len(part) for part in batches([8] * 20, 64)] == [8, 8, 4]


def test_a_few_texts_of_unlike_lengths_do_not_pad_each_other() -> None:
    assert list(batches([10, 200, 190, 12], 1024)) == [[1, 2], [3, 0]]
