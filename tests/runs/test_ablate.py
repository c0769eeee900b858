"""The ablation's plan and its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from proclip.config import config_hash
from proclip.mini.concepts import LANGUAGES
from proclip.runs.ablate import COMPONENTS, CONTROLS, MULTILINGUAL, PROCLIP, tables, variants
from proclip.runs.columns import COLUMNS, cell


def test_every_row_is_another_run() -> None:
    rows = variants(3, Path("ablation"))
    assert list(rows)[: len(COMPONENTS)] == list(COMPONENTS)
    assert len({config_hash(recipe) for recipe in rows.values()}) == len(COMPONENTS) + len(CONTROLS) + 3
    assert all(recipe.seed == 3 for recipe in rows.values())
    weights = [recipe.tune.distillation_weight for name, recipe in rows.items() if recipe.tune and "lambda" in name]
    assert weights == pytest.approx([2e-4, 6e-4, 1e-3])


def test_only_rows_with_the_shared_stage_1_start_from_it() -> None:
    rows = variants(0, Path("ablation"))
    for name, recipe in rows.items():
        if recipe.init:
            assert recipe.init == "ablation/seed0/stage-1-l-ins-l-struct/model"
            assert recipe.distill is None and recipe.tune is not None, name
    align = rows["ProCLIP, stage 1 on the captions of the 1,000 align pictures"]
    assert align.init is None and align.distill is not None and align.distill.split == "align"


def test_cells_are_mean_and_deviation_over_seeds_of_the_mean_of_figures() -> None:
    mean, spread = cell([{"a": 0.1, "b": 0.3}, {"a": 0.3, "b": 0.5}], ["a", "b"])
    assert (mean, spread) == pytest.approx((30.0, 200**0.5))
    assert cell([{"a": 0.5}], ["a"]) == (50.0, 0.0)


def test_tables_hold_the_rows_that_are_there() -> None:
    keys = {key for keys in COLUMNS.values() for key in keys} | {f"multilingual/{lg}/t2i_r@1" for lg in LANGUAGES}
    figures = {row: [dict.fromkeys(keys, 0.25), dict.fromkeys(keys, 0.35)] for row in ("LLM2CLIP", PROCLIP)}
    figures["CLIP itself"] = [dict.fromkeys(keys, 0.4)]
    figures["stage 1, L_ins"] = [dict.fromkeys(keys, 0.2)]
    text = tables(figures, 4e-4)
    assert "| stage 1, L_ins (1 of 2 seeds) | 20.0 |" in text
    assert f"| {PROCLIP} | 30.0 ± 7.1 |" in text
    assert "| 0.0004 | 30.0 ± 7.1 |" in text and "| 0.001 |" not in text
    assert "| CLIP itself | 40.0 |" in text
    assert "Controls" not in text and "languages" not in text
    figures[MULTILINGUAL] = figures[PROCLIP]
    assert "reads en, de, es, ru, ar, ja, zh." in tables(figures, 4e-4)
