"""The examples run, on tiny models, and print what they promise; the adapter in the docs, with the real package."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from test_docs import ROOT, python_blocks

import proclip

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, *arguments: object) -> None:
    """The example as a user runs it, in this process."""
    sys.argv = [name, *map(str, arguments)]
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example writes by default goes to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_examples_are_short_and_in_cells() -> None:
    assert [path.stem for path in EXAMPLES] == [
        "align_your_own_pictures", "compare_two_models", "long_captions", "multilingual_search", "zero_shot_labels",
    ]  # fmt: skip
    for path in EXAMPLES:
        text = path.read_text()
        assert text.count("\n") < 110 and text.count("\n# %% ") >= 4 and f"python examples/{path.name}" in text
        assert f"examples/{path.name}" in (ROOT / "docs" / "python.md").read_text()


def test_zero_shot_labels(tiny_proclip_path: Path, tiny_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [tiny_world / "images" / f"{name}.png" for name in ("red-bar", "blue-square")]
    templates = ["a {} thing", "the colour {}"]
    run("zero_shot_labels", *pictures, "--model", tiny_proclip_path, "--labels", "red,green,blue",
        "--templates", ",".join(templates))  # fmt: skip
    printed = capsys.readouterr().out
    chances = proclip.load(tiny_proclip_path).zero_shot(pictures, ["red", "green", "blue"], templates)
    for row in chances.tolist():
        for label, chance in zip(("red", "green", "blue"), row, strict=True):
            assert re.search(rf"{label} +{100 * chance:.1f}%", printed)
    assert "all 2" in printed and "0 of 2 pictures get another label" in printed


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("align_your_own_pictures", "--world"), ("compare_two_models", "--second"), ("long_captions", "--model"),
        ("multilingual_search", "--model"), ("zero_shot_labels", "--model"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(name, option, "nowhere")
    assert "error: " in capsys.readouterr().err


def test_multilingual_search(tiny_proclip_path: Path, tiny_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [tiny_world / "images", "--model", tiny_proclip_path, "--names", tiny_world]
    run("multilingual_search", *arguments)
    printed = capsys.readouterr().out
    assert "12 pictures, 12 of them encoded now" in printed and printed.count("サーフィンする男") == 1
    run("multilingual_search", *arguments, "--query", "roter Balken")
    printed = capsys.readouterr().out
    assert "12 pictures, 0 of them encoded now" in printed
    with proclip.Index.open("runs/examples/index") as index:
        hits = index.search("roter Balken", k=4)
    assert ", ".join(f"{hit.path.stem.replace('-', ' ')} ({hit.score:.2f})" for hit in hits) in printed


def test_compare_two_models(
    tiny_proclip_path: Path, tiny_clip_path: Path, tiny_world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("compare_two_models", "--first", tiny_clip_path, "--second", tiny_proclip_path, "--data", tiny_world)
    printed = capsys.readouterr().out
    samples = list(proclip.ImageCaptions(tiny_world).select("test"))
    model = proclip.load(tiny_proclip_path)
    images = model.encode_image([str(sample.picture) for sample in samples], convert_to_numpy=True)
    texts = model.encode_text([sample.captions["short"] for sample in samples], convert_to_numpy=True)
    first = np.mean((texts @ images.T).argmax(axis=1) == np.arange(len(samples)))
    assert f"{len(samples)} pictures" in printed
    assert re.search(rf"short +{re.escape(str(tiny_proclip_path))} +{first:.1%} +100.0%", printed)
    assert "gained most" in printed and "lost most" in printed


def test_long_captions(
    tiny_proclip_path: Path, tiny_clip_path: Path, tiny_world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("long_captions", "--model", tiny_proclip_path, "--clip", tiny_clip_path, "--data", tiny_world)
    printed = capsys.readouterr().out
    assert "3 captions of 81 to 81 words" in printed and "cuts 3 of them" in printed and "reads 512 tokens" in printed
    same, differ = (float(cosine) for cosine in re.findall(r"^  ([\d.]+)  /", printed, re.MULTILINE))
    assert same == 1 and differ < 1  # the CLIP does not see the end, the LLM does


def test_align_your_own_pictures(
    tiny_clip_path: Path, tiny_llm_path: Path, tiny_world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "adapter.num_blocks=1",
        "distill.epochs=1",
        "tune.epochs=1",
        "embedder.dtype=float32",
        "embedder.layer=1",
    ]
    run("align_your_own_pictures", "--clip", tiny_clip_path, "--embedder", tiny_llm_path, "--world", tiny_world,
        "--pictures", 6, *(part for setting in settings for part in ("--set", setting)))  # fmt: skip
    printed = capsys.readouterr().out
    assert "right picture first, of 3 that were held out" in printed
    assert re.search(r"short +\d+\.\d% +\d+\.\d%\nlong +\d+\.\d% +\d+\.\d%", printed)
    assert Path("runs/examples/align/model/config.json").is_file()
    assert len(Path("runs/examples/pictures/metadata.jsonl").read_text().splitlines()) == 9


def test_langchain_adapter(tiny_proclip_path: Path) -> None:
    pytest.importorskip("langchain_core")
    (block,) = (block for block in python_blocks(ROOT / "docs" / "python.md") if "langchain_core" in block)
    name = "runs/quickstart/proclip_multilingual"
    adapter = block[block.index("class ") : block.index("embeddings =")].rstrip()
    assert block.count(name) == 1 and adapter.count("\n") < 10
    names: dict[str, object] = {}
    exec(block.replace(name, str(tiny_proclip_path)), names)
    model = proclip.load(tiny_proclip_path)
    texts = ["a red bar on white", "ein grünes Quadrat", "a blue column"]
    found = [(document.page_content, score) for document, score in names["found"]]  # type: ignore[attr-defined]
    scores = (model.encode_text(texts) @ model.encode_text("something green")).tolist()
    wanted = sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])[:2]
    assert [text for text, _ in found] == [text for text, _ in wanted]
    assert np.allclose([score for _, score in found], [score for _, score in wanted], atol=1e-5)
    assert np.allclose(names["embeddings"].embed_query("a"), model.encode_text("a"))  # type: ignore[attr-defined]
