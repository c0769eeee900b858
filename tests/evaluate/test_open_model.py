"""Every kind of model opens by its name, with the vectors that its own library gives it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_embedders
import torch
import torch.nn.functional as F
from PIL import Image

from proclip.config import config_hash, load_recipe
from proclip.errors import ProclipError
from proclip.evaluate.dual_encoder import DualEncoder
from proclip.evaluate.open_model import card_languages, open_model
from proclip.models.clip import load_clip
from proclip.models.embedder import LazyEmbedder
from proclip.models.proclip import ProCLIP
from proclip.models.towers import build_image_tower

TEXTS = ["a red bar", "a green square on white", "a column " * 60]


@pytest.fixture(scope="module")
def images(tiny_world: Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted((tiny_world / "images").glob("*.png"))[:5]]


@pytest.fixture(scope="module")
def st_clip(tmp_path_factory: pytest.TempPathFactory, tiny_clip_path: Path) -> Path:
    """A sentence-transformers folder of the tiny CLIP, with a prompt for queries."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    source = tmp_path_factory.mktemp("source") / "clip"
    shutil.copytree(tiny_clip_path, source)
    model = SentenceTransformer(
        modules=[Transformer(str(source), processor_kwargs={"model_max_length": 77})],
        device="cpu",
        prompts={"query": "see: ", "document": ""},
    )
    folder = tmp_path_factory.mktemp("st") / "tiny-st-clip"
    model.save_pretrained(str(folder))
    return folder


def vectors(model: DualEncoder, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the pictures and the texts, unit length."""
    features = model.images.encode([model.images.prepare(image) for image in images])
    return F.normalize(features, dim=-1), F.normalize(model.project_text(model.texts.encode(TEXTS).embeds), dim=-1)


def test_a_clip(tiny_clip_path: Path, images: list[Image.Image]) -> None:
    clip, model = load_clip(str(tiny_clip_path)), open_model(str(tiny_clip_path))
    with torch.inference_mode():
        wanted = clip.image_tower(torch.stack([clip.preprocess(image) for image in images]))
    image_embeds, text_embeds = vectors(model, images)
    torch.testing.assert_close(image_embeds, F.normalize(wanted, dim=-1), rtol=0, atol=1e-6)
    assert torch.equal(text_embeds, F.normalize(clip.encode(TEXTS).embeds, dim=-1))
    assert model.texts.for_classes() is model.texts
    assert (model.name, model.about["path"]) == (tiny_clip_path.name, str(tiny_clip_path))
    assert open_model("mini-clip").languages == ("en",)


def test_a_run_and_its_model(tiny_proclip_path: Path, images: list[Image.Image], tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    shutil.copytree(tiny_proclip_path, run / "model")
    (run / "recipe.toml").write_text('name = "mine"\nseed = 5\n\n[distill]\nsplit = "align"\ncaptions = ["short"]\n')
    ours, model = ProCLIP.from_pretrained(tiny_proclip_path), open_model(str(run))
    image_embeds, text_embeds = vectors(model, images)
    torch.testing.assert_close(image_embeds, ours.encode_image(images), rtol=0, atol=1e-6)
    torch.testing.assert_close(text_embeds, ours.encode_text(TEXTS), rtol=0, atol=1e-6)
    assert (model.name, model.about["seed"], model.about["clip"]) == ("my-run", 5, ours.clip_name)
    assert model.about["config_hash"] == config_hash(load_recipe(run / "recipe.toml"))
    assert isinstance(model.texts, LazyEmbedder) and model.texts._embedder is not None
    model.close()
    assert model.texts._embedder is None
    assert "seed" not in open_model(str(tiny_proclip_path)).about
    shutil.rmtree(run / "model")
    with pytest.raises(ProclipError, match="my-run is a run that has not finished: it has no model yet"):
        open_model(str(run))


def test_a_locked_tower_is_its_clips(tiny_clip_path: Path, tiny_proclip_path: Path) -> None:
    clip, trained = load_clip(str(tiny_clip_path)), open_model(str(tiny_proclip_path))
    original = open_model(str(tiny_clip_path))
    assert trained.images.identity != original.images.identity
    copied = build_image_tower(clip.image_tower.family, clip.image_tower.config, clip.dim)
    copied.load_state_dict(clip.image_tower.state_dict())
    locked = type(original.images)(copied, clip.preprocess)  # type: ignore[call-arg]
    assert locked.identity == original.images.identity


def test_a_clip_of_sentence_transformers(st_clip: Path, tiny_clip_path: Path, images: list[Image.Image]) -> None:
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(st_clip), device="cpu", local_files_only=True)
    model = open_model(f"st:{st_clip}")
    image_embeds, text_embeds = vectors(model, images)
    wanted = torch.as_tensor(theirs.encode_query(TEXTS, normalize_embeddings=True))
    torch.testing.assert_close(text_embeds, wanted, rtol=0, atol=1e-6)
    wanted = torch.as_tensor(theirs.encode_document(images, normalize_embeddings=True))
    torch.testing.assert_close(image_embeds, wanted, rtol=0, atol=1e-6)
    cut = model.texts.encode(TEXTS).cut
    assert cut is not None and cut.tolist() == [False, False, True]
    assert model.texts.identity["prompt"] == "see: "
    assert (model.name, model.texts.dim, model.texts.for_classes()) == ("tiny-st-clip", 16, model.texts)
    ours, _ = vectors(open_model(str(tiny_clip_path)), images)
    torch.testing.assert_close(image_embeds, ours, rtol=0, atol=1e-5)


def test_modules_json_that_is_not_ours_is_theirs(st_clip: Path, tmp_path: Path) -> None:
    """In a subfolder, as the published CLIPs of sentence-transformers have it."""
    folder = tmp_path / "published"
    shutil.copytree(st_clip, folder / "0_CLIPModel")
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / "0_CLIPModel" / name).rename(folder / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_CLIPModel"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert open_model(str(folder)).images.identity["kind"] == "sentence-transformers-images"
    assert open_model(str(st_clip)).images.identity["kind"] == "image-tower"  # read as a CLIP; st: reads it otherwise


def test_a_model_of_texts_alone_is_refused(tmp_path: Path) -> None:
    folder = tiny_embedders.multilingual_e5(tmp_path)
    with pytest.raises(ProclipError, match="does not encode images: a model under evaluation encodes pictures"):
        open_model(str(folder))


def test_an_open_clip_model(torchvision_operators: None, tmp_path: Path, images: list[Image.Image]) -> None:
    from tiny_open_clip import save_tiny_open_clip

    folder = save_tiny_open_clip("vit", tmp_path / "tiny-vit")
    clip = load_clip(str(folder))
    for name in (str(folder), f"open_clip:{folder}"):
        model = open_model(name)
        image_embeds, text_embeds = vectors(model, images)
        with torch.inference_mode():
            wanted = clip.image_tower(torch.stack([clip.preprocess(image) for image in images]))
        torch.testing.assert_close(image_embeds, F.normalize(wanted, dim=-1), rtol=0, atol=1e-6)
        torch.testing.assert_close(text_embeds, clip.encode(TEXTS).embeds, rtol=0, atol=1e-6)
        assert model.images.identity["family"] == "open_clip"


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ("language: en", ("en",)),
        ("language:\n- de\n- sw", ("de", "sw")),
        ("language: multilingual", None),
        ("license: mit", None),
        ("language: [", None),
    ],
)
def test_languages_come_from_the_card(tmp_path: Path, front: str, wanted: Any) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    assert card_languages(str(tmp_path)) == wanted


def test_languages_may_be_said(tiny_clip_path: Path) -> None:
    assert open_model(str(tiny_clip_path)).languages is None
    assert open_model(str(tiny_clip_path), languages=["en", "de"]).languages == ("en", "de")
    assert card_languages("no/such-model") is None


@pytest.mark.parametrize("name", ["no/such-model", "st:no/such-model", "/nowhere"])
def test_no_such_model(name: str) -> None:
    with pytest.raises(ProclipError, match="is neither a folder nor a checkpoint that the hub gives"):
        open_model(name)
