"""Our towers against transformers' own CLIPModel, tokenization and its count of cut texts, bad checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from proclip.errors import ProclipError
from proclip.models.clip import load_clip
from proclip.models.clip_pretraining import train_tokenizer
from proclip.models.clip_transformers import ClipImageTower
from proclip.models.preprocess import ImagePreprocess


def test_towers_equal_transformers(tiny_clip_path: Path) -> None:
    clip, reference = load_clip(str(tiny_clip_path)), CLIPModel.from_pretrained(tiny_clip_path).eval()
    pixels = torch.randn(3, 3, 16, 16)
    texts = ["a red bar", "a green square on white, seen from above", "x"]
    tokens = CLIPTokenizer.from_pretrained(tiny_clip_path)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = reference(pixel_values=pixels, **tokens)
        image_embeds = torch.nn.functional.normalize(clip.image_tower(pixels), dim=-1)
    torch.testing.assert_close(image_embeds, output.image_embeds)
    torch.testing.assert_close(clip.encode(texts).embeds, output.text_embeds)
    assert clip.logit_scale == pytest.approx(float(reference.logit_scale.detach()))


def test_long_texts_are_cut_counted_and_keep_their_end(tiny_clip_path: Path) -> None:
    clip = load_clip(str(tiny_clip_path))
    long = " ".join(["red"] * 200)
    tokens = clip.tokenizer([long, "a bar"])
    assert tokens.truncated == 1
    assert tokens.input_ids.shape == (2, 77)
    assert tokens.input_ids[0, -1] == clip.tokenizer.tokenizer.eos_token_id
    assert clip.encode([long, "a bar", long]).truncated == 2
    assert clip.cuts([long, "a bar", long], batch_size=2) == [True, False, True]


def test_batching_and_order_change_nothing(tiny_clip_path: Path) -> None:
    clip = load_clip(str(tiny_clip_path))
    texts = ["a bar", "a much longer text about a grey column", "b", "a red square"]
    one_by_one = torch.cat([clip.encode([t]).embeds for t in texts])
    torch.testing.assert_close(clip.encode(texts, batch_size=2).embeds, one_by_one)
    with pytest.raises(ProclipError, match="text 1 of 2 is empty"):
        clip.encode(["a", " "])


def test_tokenizer_reads_any_text() -> None:
    tokenizer = train_tokenizer(["a red square", "a red bar"] * 3, 530)
    assert len(tokenizer) <= 530
    for text in ("a red bar", "消防车", "سيارة", "über 🚒"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    with pytest.raises(ProclipError, match="vocab_size must be at least 514"):
        train_tokenizer(["a"], 100)


def test_preprocess_equals_transformers(tiny_clip_path: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = Image.effect_mandelbrot((40, 31), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    ours = ImagePreprocess.from_folder(tiny_clip_path)(image)
    theirs = CLIPImageProcessorPil.from_pretrained(tiny_clip_path)(image, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_bad_checkpoints(tmp_path: Path, tiny_clip_path: Path) -> None:
    with pytest.raises(ProclipError, match=r"no config\.json: not a CLIP checkpoint"):
        load_clip(str(tmp_path))
    folder = tmp_path / "copy"
    shutil.copytree(tiny_clip_path, folder)
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ProclipError, match=r"preprocessor_config\.json: no usable"):
        load_clip(str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ProclipError, match="says how images are resized"):
        load_clip(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(
        ProclipError, match=r"model_type is 'bert'.*CLIPs that are known are 'clip', 'siglip', 'siglip2'"
    ):
        load_clip(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 32000}))
    with pytest.raises(ProclipError, match="model_type is 'llama', a language model's: it can be an embedder"):
        load_clip(str(folder))


def test_tower_from_its_config(tiny_clip_path: Path) -> None:
    tower = load_clip(str(tiny_clip_path)).image_tower
    again = ClipImageTower.from_config(tower.config, tower.embed_dim)
    again.load_state_dict(tower.state_dict())
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(again(pixels), tower(pixels))
