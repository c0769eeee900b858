"""What the documentation says is so: its programs run, its tables agree with the recipes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import proclip
from proclip.runs.recipes import find_recipe, shipped_recipes

ROOT = Path(proclip.__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAPER = [name for name in shipped_recipes() if name.startswith("paper/")]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_docs_has_no_undefined_names(page: Path) -> None:
    for block in python_blocks(page):
        check = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,E9", "-"]
        done = subprocess.run(check, input=block, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_dreamlips_columns_are_named_alike_in_table_and_command() -> None:
    text = (ROOT / "docs" / "data_format.md").read_text()
    command = text.split("--columns raw=")[1].splitlines()[0]
    named = dict(pair.split("=") for pair in f"raw={command}".split(","))
    table = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text.split("### Join captions")[1], re.MULTILINE))
    assert named == {new: old for old, new in table.items()} and len(named) == 3


def header(name: str) -> str:
    lines = shipped_recipes()[name].read_text().splitlines()
    return " ".join(line[2:] for line in lines if line.startswith("# "))


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_recipes_header_is_true(name: str) -> None:
    recipe, text = find_recipe(name), header(name)
    assert "on each process" in text and "Hardware of the paper: " in text and "Expected" in text
    captions = text.split("Captions: ")[1].split(". Batch")[0]
    wanted = []
    if recipe.distill:
        assert recipe.distill.batch_size == 128 and "128 texts in stage 1" in text and "1,024 (8 x 128)" in text
        wanted.append(" and ".join(recipe.distill.captions) + " in stage 1")
    if recipe.tune:
        assert recipe.tune.batch_size == 512 and "512 pairs in stage 2" in text and "4,096 (8 x 512)" in text
        assert recipe.tune.captions == ("short", "long")  # what the public loader reads
        wanted.append("short and long in stage 2")
    assert captions == ", ".join(wanted)
    assert recipe.data.dataset in text
    own_code = recipe.embedder.trust_remote_code
    assert ("Not tested" in text) == ("--set embedder.revision=COMMIT" in text) == own_code


def test_the_table_of_recipes_has_each_once_with_its_headers_figures() -> None:
    rows = re.findall(
        r"^\|(.*?)\| `([a-z0-9_-]+)` \|(.*)\|$", (ROOT / "docs" / "paper_recipes.md").read_text(), re.MULTILINE
    )
    assert sorted(f"paper/{name}" for _, name, _ in rows) == sorted(PAPER)
    for _, name, cells in rows:
        expected = header(f"paper/{name}").split("Expected")[1].split("Not tested")[0]
        figures = re.findall(r"\d+\.\d", expected.split("(")[0]) if "(docs" not in expected else []
        in_table = re.findall(r"\d+\.\d", cells)
        assert set(figures) <= set(in_table), name
        assert bool(figures) == bool(in_table), name
