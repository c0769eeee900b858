"""Small worlds shared by the tests: a dataset folder and a CLIP checkpoint, made from seeds in a second."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from transformers import LlamaConfig, LlamaModel

from proclip.config import AdapterConfig, EmbedderConfig, PretrainConfig
from proclip.models.adapter import Adapter
from proclip.models.clip import load_clip
from proclip.models.clip_pretraining import new_clip, save_clip, train_tokenizer
from proclip.models.embedder import embedder_identity
from proclip.models.proclip import ProCLIP

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "grey": (128, 128, 128)}
SHAPES = ("square", "bar", "column")

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from tests that do not ask for one: several processes of one machine then share its CPU, as in CI."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hide the hub where no test asks for it: else it is asked again and again, with pauses, where none answers."""
    if not any(item.get_closest_marker("network") for item in session.items):
        os.environ["HF_HUB_OFFLINE"] = "1"
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # read from the environment before this


def _draw(shape: str, colour: tuple[int, int, int]) -> Image.Image:
    pixels = np.full((24, 24, 3), 255, dtype=np.uint8)
    rows, columns = {"square": (6, 6), "bar": (3, 11), "column": (11, 3)}[shape]
    pixels[12 - rows : 12 + rows, 12 - columns : 12 + columns] = colour
    return Image.fromarray(pixels)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two cores are shared; small tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_assets(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is unpacked for a test is not left in the user's cache."""
    os.environ["HF_ASSETS_CACHE"] = huggingface_hub.constants.HF_ASSETS_CACHE = str(tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="session")
def torchvision_operators() -> Iterator[None]:
    """open_clip can be imported: from torchvision as installed, or from the folder that PROCLIP_OPEN_CLIP names.

    The registry's torchvision beside a CPU build of torch lacks two operators; they are defined here, never called.
    """
    from transformers.utils import is_torchvision_available

    is_torchvision_available()  # transformers remembers the answer: it goes on without torchvision
    if find_spec("torchvision") is not None:
        yield
        return
    if not (folder := os.environ.get("PROCLIP_OPEN_CLIP")):
        pytest.skip("torchvision is not importable, and PROCLIP_OPEN_CLIP names no folder with it")
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    sys.path.append(folder)
    yield


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of 12 pictures with the columns name_en, name_de, short and long; splits align and test."""
    folder = tmp_path_factory.mktemp("tiny_world")
    (folder / "images").mkdir()
    german = {"red": "rot", "green": "grün", "blue": "blau", "grey": "grau"}
    rows = []
    for number, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES):
        name = f"{colour}-{shape}"
        _draw(shape, COLOURS[colour]).save(folder / "images" / f"{name}.png")
        rows.append(
            {
                "file_name": f"images/{name}.png",
                "key": name,
                "splits": ["pretrain", "align"] if number % 4 else ["test"],
                "name_en": f"{colour} {shape}",
                "name_de": f"{german[colour]} {shape}",
                "short": f"a {colour} {shape} on white",
                "long": f"A drawing of a {shape}. Its colour is {colour}. " + "The canvas around it is white. " * 12,
            }
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def tiny_pretrain() -> PretrainConfig:
    """Sizes of the tiny CLIP."""
    return PretrainConfig(
        image_size=16, patch_size=8, image_width=64, image_layers=1, text_width=64, text_layers=1, vocab_size=600,
        embed_dim=16, batch_size=4, epochs=2, captions=("short",),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_clip_path(tmp_path_factory: pytest.TempPathFactory, tiny_pretrain: PretrainConfig, tiny_world: Path) -> Path:
    """A CLIPModel checkpoint folder with random weights."""
    folder = tmp_path_factory.mktemp("tiny_clip")
    texts = [json.loads(line)["short"] for line in (tiny_world / "metadata.jsonl").read_text().splitlines()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, clip = new_clip(tiny_pretrain, texts)
    save_clip(model, clip, folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def tiny_llm_path(tmp_path_factory: pytest.TempPathFactory, tiny_world: Path) -> Path:
    """A folder with a random Llama of two blocks and a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llm"
    tokenizer = train_tokenizer((tiny_world / "metadata.jsonl").read_text().splitlines(), 600)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=512, initializer_range=0.5,
        )  # fmt: skip
        LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_proclip_path(tmp_path_factory: pytest.TempPathFactory, tiny_clip_path: Path, tiny_llm_path: Path) -> Path:
    """A ProCLIP folder of the tiny CLIP and LLM, its adapter and image tower moved away from their start."""
    folder = tmp_path_factory.mktemp("tiny_proclip") / "model"
    clip = load_clip(str(tiny_clip_path))
    config = EmbedderConfig(model=str(tiny_llm_path), dtype="float32", layer=1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        adapter = Adapter(16, clip.dim, AdapterConfig(num_blocks=1))
        with torch.no_grad():
            for parameter in clip.image_tower.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    identity = embedder_identity(config)
    model = ProCLIP(clip.image_tower, adapter, 2.0, clip.preprocess, config, identity, str(tiny_clip_path))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hub_cache(tiny_proclip_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub's client that has the tiny ProCLIP as ``me/mine``."""
    cache, commit = tmp_path_factory.mktemp("hub"), "89abcdef" * 5
    copytree(tiny_proclip_path, cache / "models--me--mine" / "snapshots" / commit)
    (cache / "models--me--mine" / "refs").mkdir()
    (cache / "models--me--mine" / "refs" / "main").write_text(commit)
    return cache
