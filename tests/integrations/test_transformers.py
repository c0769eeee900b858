"""The Auto API: the same vectors as ours, the folder written again, refusals; and ``import proclip`` stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

import proclip
from proclip.errors import ProclipError
from proclip.integrations.transformers import ProCLIPConfig, ProCLIPModel
from proclip.models.proclip import ProCLIP


@pytest.fixture(scope="module")
def auto(tiny_proclip_path: Path) -> ProCLIPModel:
    proclip.register_auto()
    return AutoModel.from_pretrained(tiny_proclip_path)


@pytest.fixture(scope="module")
def picture(tiny_world: Path) -> Image.Image:
    return Image.open(next((tiny_world / "images").glob("*.png"))).convert("RGB")


def test_auto_model_is_ours(auto: ProCLIPModel, tiny_proclip_path: Path, picture: Image.Image) -> None:
    ours = ProCLIP.from_pretrained(tiny_proclip_path)
    assert isinstance(auto, ProCLIPModel) and not auto.training
    assert isinstance(AutoConfig.from_pretrained(tiny_proclip_path), ProCLIPConfig)
    assert auto.state_dict().keys() == ours.state_dict().keys()
    try:
        processor = AutoImageProcessor.from_pretrained(tiny_proclip_path)
        pixels = processor(picture, return_tensors="pt").pixel_values
    except ImportError:  # transformers 5.17 has this class only beside torchvision
        pixels = ours.pixel_values([picture])
    texts = ["a red bar", "ein grünes Quadrat"]
    with torch.inference_mode():
        output = auto(pixel_values=pixels, texts=texts)
        features = auto.get_image_features(pixels).pooler_output
        embeds = ours.embedder.encode(texts).embeds
        from_embeds = auto.get_text_features(llm_embeds=embeds).pooler_output
        assert torch.equal(from_embeds, auto.get_text_features(texts=texts).pooler_output)
    torch.testing.assert_close(output.image_embeds, ours.encode_image([picture]), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.text_embeds, ours.encode_text(texts), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.nn.functional.normalize(features, dim=-1), output.image_embeds)
    cosine = ours.similarity(output.image_embeds, output.text_embeds)
    torch.testing.assert_close(output.logits_per_image, float(ours.logit_scale.detach().exp()) * cosine)
    torch.testing.assert_close(output.logits_per_text, output.logits_per_image.T)
    assert auto(pixel_values=pixels).text_embeds is None


def test_round_trip(auto: ProCLIPModel, picture: Image.Image, tmp_path: Path) -> None:
    auto.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(str(tmp_path / "again"), dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16 and again.logit_scale.dtype == torch.bfloat16
    assert again.get_text_features(texts="a").pooler_output.dtype == torch.bfloat16
    ours = ProCLIP.from_pretrained(tmp_path / "again")
    assert torch.equal(ours.encode_image([picture]), auto.model.encode_image([picture]))
    doubled = {name: 2 * tensor for name, tensor in auto.state_dict().items()}
    before = auto.logit_scale.item()
    auto.save_pretrained(tmp_path / "doubled", state_dict=doubled)
    assert auto.logit_scale.item() == before
    assert ProCLIP.from_pretrained(tmp_path / "doubled").logit_scale.item() == 2 * before
    with torch.no_grad():
        auto.logit_scale.add_(0.125)
    assert auto.model.logit_scale.item() == before + 0.125  # one model, not two
    with torch.no_grad():
        auto.logit_scale.sub_(0.125)


def test_refusals(auto: ProCLIPModel, tiny_proclip_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match="no argument quantization_config"):
        AutoModel.from_pretrained(tiny_proclip_path, quantization_config={"a": 1})
    with pytest.raises(ProclipError, match="one device for the whole model"):
        AutoModel.from_pretrained(tiny_proclip_path, device_map={"image_tower": "cpu"})
    with pytest.raises(ProclipError, match="llm_embeds or texts, one of them"):
        auto.get_text_features()
    with pytest.raises(ProclipError, match="use from_pretrained"):
        AutoModel.from_config(auto.config)
    with pytest.raises(ProclipError, match="logit_scale is missing"):
        auto.save_pretrained(tmp_path / "x", state_dict={})


def test_one_call_registers(tiny_proclip_path: Path) -> None:
    code = (
        "import sys, proclip; assert 'torch' not in sys.modules;"
        "proclip.register_auto(); proclip.register_auto();"
        f"from transformers import AutoModel; m = AutoModel.from_pretrained({str(tiny_proclip_path)!r});"
        "print(type(m).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "ProCLIPModel", done.stderr
