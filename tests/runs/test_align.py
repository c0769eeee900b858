"""``proclip align``: one command from captioned images to a model, for every kind of CLIP and of embedder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_embedders import multilingual_e5, qwen3_embedding
from tiny_llms import llama3
from tiny_open_clip import save_tiny_open_clip
from tiny_siglip import write_siglip2_fixed, write_siglip2_naflex

from proclip.cli import main
from proclip.config import Recipe, load_recipe
from proclip.data.dataset import ImageCaptions, caption_of
from proclip.errors import ProclipError
from proclip.models import embedder as embedder_module
from proclip.models.proclip import ProCLIP
from proclip.results import load_results
from proclip.runs import align as align_module
from proclip.runs.align import align_recipe, common_captions

QUICK = [
    "--set", "adapter.num_blocks=1", "--set", "distill.epochs=1", "--set", "tune.epochs=1",
    "--set", "tune.batch_size=4", "--set", "distill.batch_size=4", "--set", "embedder.dtype=float32",
]  # fmt: skip


def align(data: Path, out: Path, clip: str, embedder: Path, *more: str) -> int:
    arguments = ["--clip", clip, "--embedder", str(embedder), "--data", str(data), "--captions", "short,long"]
    return main(["align", *arguments, "--out", str(out), *QUICK, *more])


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    (tmp_path / "qwen").mkdir()
    return qwen3_embedding(tmp_path / "qwen")


def check_model(out: Path, data: Path) -> ProCLIP:
    """The run folder holds a model that encodes both sides, and figures of both methods on the held-out rows."""
    for name in ("clip", "distill", "tune"):
        (result,) = load_results(out / "evaluation" / f"{name}.json").benchmarks.values()
        assert result.data["images"] == 3 and result.notes["split"] == "test"
        assert {key.split("/")[0] for key in result.figures} == {"short", "long"}
        assert 0 <= result.figures["short/t2i_r@1"].value <= 1
    assert "short/t2i_r@1" in (out / "evaluation" / "tune-forgetting.md").read_text()
    model = ProCLIP.from_pretrained(out / "model")
    image = model.encode_image([data / "images" / "red-bar.png"])
    text = model.encode_text(["a red bar on white, seen from far away"])
    torch.testing.assert_close(image.norm(dim=1), torch.ones(1))
    assert model.similarity(image, text).shape == (1, 1)
    return model


def test_clip_with_qwen3(
    tiny_world: Path, tmp_path: Path, tiny_clip_path: Path, qwen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert align(tiny_world, out, str(tiny_clip_path), qwen) == 0
    model = check_model(out, tiny_world)
    assert model.embedder_config is not None and model.embedder_config.backend == "sentence-transformers"
    recipe = load_recipe(out / "recipe.toml")
    assert recipe.adapter.input_norm == "l2" and recipe.tune is not None and recipe.tune.captions == ("short", "long")
    # the CLIP reads 77 tokens, and every long caption has more: stage 1 goes without them
    said = capsys.readouterr().err
    assert "distill: 9 of 18 texts (50.0%) are left out, for the teacher would cut them" in said
    assert "teacher: 9 captions embedded from 9 texts, 0 of them cut" in said
    assert (model.provenance or {})["data"]["stages"]["stage 1"].endswith("captions that the teacher cuts left out")
    weights = (out / "model" / "model.safetensors").read_bytes()
    assert align(tiny_world, out, str(tiny_clip_path), qwen) == 0  # all of it is found
    assert (out / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("write", [write_siglip2_fixed, pytest.param(write_siglip2_naflex, marks=pytest.mark.slow)])
def test_siglip2_with_e5(write: Callable[[Path], Path], tiny_world: Path, tmp_path: Path) -> None:
    (tmp_path / "e5").mkdir()
    (tmp_path / "clip").mkdir()
    clip = write(tmp_path / "clip")
    assert align(tiny_world, tmp_path / "run", str(clip), multilingual_e5(tmp_path / "e5")) == 0
    check_model(tmp_path / "run", tiny_world)


def test_siglip2_with_the_sigmoid_loss(tiny_world: Path, tmp_path: Path, qwen: Path) -> None:
    (tmp_path / "clip").mkdir()
    clip, out = write_siglip2_fixed(tmp_path / "clip"), tmp_path / "run"
    assert align(tiny_world, out, str(clip), qwen, "--set", "tune.contrastive=sigmoid") == 0
    assert check_model(out, tiny_world).logit_bias is not None


@pytest.mark.slow
def test_eva02_of_open_clip_with_a_bidirectional_llama(
    torchvision_operators: None, tiny_world: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned"
    folder.mkdir()
    llama3(folder)
    clip = save_tiny_open_clip("eva02", tmp_path / "eva02")
    assert align(tiny_world, tmp_path / "run", f"open_clip:{clip}", folder) == 0
    model = check_model(tmp_path / "run", tiny_world)
    assert model.image_tower.family == "open_clip"
    assert model.embedder_config is not None and model.embedder_config.backend == "llm2vec"


def test_a_plain_causal_lm_is_standardised_and_trained_on_every_column(
    tiny_world: Path, tmp_path: Path, tiny_clip_path: Path, tiny_llm_path: Path
) -> None:
    command = ["align", "--clip", str(tiny_clip_path), "--embedder", str(tiny_llm_path), "--data", str(tiny_world)]
    assert main([*command, "--out", str(tmp_path / "run"), *QUICK, "--set", "embedder.layer=1"]) == 0
    assert load_recipe(tmp_path / "run" / "recipe.toml").adapter.input_norm == "standardize"
    (result,) = load_results(tmp_path / "run" / "evaluation" / "tune.json").benchmarks.values()
    prefixes = {key.rpartition("/")[0] for key in result.figures}
    assert prefixes >= {"name/de", "name/en", "short", "long"}


def test_held_out_rows_are_measured_on_the_columns_that_they_have(tiny_world: Path, tmp_path: Path) -> None:
    def change(number: int, row: dict[str, Any]) -> None:
        row["captions.fr"] = f"image {number}"
        if "test" in row["splits"]:
            del row["short"], row["name_en"]

    data = rows_of(tiny_world, tmp_path / "data", change)
    tasks = {
        captions: evaluate.tasks
        for captions in ((), ("short", "name_de"), ("captions.fr", "long"))
        if (evaluate := recipe_of(data, tmp_path, captions=captions).evaluate) is not None
    }
    assert tasks == {
        (): ("name_de", "long", "captions/fr"), ("short", "name_de"): ("name_de",),
        ("captions.fr", "long"): ("long", "captions/fr"),
    }  # fmt: skip


def test_captions_are_those_that_every_image_has(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_world / "images", data / "images")
    rows = [json.loads(line) for line in (tiny_world / "metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        del row["splits"]
        if number == 3:
            del row["long"]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert common_captions(ImageCaptions(data), "align") == ("name_en", "name_de", "short")
    for row in rows:
        for column in ("name_en", "name_de", "short"):
            row.pop(column)
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["align", "--clip", "mini-clip", "--embedder", "smollm2", "--data", str(data)]) == 2
    assert "no caption column has a text for every image" in capsys.readouterr().err


def rows_of(world: Path, folder: Path, change: Callable[[int, dict[str, Any]], None]) -> Path:
    """A copy of the world whose rows `change` has changed in place."""
    shutil.copytree(world / "images", folder / "images")
    rows = [json.loads(line) for line in (world / "metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        change(number, row)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe_of(data: Path, tmp_path: Path, *settings: str, captions: Sequence[str] = ()) -> Recipe:
    return align_recipe("mini-clip", "smollm2", ImageCaptions(data), tmp_path / "run", captions, settings)


def test_the_split_is_train_or_all_that_is_not_held_out(tiny_world: Path, tmp_path: Path) -> None:
    def name(split: str) -> Callable[[int, dict[str, Any]], None]:
        def change(number: int, row: dict[str, Any]) -> None:
            row["splits"] = ["test"] if number < 3 else [split] if number < 10 else ["extra"]
            if number >= 10:
                del row["short"]

        return change

    train = rows_of(tiny_world, tmp_path / "train", name("train"))
    recipe = recipe_of(train, tmp_path)
    assert recipe.distill and recipe.tune
    for stage in (recipe.distill, recipe.tune):
        assert (stage.split, stage.batch_size) == ("train", 7)
        assert stage.captions == ("name_en", "name_de", "short", "long")
    other = recipe_of(rows_of(tiny_world, tmp_path / "other", name("fit")), tmp_path)
    assert other.distill and other.distill.split == "not test" and other.distill.batch_size == 9
    assert other.distill.captions == ("name_en", "name_de", "long")
    changed = recipe_of(train, tmp_path, "tune.split=extra", "tune.batch_size=5", captions=["long"])
    assert changed.distill and changed.distill.split == "train" and changed.tune
    assert (changed.tune.split, changed.tune.batch_size, changed.tune.captions) == ("extra", 5, ("long",))
    whole = recipe_of(train, tmp_path, 'tune={captions=["name_en"]}').tune
    assert whole and (whole.split, whole.captions, whole.batch_size) == ("train", ("name_en",), 7)


def test_a_stage_can_be_left_out(tiny_world: Path, tmp_path: Path, tiny_clip_path: Path, tiny_llm_path: Path) -> None:
    arguments = ["--set", "distill=none", "--set", "embedder.layer=1"]
    plain = [setting for setting in QUICK if "distill" not in setting]
    clip, llm = str(tiny_clip_path), str(tiny_llm_path)
    command = ["align", "--clip", clip, "--embedder", llm, "--data", str(tiny_world), "--captions", "short"]
    quick = [part for s in plain if s != "--set" for part in ("--set", s)]
    assert main([*command, "--out", str(tmp_path / "run"), *quick, *arguments]) == 0
    assert load_recipe(tmp_path / "run" / "recipe.toml").distill is None
    assert not (tmp_path / "run" / "embeddings" / "teacher").exists()
    assert recipe_of(tiny_world, tmp_path, "tune=none").tune is None
    for settings in (["distill=no"], ["distill=no", "tune=none"]):
        with pytest.raises(ProclipError, match="distill must be a table, or 'none' to leave it out, not 'no'"):
            recipe_of(tiny_world, tmp_path, *settings)
    with pytest.raises(ProclipError, match="distill=none and tune=none leave nothing to train"):
        recipe_of(tiny_world, tmp_path, "distill=none", "tune=none")


def test_columns_of_lists_are_named(tiny_world: Path, tmp_path: Path) -> None:
    def listed(number: int, row: dict[str, Any]) -> None:
        row["captions"] = [row.pop(column) for column in ("name_en", "name_de", "short", "long")]

    data = rows_of(tiny_world, tmp_path / "data", listed)
    with pytest.raises(ProclipError, match="captions holds lists, and a caption column holds one text an image"):
        recipe_of(data, tmp_path)
    with pytest.raises(ProclipError, match="'captions' holds a list; a caption column holds one text an image"):
        caption_of(ImageCaptions(data).select("align")[0], "captions")


@pytest.mark.parametrize(
    ("settings", "broken", "message"),
    [
        (["--clip", "no-such/clip"], "", "no-such/clip"),
        (["--set", "tune.optim.autocast=float16"], "", "needs a CUDA device"),
        (["--set", "tune.optim.rules=[{match='text_tower', freeze=true}]"], "", "text_tower"),
        (["--set", "tune.image.mode=last_blocks", "--set", "tune.image.blocks=9"], "", "blocks"),
        (["--out", "pyproject.toml"], "", "--out pyproject.toml is a file: name a folder for the run"),
        ([], "clip", "the weights cannot be loaded"),
        ([], "picture", "1 of 12 pictures cannot be used: image "),
    ],
)
def test_what_is_wrong_is_found_before_the_llm_is_loaded(
    settings: list[str], broken: str, message: str, tiny_world: Path, tmp_path: Path, tiny_clip_path: Path,
    tiny_llm_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def load(*_: object) -> None:
        raise AssertionError("the LLM is loaded")

    monkeypatch.setattr(embedder_module, "load_embedder", load)
    clip = Path(shutil.copytree(tiny_clip_path, tmp_path / "clip"))
    data = Path(shutil.copytree(tiny_world, tmp_path / "data"))
    spoiled = {"clip": clip / "model.safetensors", "picture": data / "images" / "grey-bar.png"}.get(broken)
    if spoiled is not None:
        spoiled.write_bytes(spoiled.read_bytes()[:-60])
    out = tmp_path / "run"
    clips = [] if "--clip" in settings else ["--clip", str(clip)]
    command = ["align", *clips, "--embedder", str(tiny_llm_path), "--data", str(data), "--captions", "short"]
    assert main([*command, "--out", str(out), *settings]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    if broken == "picture":
        with pytest.raises(AssertionError, match="the LLM is loaded"):
            main([*command, "--out", str(out), "--trust-images"])


def test_a_changed_setting_of_a_run_is_refused_before_anything_is_embedded(
    tiny_world: Path, tmp_path: Path, tiny_clip_path: Path, tiny_llm_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A run without a checkpoint takes another recipe, and keeps its embeddings."""
    out, settings = tmp_path / "run", ["--set", "embedder.layer=1"]

    def train(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(align_module, "train_recipe", train)
        assert align(tiny_world, out, str(tiny_clip_path), tiny_llm_path, *settings) == 130
    assert align(tiny_world, out, str(tiny_clip_path), tiny_llm_path, *settings, "--set", "seed=1") == 0
    assert "LLM: 0 captions embedded" in capsys.readouterr().err

    def embed(*_: object) -> None:
        raise AssertionError("embedding begins")

    monkeypatch.setattr(align_module, "embed_recipes", embed)
    assert align(tiny_world, out, str(tiny_clip_path), tiny_llm_path, *settings, "--set", "seed=2") == 2
    assert "(seed: it has 1, now 2)" in capsys.readouterr().err
