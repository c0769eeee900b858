"""A run is what it was made from: changed captions, starts and data are noticed, and nobody's files are deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_recipe import HEAD, STAGES

from proclip.cli import main
from proclip.config import AdapterConfig, EmbedderConfig
from proclip.data.dataset import ImageCaptions
from proclip.errors import ProclipError
from proclip.models.adapter import Adapter
from proclip.models.clip import load_clip
from proclip.models.proclip import ProCLIP
from proclip.models.zero_shot import build_zero_shot_classifier

Fails = Callable[..., str]
RECIPE = HEAD + STAGES


@pytest.fixture
def world(tiny_world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_world, tmp_path / "world"))


@pytest.fixture
def recipe(world: Path, tiny_clip_path: Path, tiny_llm_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(clip=tiny_clip_path, llm=tiny_llm_path, world=world, store=tmp_path / "store"))
    return path


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Fails:
    def fails(*command: str) -> str:
        capsys.readouterr()
        assert main(list(command)) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    return fails


def change_a_caption(world: Path) -> None:
    path = world / "metadata.jsonl"
    path.write_text(path.read_text().replace("a red bar on white", "a red stripe on white"))


def test_a_folder_with_other_files_is_never_emptied(recipe: Path, tmp_path: Path, error: Fails) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(recipe, mine / "recipe.toml")
    (mine / "thesis.txt").write_text("three years")
    assert main(["embed", str(recipe)]) == 0
    message = error("train", str(recipe), "--set", "seed=1", "--out", str(mine))
    assert "holds a run of another recipe (seed: it has 0, now 1)" in message
    assert (mine / "thesis.txt").read_text() == "three years"


def test_fields_that_differ_are_named_whole(recipe: Path, tmp_path: Path, error: Fails) -> None:
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    message = error("train", str(recipe), "--set", "tune.epochs=7", "--out", str(tmp_path / "run"))
    assert "(tune.epochs: it has 1, now 7)" in message


def test_a_caption_changed_since_it_was_embedded(recipe: Path, world: Path, tmp_path: Path, error: Fails) -> None:
    assert main(["embed", str(recipe)]) == 0
    change_a_caption(world)
    message = error("train", str(recipe), "--out", str(tmp_path / "run"))
    assert "the text of caption 'red-bar#short' has changed since it was embedded at" in message
    assert error("embed", str(recipe)).endswith("run  proclip embed  with --replace, or give it another key")
    assert main(["embed", str(recipe), "--replace"]) == 0
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0


def test_a_store_of_another_format(recipe: Path, tmp_path: Path, error: Fails) -> None:
    assert main(["embed", str(recipe)]) == 0
    message = error("train", str(recipe), "--out", str(tmp_path / "run"), "--set", "data.store_dtype=int8")
    assert "data.store_dtype is 'int8', but the embeddings at" in message and "are 'float16': set it to that" in message


def test_a_finished_run_of_other_captions_is_not_reused(
    recipe: Path,
    world: Path,
    tmp_path: Path,
    error: Fails,
) -> None:
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    change_a_caption(world)
    message = error("train", str(recipe), "--out", str(tmp_path / "run"))
    assert "was made from other inputs (distill data: want" in message and "tune data: want" in message


def test_a_start_that_was_trained_again_is_noticed(recipe: Path, tmp_path: Path, error: Fails) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    start = ["--set", f"init={first / 'model'}", "--out", str(second)]
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(first)]) == 0
    assert main(["train", str(recipe), *start]) == 0
    shutil.rmtree(first)
    assert main(["train", str(recipe), "--set", "seed=5", "--out", str(first)]) == 0
    assert "was made from other inputs (init: want" in error("train", str(recipe), *start)


def test_a_start_with_another_embedder_is_refused(recipe: Path, tmp_path: Path, error: Fails) -> None:
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(tmp_path / "first")]) == 0
    other = ["--set", "embedder.layer=0", "--set", f"data.store={tmp_path / 'other'}"]
    assert main(["embed", str(recipe), *other]) == 0
    start = ["--set", f"init={tmp_path / 'first' / 'model'}", "--out", str(tmp_path / "second")]
    message = error("train", str(recipe), *other, *start)
    assert "was trained with another embedder: layer: want 0, have 1" in message


def test_a_start_of_another_width_is_refused(recipe: Path, tiny_clip_path: Path, tmp_path: Path, error: Fails) -> None:
    clip = load_clip(str(tiny_clip_path))
    adapter = Adapter(8, clip.dim, AdapterConfig(num_blocks=1))
    ProCLIP(clip.image_tower, adapter, 2.0, clip.preprocess, EmbedderConfig()).save_pretrained(tmp_path / "start")
    assert main(["embed", str(recipe)]) == 0
    message = error("train", str(recipe), "--set", f"init={tmp_path / 'start'}", "--out", str(tmp_path / "run"))
    assert message.endswith("start is for vectors 8 wide, those of data.store are 16")


def test_arithmetic_is_checked_before_stage_1(recipe: Path, tmp_path: Path, error: Fails) -> None:
    assert main(["embed", str(recipe)]) == 0
    run = tmp_path / "run"
    assert "needs a CUDA device" in error(
        "train", str(recipe), "--set", "tune.optim.autocast=float16", "--out", str(run)
    )
    assert not run.exists()


def test_a_damaged_inputs_file_is_named(recipe: Path, tmp_path: Path, error: Fails) -> None:
    assert main(["embed", str(recipe)]) == 0
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "run" / "inputs.json").write_text("{")
    assert "inputs.json is not JSON" in error("train", str(recipe), "--out", str(tmp_path / "run"))


def test_captions_may_hold_any_character(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    row = json.dumps({"file_name": "a.png", "short": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n".encode())
    assert ImageCaptions(tmp_path)["a.png"].captions["short"] == "one\u2028two"


def test_a_classifier_needs_names_and_places_for_them() -> None:
    with pytest.raises(ProclipError, match="at least one class name"):
        build_zero_shot_classifier(lambda texts: texts, [], ["a {}"])  # type: ignore[arg-type,return-value]
    with pytest.raises(ProclipError, match=r"must each hold \{\} where the class name goes"):
        build_zero_shot_classifier(lambda texts: texts, ["cat"], ["a photo"])  # type: ignore[arg-type,return-value]
