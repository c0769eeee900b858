"""The Python of the guides runs, page by page, on the tiny model; and one model is the same model wherever it goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_docs import ROOT, python_blocks

import proclip
import proclip.onnx
from proclip.runs.serve import open_served, served_index
from proclip.search import update_index

QUERY = "a red bar on white"
RUN = "runs/quickstart/proclip_multilingual"


@pytest.fixture
def place(tiny_proclip_path: Path, tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as ``make quickstart`` leaves it, with the tiny model and two pictures in it."""
    emoji = tmp_path / "runs" / "mini" / "images" / "openmoji"
    (tmp_path / RUN).parent.mkdir(parents=True)
    (tmp_path / RUN).symlink_to(tiny_proclip_path.parent)
    emoji.mkdir(parents=True)
    for name, drawn in (("1F98A", "red-bar"), ("1F692", "blue-square")):
        (emoji / f"{name}.png").symlink_to(tiny_world / "images" / f"{drawn}.png")
    (tmp_path / "pictures").symlink_to(tiny_world / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(name: str, old: str = "", new: str = "") -> list[dict[str, Any]]:
    """Run a page's blocks in their order, with `new` in place of `old`; returns what each has named."""
    found = []
    for block in python_blocks(ROOT / "docs" / f"{name}.md"):
        if "langchain_core" not in block:  # tests/test_examples.py runs it
            names: dict[str, Any] = {}
            exec(block.replace(old, new) if old else block, names)
            found.append(names)
    return found


@pytest.mark.slow
def test_the_guides_python_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared, searched = run_page("python")
    assert compared["images"].shape == compared["texts"].shape == (2, 16)
    assert searched["hit"].path.parent.name == "images"
    written, encoded, _ = run_page("export", "72, 72", "16, 16")  # the tiny tower's size
    assert set(written["report"].manifest.parity) == {"image", "adapter", "embedder", "text"}
    wanted = written["model"].encode_text(["一只狐狸", "a fire engine"], convert_to_numpy=True)
    np.testing.assert_allclose(encoded["texts"], wanted, atol=1e-5)
    printed = capsys.readouterr().out
    assert "'size': {'shortest_edge': 16}" in printed and "torch.Size([3, 16])" in printed
    (place / "exported").symlink_to("fox-onnx")
    of_torch, of_onnx = run_page("quickstart")
    first, *_, last = capsys.readouterr().out.splitlines()
    chances = of_torch["model"].zero_shot(of_onnx["pictures"][0], ["vehicle", "mammal", "fruit"], "a drawing of a {}")
    assert first == str(chances)
    assert last == str(chances.numpy().round(3))


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_one_model_indexed_searched_served_and_exported(exported: Path) -> None:
    from serving import running  # skips where the server's packages are missing

    update_index("index", ["pictures"], RUN)
    with proclip.Index.open("index") as index:
        hits = index.search(QUERY, k=12)
    served = open_served(RUN, "cpu")
    with running(served, index=served_index(proclip.Index.open("index"), served)) as client:
        _, answer = client.post("/v1/search", {"text": QUERY, "k": 12})
    assert [row["name"] for row in answer["data"]] == [hit.path.name for hit in hits] and len(hits) == 12
    np.testing.assert_allclose([row["score"] for row in answer["data"]], [hit.score for hit in hits], atol=1e-5)
    model = proclip.onnx.load(exported, threads=1)
    cosines = model.similarity(model.encode_image([hit.path for hit in hits]), model.encode_text(QUERY))
    np.testing.assert_allclose(cosines[:, 0], [hit.score for hit in hits], atol=1e-3)  # the index keeps fewer digits
