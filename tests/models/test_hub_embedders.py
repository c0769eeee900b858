"""The real embedders of the hub against the library's own vectors; the same checks on tiny ones, without a network."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from slow_llm2vec import slow_embed
from tiny_embedders import bge_m3, multilingual_e5, qwen3_embedding
from tiny_llms import LLAMA31_ROPE, llama3

from proclip.config import EmbedderConfig
from proclip.models.embedder import load_embedder
from proclip.models.embedder_source import locate

NEAR = ("a cat sleeps on the sofa", "the kitten naps on the couch")
FAR = "shares fell on the stock market today"
TEXTS = [*NEAR, FAR, "Eine Katze schläft.", "two lines,\none text", "a red car beside a tall tree. " * 12]
E5 = {"instruction": "query: "}
QWEN3 = {"class_prompt_name": "query"}
REAL: dict[str, tuple[int, int, str, dict[str, Any]]] = {
    "Qwen/Qwen3-Embedding-0.6B": (1024, 4, "float32", QWEN3),
    "Qwen/Qwen3-Embedding-4B": (2560, 10, "bfloat16", QWEN3),
    "Qwen/Qwen3-Embedding-8B": (4096, 18, "bfloat16", QWEN3),
    "intfloat/multilingual-e5-small": (384, 2, "float32", E5),
    "intfloat/multilingual-e5-base": (768, 3, "float32", E5),
    "intfloat/multilingual-e5-large": (1024, 4, "float32", E5),
    "intfloat/e5-mistral-7b-instruct": (4096, 17, "bfloat16", {}),
    "BAAI/bge-m3": (1024, 4, "float32", {}),
    "sentence-transformers/all-MiniLM-L6-v2": (384, 1, "float32", {}),
}
"""Width, GiB that it needs, precision, settings."""
OWN_CODE = {
    "nvidia/NV-Embed-v2": (4096, 18),
    "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct": (1536, 8),
    "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct": (3584, 20),
}
LLM2CLIP = {
    "microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned": (4096, 36),
    "microsoft/LLM2CLIP-Llama-3.2-1B-Instruct-CC-Finetuned": (2048, 6),
}
"""In float32, which is what the slow computation can be compared with to 1e-3."""


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def close(ours: torch.Tensor, wanted: torch.Tensor, dtype: str) -> None:
    """Equal to 1e-5 after L2 normalisation; in half precision, where batches round differently, cosine above 0.999."""
    ours, wanted = (torch.nn.functional.normalize(x.float().cpu(), dim=-1) for x in (ours, wanted))
    if dtype == "float32":
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)
    assert (ours * wanted).sum(-1).min() > 0.999


def same_as_sentence_transformers(name: str, dim: int, dtype: str, **settings: Any) -> torch.Tensor:
    """Our vectors of captions and of class names are what the library's own ``encode`` gives; returns the captions'."""
    from sentence_transformers import SentenceTransformer

    config = EmbedderConfig(model=name, backend="sentence-transformers", dtype=dtype, **settings)  # type: ignore[arg-type]
    library = SentenceTransformer(
        name, device=device(), trust_remote_code=config.trust_remote_code, revision=config.revision,
        model_kwargs={"dtype": getattr(torch, dtype)},
    )  # fmt: skip
    library.max_seq_length = min(library.max_seq_length or config.max_length, config.max_length)
    wanted = []
    for of in (config, config.for_classes()):
        prompt = of.instruction or None
        wanted.append(library.encode(TEXTS, prompt_name=of.prompt_name, prompt=prompt, convert_to_tensor=True).cpu())
    del library
    gc.collect()
    embedder = load_embedder(config, device())
    ours = embedder.encode(TEXTS).embeds
    assert ours.shape == (len(TEXTS), dim) and embedder.dim == dim
    close(ours, wanted[0], dtype)
    close(embedder.for_classes().encode(TEXTS).embeds, wanted[1], dtype)
    different = config.for_classes() != config
    assert torch.allclose(wanted[0], wanted[1], atol=1e-4) != different  # the class prompt is seen where there is one
    return ours


def same_as_llm2vec(name: str, dim: int) -> torch.Tensor:
    """Our vectors are those of the slow computation, which reads the same files; returns ours.

    LLM2Vec's own packages do not run on transformers 5.
    """
    config = EmbedderConfig(model=name, backend="llm2vec", dtype="float32")
    embedder = load_embedder(config, device())
    ours = embedder.encode(TEXTS).embeds
    assert ours.shape == (len(TEXTS), dim)
    del embedder
    gc.collect()
    folder = locate(config).folder
    wanted = torch.stack([slow_embed(folder, text)[0] for text in TEXTS])
    normalize = torch.nn.functional.normalize
    torch.testing.assert_close(normalize(ours, dim=-1), normalize(wanted, dim=-1), atol=1e-3, rtol=0)
    return ours


def nearer(embeds: torch.Tensor) -> None:
    """The paraphrases are nearer to each other than to the unrelated sentence."""
    embeds = torch.nn.functional.normalize(embeds, dim=-1)
    assert embeds[0] @ embeds[1] > embeds[0] @ embeds[2]


@pytest.mark.network
@pytest.mark.parametrize("name", list(REAL))
def test_sentence_transformers_models_of_the_hub(name: str) -> None:
    dim, size, dtype, settings = REAL[name]
    need(size)
    nearer(same_as_sentence_transformers(name, dim, dtype, **settings))


@pytest.mark.network
@pytest.mark.xfail(strict=False, reason="code that comes with the checkpoint may not load on transformers 5")
@pytest.mark.parametrize("name", list(OWN_CODE))
def test_models_with_their_own_code(name: str) -> None:
    dim, size = OWN_CODE[name]
    need(size)
    commit = huggingface_hub.HfApi().model_info(name).sha
    nearer(same_as_sentence_transformers(name, dim, "bfloat16", trust_remote_code=True, revision=commit))


@pytest.mark.network
@pytest.mark.parametrize("name", list(LLM2CLIP))
def test_llm2clips_embedders(name: str) -> None:
    dim, size = LLM2CLIP[name]
    need(size)
    nearer(same_as_llm2vec(name, dim))


@pytest.mark.parametrize(
    ("make", "settings"), [(qwen3_embedding, QWEN3), (multilingual_e5, E5), (bge_m3, {})], ids=["qwen3", "e5", "bge"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_check_of_sentence_transformers(
    make: Callable[[Path], Path], settings: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    same_as_sentence_transformers(str(make(tmp_path)), 32, dtype, **settings)


@pytest.mark.parametrize("rope", [None, LLAMA31_ROPE], ids=["llama-3", "llama-3.2"])
def test_the_check_of_llm2vec(rope: dict[str, Any] | None, tmp_path: Path) -> None:
    folder = llama3(tmp_path / "tiny-Llama-3-Instruct", **({"rope_parameters": rope} if rope else {}))
    same_as_llm2vec(str(folder), 64)


def need(gibibytes: int) -> None:
    """Skip where memory or disk would not hold the model."""
    gibibyte = 1 << 30
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else ram
    free = min(memory, shutil.disk_usage(Path.home()).free)
    if free < gibibytes * gibibyte:
        pytest.skip(f"needs {gibibytes} GiB of memory and disk, there are {free // gibibyte}")
