"""CLIP checkpoints as the hub has them: tokenizer files, configs of old, shards, pickles, half checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from damaged import damage
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection

from proclip.errors import ProclipError
from proclip.models.clip import load_clip


@pytest.fixture
def copy(tiny_clip_path: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_clip_path, tmp_path / "copy")
    return tmp_path / "copy"


def embeds_of(folder: Path) -> torch.Tensor:
    texts = ["a red bar", "A GREEN Square, on white; seen from above!", "x", "red " * 200]
    return load_clip(str(folder)).encode(texts).embeds


@pytest.mark.parametrize("pad", [None, "!</w>"])
def test_tokenizer_files_of_old(copy: Path, tiny_clip_path: Path, pad: str | None) -> None:
    """vocab.json and merges.txt alone; OpenAI and LAION pad with the end token, others with '!'."""
    model = json.loads((copy / "tokenizer.json").read_text())["model"]
    (copy / "vocab.json").write_text(json.dumps(model["vocab"]))
    (copy / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    if pad:
        (copy / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad}))
        assert load_clip(str(copy)).tokenizer.tokenizer.pad_token_id == model["vocab"][pad]
    torch.testing.assert_close(embeds_of(copy), embeds_of(tiny_clip_path), atol=1e-5, rtol=0)


def test_tokenizer_json_alone(copy: Path, tiny_clip_path: Path) -> None:
    (copy / "tokenizer_config.json").unlink()
    torch.testing.assert_close(embeds_of(copy), embeds_of(tiny_clip_path), atol=1e-5, rtol=0)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ProclipError, match=r"no tokenizer: tokenizer\.json, or vocab\.json and merges\.txt"):
        load_clip(str(copy))


def test_pooling_of_old_configs(copy: Path, tiny_clip_path: Path) -> None:
    """eos_token_id 2: transformers pools the token of the highest id, which is the end."""
    config = json.loads((copy / "config.json").read_text())
    config["text_config"].update(eos_token_id=2, bos_token_id=0, pad_token_id=1)
    (copy / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(embeds_of(copy), embeds_of(tiny_clip_path), atol=1e-5, rtol=0)
    config["text_config"]["eos_token_id"] = 300
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProclipError, match=r"the tokenizer ends texts with token \d+, the text tower pools 300"):
        load_clip(str(copy))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_other_activations_and_projections(tmp_path: Path, tiny_clip_path: Path, act: str) -> None:
    """OpenAI and MetaCLIP (quick_gelu), LAION (gelu, partial configs, another width than the towers')."""
    reference = CLIPModel.from_pretrained(tiny_clip_path)
    config = reference.config
    config.projection_dim = config.text_config.projection_dim = config.vision_config.projection_dim = 24
    config.text_config.hidden_act = config.vision_config.hidden_act = act
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    shutil.copytree(tiny_clip_path, tmp_path / "clip")
    model.save_pretrained(tmp_path / "clip")
    clip = load_clip(str(tmp_path / "clip"))
    pixels, texts = torch.randn(2, 3, 16, 16), ["a red bar", "a much longer green bar"]
    tokens = CLIPTokenizer.from_pretrained(tiny_clip_path)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(pixel_values=pixels, **tokens)
        image_embeds = torch.nn.functional.normalize(clip.image_tower(pixels), dim=-1)
    assert clip.dim == 24
    torch.testing.assert_close(image_embeds, output.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.encode(texts).embeds, output.text_embeds, atol=1e-5, rtol=0)


def test_weights_in_shards(copy: Path, tiny_clip_path: Path) -> None:
    model = CLIPModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="100KB")
    assert len(list(copy.glob("model-*.safetensors"))) > 1
    torch.testing.assert_close(embeds_of(copy), embeds_of(tiny_clip_path), atol=1e-5, rtol=0)
    next(copy.glob("model-00002*")).unlink()
    with pytest.raises(ProclipError, match="the weights cannot be loaded"):
        load_clip(str(copy))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "tokenizer.json",
            {"a": 1},
            r"copy: no tokenizer .* of tokenizer\.json, tokenizer_config\.json: KeyError",
        ),
        ("tokenizer.json", "{", r"no tokenizer can be made of .*copy/tokenizer\.json is not JSON"),
        (
            "tokenizer_config.json",
            {"eos_token": 5},
            r"no tokenizer can be made of .*: Special token eos_token",
        ),
        ("tokenizer_config.json", {"model_max_length": "x"}, r"no tokenizer can be made of .*TypeError"),
        ("config.json", {"vision_config": {"hidden_size": "a"}}, r"copy/config\.json describes no CLIP: .*hidden_size"),
        ("config.json", {"text_config": 5}, r"copy/config\.json describes no CLIP: .*text_config"),
        ("config.json", {"vision_config": {"num_attention_heads": 7}}, r"describes no CLIP: .*not a multiple"),
        ("config.json", {"vision_config": {"hidden_act": "nope"}}, r"what config\.json describes: KeyError: 'nope'"),
    ],
)
def test_damaged_files_are_named_in_one_line(copy: Path, file: str, values: object, message: str) -> None:
    damage(copy / file, values)
    with pytest.raises(ProclipError, match=message) as caught:
        load_clip(str(copy))
    assert "\n" not in str(caught.value)


def test_sizes_must_fit(copy: Path) -> None:
    path = copy / "preprocessor_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "size": {"shortest_edge": 24}, "crop_size": 24}))
    with pytest.raises(ProclipError, match="image size is 24 in the preprocessing, 16 in config"):
        load_clip(str(copy))


def test_pickled_weights_are_never_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ProclipError, match=r"no \*\.safetensors.*never read.*convert them once: python -c"):
        load_clip(str(copy))


def test_an_image_tower_alone_is_no_clip(copy: Path, tmp_path: Path) -> None:
    model = CLIPVisionModelWithProjection.from_pretrained(copy)
    model.save_pretrained(tmp_path / "half")
    with pytest.raises(ProclipError, match="model_type is 'clip_vision_model'; it holds one tower alone"):
        load_clip(str(tmp_path / "half"))
    model.save_pretrained(tmp_path / "whole_config")
    shutil.copy(tmp_path / "whole_config" / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(ProclipError, match=r"the weights lack \d+ tensors of a whole CLIPModel: logit_scale"):
        load_clip(str(copy))


class Proposal:
    git_reference = "refs/pr/7"

    def __init__(self, author: str, title: str) -> None:
        self.author, self.title = author, title


@pytest.mark.parametrize("author", ["SFconvertbot", "somebody"])
def test_safetensors_that_the_hub_proposes(
    copy: Path, tiny_clip_path: Path, monkeypatch: pytest.MonkeyPatch, author: str
) -> None:
    """A repository with pytorch_model.bin alone: its conversion by the hub's bot is taken, nobody else's."""
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    asked: list[str | None] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert name == "openai/old"
        asked.append(revision)
        return str(copy if revision is None else tiny_clip_path)

    proposals = [Proposal(author, "Update README.md"), Proposal(author, "Adding `safetensors` variant of this model")]
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.HfApi.get_repo_discussions", lambda *_, **__: iter(proposals))
    if author == "somebody":
        with pytest.raises(ProclipError, match=r"no \*\.safetensors"):
            load_clip("openai/old")
        assert set(asked) == {None}
        return
    assert load_clip("openai/old").identity["model"] == "old"
    assert set(asked) == {None, "refs/pr/7"} and asked[-1] == "refs/pr/7"
