"""The model people load: round trip, one picture or many, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from proclip.config import AdapterConfig, EmbedderConfig
from proclip.data.dataset import ImageCaptions
from proclip.errors import ProclipError
from proclip.models import proclip as module
from proclip.models.adapter import Adapter
from proclip.models.clip import load_clip
from proclip.models.embedder import Encoded, identity_difference
from proclip.models.proclip import ProCLIP

LLM_DIM = 8


class LetterEmbedder:
    """Counts letters: an embedder that needs no LLM."""

    dim = LLM_DIM

    def __init__(self, name: str = "letters", expect: dict[str, str] | None = None) -> None:
        self.identity = {"model": name}
        if expect is not None and (differ := identity_difference(expect, self.identity)):
            raise ProclipError(differ)

    def encode(self, texts: Any, batch_tokens: int = 0) -> Encoded:
        rows = [[float(text.count(letter)) for letter in "aeioudrn"] for text in texts]
        return Encoded(torch.tensor(rows), None)

    def for_classes(self) -> LetterEmbedder:
        return self


@pytest.fixture
def model(tiny_clip_path: Path) -> ProCLIP:
    clip = load_clip(str(tiny_clip_path))
    torch.manual_seed(1)
    adapter = Adapter(LLM_DIM, clip.dim, AdapterConfig(num_blocks=1))
    built = ProCLIP(clip.image_tower, adapter, 2.0, clip.preprocess, EmbedderConfig(), {"model": "letters"})
    built._embedder = LetterEmbedder()
    return built


@pytest.fixture
def pictures(tiny_world: Path) -> list[Path]:
    return [Path(str(s.picture)) for s in ImageCaptions(tiny_world).select("align")]


def test_round_trip(model: ProCLIP, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save_pretrained(tmp_path, "zero-shot 0.5")
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "modules.json",
        "config_sentence_transformers.json",
    }
    assert "zero-shot 0.5" in (tmp_path / "README.md").read_text()
    monkeypatch.setattr(module, "LazyEmbedder", lambda config, device, expect: LetterEmbedder(expect=expect))
    loaded = ProCLIP.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode_image(pictures), model.encode_image(pictures))
    assert torch.equal(loaded.encode_text(["a red bar"]), model.encode_text(["a red bar"]))
    assert float(loaded.logit_scale.detach()) == 2.0


def test_embeds(model: ProCLIP, pictures: list[Path]) -> None:
    many = model.encode_image(pictures, batch_size=4)
    torch.testing.assert_close(many, torch.cat([model.encode_image([Image.open(p)]) for p in pictures]))
    torch.testing.assert_close(many.norm(dim=1), torch.ones(len(pictures)))
    assert model.encode_image([]).shape == (0, 16)
    texts = model.encode_text(["a red bar", "a grey square"])
    assert torch.equal(model.encode_text("a red bar"), model.encode_text(["a red bar"])[0])
    torch.testing.assert_close(model.similarity(many, texts), many @ texts.T)


def test_zero_shot_classifier_averages_templates(model: ProCLIP) -> None:
    classifier = model.zero_shot_classifier(["bar", "square"], ["a {}", "one red {}"])
    assert classifier.shape == (16, 2)
    for column, name in enumerate(["bar", "square"]):
        mean = (model.encode_text(f"a {name}") + model.encode_text(f"one red {name}")) / 2
        torch.testing.assert_close(classifier[:, column], mean / mean.norm())


def test_another_embedder_is_refused(model: ProCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(module, "LazyEmbedder", lambda config, device, expect: LetterEmbedder("digits", expect))
    with pytest.raises(ProclipError, match="model: want 'letters', have 'digits'"):
        ProCLIP.from_pretrained(tmp_path).encode_text("a")


def test_bad_folders(model: ProCLIP, tmp_path: Path, tiny_clip_path: Path) -> None:
    with pytest.raises(ProclipError, match="is not a proclip model"):
        ProCLIP.from_pretrained(tiny_clip_path)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "logit_scale"} | {"extra": torch.zeros(1)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ProclipError, match="logit_scale is missing; extra is not known"):
        ProCLIP.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(ProclipError, match="format_version 99"):
        ProCLIP.from_pretrained(tmp_path)


def test_widths_must_agree(tiny_clip_path: Path) -> None:
    clip = load_clip(str(tiny_clip_path))
    with pytest.raises(ProclipError, match="the adapter gives vectors of width 3, the image tower of 16"):
        ProCLIP(clip.image_tower, Adapter(4, 3, AdapterConfig()), 1.0, clip.preprocess, EmbedderConfig())
