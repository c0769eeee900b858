"""SigLIP and SigLIP2 towers against transformers' own models, processors and tokenizers; rules of text; bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_siglip as tiny
import torch
from damaged import damage
from PIL import Image
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Model,
    SiglipModel,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from proclip.errors import ProclipError
from proclip.models.clip import CHECKPOINT_FILES, load_clip
from proclip.models.preprocess import NaflexPreprocess, split_packed
from proclip.models.siglip import Siglip2ImageTower, SiglipImageTower, load_siglip_model
from proclip.models.towers import build_image_tower

TEXTS = [
    "a red bar",
    "A Red, SQUARE! (on white); grün-blau",
    "x",
    "a drawing of a blue column with some grey at the tip of its tail, seen from above, and one more thing: red. " * 3,
]
SIZES = [(40, 31), (7, 50), (32, 32), (90, 12), (3, 3), (200, 199)]


def pictures() -> list[Image.Image]:
    return [Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 50).convert("RGB") for size in SIZES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("siglip")
    return {
        "v1": tiny.write_siglip(root / "v1"),
        "fixed": tiny.write_siglip2_fixed(root / "fixed"),
        "naflex": tiny.write_siglip2_naflex(root / "naflex"),
    }


def ours(folder: Path) -> tuple[torch.Tensor, torch.Tensor, int]:
    clip = load_clip(str(folder))
    pixels = torch.stack([clip.preprocess(picture) for picture in pictures()])
    texts = clip.encode(TEXTS, batch_size=3)
    with torch.inference_mode():
        return torch.nn.functional.normalize(clip.image_tower(pixels), dim=-1), texts.embeds, texts.truncated


def texts_of(
    model: torch.nn.Module, tokenizer: Callable[..., dict[str, torch.Tensor]], texts: list[str]
) -> torch.Tensor:
    settings = {"padding": "max_length", "truncation": True, "max_length": tiny.CONTEXT}
    tokens = tokenizer(texts, return_tensors="pt", **settings)
    assert set(tokens) == {"input_ids"}  # what the hub's checkpoints say: no mask
    with torch.inference_mode():
        return torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_siglip_equals_transformers(folders: dict[str, Path]) -> None:
    model = SiglipModel.from_pretrained(folders["v1"]).eval()
    processor = SiglipImageProcessorPil.from_pretrained(folders["v1"])
    image_embeds, text_embeds, truncated = ours(folders["v1"])
    with torch.inference_mode():
        features = model.get_image_features(**processor(pictures(), return_tensors="pt")).pooler_output
    close(image_embeds, torch.nn.functional.normalize(features, dim=-1))
    close(text_embeds, texts_of(model, PreTrainedTokenizerFast.from_pretrained(folders["v1"]), TEXTS))
    assert truncated == 1


def test_siglip2_of_fixed_resolution_equals_transformers_on_lower_case(folders: dict[str, Path]) -> None:
    model = SiglipModel.from_pretrained(folders["fixed"]).eval()
    processor = AutoProcessor.from_pretrained(folders["fixed"])
    image_embeds, text_embeds, truncated = ours(folders["fixed"])
    with torch.inference_mode():
        pixels = SiglipImageProcessorPil.from_pretrained(folders["fixed"])(pictures(), return_tensors="pt")
        features = model.get_image_features(**pixels).pooler_output
    close(image_embeds, torch.nn.functional.normalize(features, dim=-1))
    lowered = texts_of(model, processor.tokenizer, [text.lower() for text in TEXTS])
    close(text_embeds, lowered)
    # GemmaTokenizer, which these checkpoints name, does not lower-case, though the model was trained on lower case
    assert (texts_of(model, processor.tokenizer, TEXTS)[1] - lowered[1]).abs().max() > 1e-3
    assert truncated == 2


def test_naflex_equals_transformers(folders: dict[str, Path]) -> None:
    model = Siglip2Model.from_pretrained(folders["naflex"]).eval()
    processor = AutoProcessor.from_pretrained(folders["naflex"])
    image_embeds, text_embeds, truncated = ours(folders["naflex"])
    settings = {"patch_size": tiny.PATCH, "max_num_patches": tiny.PATCHES, "return_tensors": "pt"}
    with torch.inference_mode():
        patches = Siglip2ImageProcessorPil.from_pretrained(folders["naflex"])(pictures(), **settings)
        features = model.get_image_features(**patches).pooler_output
    close(image_embeds, torch.nn.functional.normalize(features, dim=-1))
    close(text_embeds, texts_of(model, processor.tokenizer, TEXTS))
    assert truncated == 2


@pytest.mark.parametrize("kind", ["v1", "fixed", "naflex"])
def test_case_padding_and_batch_change_nothing(folders: dict[str, Path], kind: str) -> None:
    clip = load_clip(str(folders[kind]))
    assert torch.equal(clip.encode(["A RED Bar"]).embeds, clip.encode(["a red bar"]).embeds)
    one_by_one = torch.cat([clip.encode([text]).embeds for text in TEXTS])
    torch.testing.assert_close(clip.encode(TEXTS).embeds, one_by_one)
    tokens = clip.tokenizer(TEXTS)
    end = clip.tokenizer.tokenizer.eos_token_id
    assert tokens.input_ids.shape == (4, tiny.CONTEXT)
    assert tokens.input_ids[3, -1] == end and bool((tokens.input_ids == end).any(dim=1).all())
    with pytest.raises(ProclipError, match="text 1 of 2 is empty"):
        clip.encode(["a", "\n"])
    punctuation = torch.equal(clip.encode(["a red bar!"]).embeds, clip.encode(["a red bar"]).embeds)
    assert punctuation == (kind == "v1")
    assert torch.isfinite(clip.encode(["?!"]).embeds).all()


def test_scale_bias_and_identity(folders: dict[str, Path]) -> None:
    clips = {kind: load_clip(str(folder)) for kind, folder in folders.items()}
    for clip in clips.values():
        assert clip.logit_scale == pytest.approx(4.7)
        assert clip.logit_bias == pytest.approx(-12.5)
        assert clip.dim == 16 and len(clip.image_tower.blocks) == 2
    assert [clip.identity["kind"] for clip in clips.values()] == [
        "siglip-text-tower", "siglip-text-tower", "siglip2-text-tower",
    ]  # fmt: skip
    assert [clip.identity["text"] for clip in clips.values()] == ["lower, no punctuation", "lower", "lower"]


@pytest.mark.parametrize(("kind", "tower"), [("fixed", SiglipImageTower), ("naflex", Siglip2ImageTower)])
def test_tower_from_its_config(folders: dict[str, Path], kind: str, tower: type[SiglipImageTower]) -> None:
    clip = load_clip(str(folders[kind]))
    config = json.loads(json.dumps(clip.image_tower.config))
    again = build_image_tower(clip.image_tower.family, config, 16)
    assert type(again) is tower
    again.load_state_dict(clip.image_tower.state_dict())
    pixels = torch.stack([clip.preprocess(picture) for picture in pictures()])
    torch.testing.assert_close(again.eval()(pixels), clip.image_tower(pixels))
    with pytest.raises(ProclipError, match="width 16, wanted 8"):
        build_image_tower(clip.image_tower.family, config, 8)


def test_naflex_sees_the_aspect_ratio_and_not_the_padding(folders: dict[str, Path]) -> None:
    clip = load_clip(str(folders["naflex"]))
    picture = pictures()[0]
    packed = clip.preprocess(picture)[None]
    patches, mask, grid = split_packed(packed)
    assert grid.tolist() == [[4, 5]] and mask.sum() == 20 and patches.shape == (1, 20, 3 * tiny.PATCH**2)
    assert isinstance(clip.preprocess, NaflexPreprocess)
    roomy = NaflexPreprocess(**{**vars(clip.preprocess), "max_num_patches": 23})
    assert roomy.grid(40, 31) == (4, 5)
    with torch.inference_mode():
        features = clip.image_tower(packed)
        torch.testing.assert_close(clip.image_tower(roomy(picture)[None]), features)  # padding is not seen
        turned = clip.image_tower(clip.preprocess(picture.transpose(Image.Transpose.TRANSPOSE))[None])
    assert (turned - features).abs().max() > 1e-3


def test_gradients_reach_every_parameter_of_the_tower(folders: dict[str, Path]) -> None:
    for kind in ("fixed", "naflex"):
        clip = load_clip(str(folders[kind]))
        pixels = torch.stack([clip.preprocess(picture) for picture in pictures()])
        clip.image_tower(pixels).square().sum().backward()
        without = [n for n, p in clip.image_tower.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert [name for name in without if "k_proj.bias" not in name] == []  # a key's bias has no effect


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(folders["fixed"], tmp_path / "copy")
    return tmp_path / "copy"


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_another_kind_of_processor_is_refused(folders: dict[str, Path], copy: Path) -> None:
    processor = json.loads((folders["naflex"] / "processor_config.json").read_text())["image_processor"]
    change(copy / "preprocessor_config.json", **processor)
    with pytest.raises(ProclipError, match="wants a CLIPImageProcessor or SiglipImageProcessor's preprocessing"):
        load_clip(str(copy))
    (copy / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "SiglipImageProcessor"}))
    with pytest.raises(ProclipError, match="no usable size"):
        load_clip(str(copy))


def test_sizes_must_fit(copy: Path) -> None:
    change(copy / "preprocessor_config.json", size={"height": 64, "width": 64})
    with pytest.raises(ProclipError, match="image size is 64 in the preprocessing, 32 in config"):
        load_clip(str(copy))


def test_headless_and_half_checkpoints_are_refused(tmp_path: Path, copy: Path) -> None:
    tiny.write_siglip(tmp_path / "headless", vision_use_head=False)
    with pytest.raises(ProclipError, match="vision_use_head is false"):
        load_clip(str(tmp_path / "headless"))
    SiglipModel.from_pretrained(copy).vision_model.save_pretrained(tmp_path / "half")
    with pytest.raises(ProclipError, match="'siglip_vision_model'; it holds one tower alone"):
        load_clip(str(tmp_path / "half"))
    shutil.copy(tmp_path / "half" / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(ProclipError, match=r"the weights lack \d+ tensors of a whole SiglipModel"):
        load_clip(str(copy))


@pytest.mark.parametrize("kind", ["v1", "naflex"])
@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("tokenizer.json", {"a": 1}, r"no tokenizer can be made of tokenizer\.json, tokenizer_config\.json: KeyError"),
        ("tokenizer_config.json", "{", r"no tokenizer can be made of .*/tokenizer_config\.json is not JSON"),
        ("tokenizer_config.json", {"model_max_length": "x"}, r"no tokenizer can be made of .*TypeError"),
        ("config.json", {"vision_config": {"hidden_size": "a"}}, r"/config\.json describes no Siglip.*hidden_size"),
        ("config.json", {"text_config": 5}, r"/config\.json describes no Siglip.*text_config"),
        ("config.json", {"text_config": {"num_attention_heads": 7}}, r"what config\.json describes: ValueError"),
    ],
)
def test_damaged_files_are_named(
    folders: dict[str, Path], tmp_path: Path, kind: str, file: str, values: object, message: str
) -> None:
    shutil.copytree(folders[kind], tmp_path / "copy")
    damage(tmp_path / "copy" / file, values)
    with pytest.raises(ProclipError, match=message):
        load_clip(str(tmp_path / "copy"))


def test_tokenizer_files(copy: Path, tiny_clip_path: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ProclipError, match=r"no tokenizer: tokenizer\.json or spiece\.model"):
        load_clip(str(copy))
    with pytest.raises(ProclipError, match="model_type is 'clip', not 'siglip' or 'siglip2'"):
        load_siglip_model(str(tiny_clip_path))
    assert {"spiece.model", "tokenizer.model"} <= set(CHECKPOINT_FILES)


def test_spiece_model_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["v1"], tmp_path / "v1")
    (tmp_path / "v1" / "tokenizer.json").unlink()
    tiny.write_spiece(tmp_path / "v1" / "spiece.model")
    try:
        import sentencepiece  # noqa: F401
    except ImportError:
        with pytest.raises(ProclipError, match="pip install sentencepiece protobuf"):
            load_clip(str(tmp_path / "v1"))
        return
    clip = load_clip(str(tmp_path / "v1"))
    assert type(clip.tokenizer.tokenizer).__name__ == "SiglipTokenizer"
    close(clip.encode(TEXTS).embeds, load_clip(str(folders["v1"])).encode(TEXTS).embeds)
    model = SiglipModel.from_pretrained(tmp_path / "v1").eval()
    close(clip.encode(TEXTS).embeds, texts_of(model, AutoTokenizer.from_pretrained(tmp_path / "v1"), TEXTS))
