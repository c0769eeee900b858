"""The real models of the hub against transformers' own forward pass; the same check on tiny ones, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_siglip
import torch
from PIL import Image, ImageDraw
from transformers import AutoModel, AutoTokenizer, CLIPTokenizer, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from proclip.models.clip import load_clip

TEXTS = ["a red circle on white", "a photo of two cats", "the sea. " * 60]
PROCESSORS = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil, "siglip2": Siglip2ImageProcessorPil}


def drawn() -> list[Image.Image]:
    """A red circle on white, wide and upright."""
    pictures = []
    for size in ((320, 200), (90, 210)):
        picture = Image.new("RGB", size, "white")
        ImageDraw.Draw(picture).ellipse((20, 30, 80, 90), fill="red")
        pictures.append(picture)
    return pictures


def check(name: str, family: str) -> tuple[torch.Tensor, int]:
    """Our embeddings equal transformers'; returns similarities of pictures and texts, and how many texts were cut."""
    clip, model = load_clip(name), AutoModel.from_pretrained(name, dtype=torch.float32).eval()
    assert clip.image_tower.family == family
    tokenizer = (
        CLIPTokenizer.from_pretrained(name)
        if family == "clip"
        else PreTrainedTokenizerFast.from_pretrained(name)
        if clip.identity["text"] == "lower, no punctuation"
        else AutoTokenizer.from_pretrained(name)
    )
    tokens = tokenizer(
        TEXTS, truncation=True, max_length=clip.tokenizer.context_length, return_tensors="pt",
        padding=True if family == "clip" else "max_length",
    )  # fmt: skip
    if family != "clip":
        tokens.pop("attention_mask", None)
    images = PROCESSORS[family].from_pretrained(name)(drawn(), return_tensors="pt")
    encoded = clip.encode(TEXTS)
    with torch.inference_mode():
        image_embeds = clip.image_tower(torch.stack([clip.preprocess(picture) for picture in drawn()]))
        wanted_images = model.get_image_features(**images).pooler_output
        wanted_texts = model.get_text_features(**tokens).pooler_output
    image_embeds = torch.nn.functional.normalize(image_embeds, dim=-1)
    normalize = torch.nn.functional.normalize
    torch.testing.assert_close(image_embeds, normalize(wanted_images, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.embeds, normalize(wanted_texts, dim=-1), atol=1e-5, rtol=0)
    return image_embeds @ encoded.embeds.T, encoded.truncated


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("openai/clip-vit-base-patch32", "clip"),
        ("openai/clip-vit-base-patch16", "clip"),
        ("openai/clip-vit-large-patch14", "clip"),
        ("openai/clip-vit-large-patch14-336", "clip"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "clip"),
        ("facebook/metaclip-b32-400m", "clip"),
        ("google/siglip-base-patch16-224", "siglip"),
        ("google/siglip2-so400m-patch14-224", "siglip"),
        ("google/siglip2-base-patch16-naflex", "siglip2"),
    ],
)
def test_model_of_the_hub(name: str, family: str) -> None:
    scores, truncated = check(name, family)
    assert truncated == 1
    assert (scores[:, 0] > scores[:, 1]).all()  # a red circle is no photo of cats


def test_the_check_itself(tiny_clip_path: Path, tmp_path: Path) -> None:
    check(str(tiny_clip_path), "clip")
    check(str(tiny_siglip.write_siglip(tmp_path / "v1")), "siglip")
    check(str(tiny_siglip.write_siglip2_fixed(tmp_path / "fixed")), "siglip")
    check(str(tiny_siglip.write_siglip2_naflex(tmp_path / "naflex")), "siglip2")
