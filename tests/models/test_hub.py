"""Models by name: one download for all; and the real ones, each on its own (``-m network``)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models.clip import checkpoint_folder
from proclip.models.embedder import embedder_identity, load_embedder
from proclip.models.hub import hub_folder

GIBIBYTE = 1 << 30


def test_a_folder_is_itself_and_what_is_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_folder(str(tmp_path), None, ["*"]) == tmp_path
    asked = []

    def offline(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        raise LocalEntryNotFoundError("no network\nand a long explanation")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ProclipError, match=r"^'org/clip' is neither a folder nor a checkpoint .* gives: no network$"):
        checkpoint_folder("org/clip", "main")
    with pytest.raises(ProclipError, match=r"^embedder\.model 'org/llm' is neither a folder"):
        embedder_identity(EmbedderConfig(model="org/llm", revision="abc"))
    with pytest.raises(ProclipError, match=r"^embedder\.lora 'org/lora' is neither a folder"):
        embedder_identity(EmbedderConfig(model=str(tmp_path), lora=("org/lora",)))
    assert [name for name, _, _ in asked] == ["org/clip", "org/llm", "org/lora"]
    assert asked[1][1] == "abc" and "*.py" not in asked[1][2]


SENTENCE_TRANSFORMERS = {
    "Qwen/Qwen3-Embedding-0.6B": (1024, 3, {"class_prompt_name": "query"}),
    "Qwen/Qwen3-Embedding-4B": (2560, 10, {}),
    "Qwen/Qwen3-Embedding-8B": (4096, 18, {}),
    "intfloat/multilingual-e5-small": (384, 2, {"instruction": "query: "}),
    "intfloat/e5-mistral-7b-instruct": (4096, 17, {}),
    "BAAI/bge-m3": (1024, 4, {}),
    "nvidia/NV-Embed-v2": (4096, 18, {"trust_remote_code": True}),
    "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct": (1536, 8, {"trust_remote_code": True}),
}
"""Width, GiB that it needs, settings."""
NEAR = ("a cat sleeps on the sofa", "the kitten naps on the couch")
FAR = "shares fell on the stock market today"


def check(config: EmbedderConfig, dim: int) -> None:
    embedder = load_embedder(config, "cuda" if torch.cuda.is_available() else "cpu")
    embeds = torch.nn.functional.normalize(embedder.encode([*NEAR, FAR]).embeds, dim=-1)
    assert embeds.shape == (3, dim)
    assert embeds[0] @ embeds[1] > embeds[0] @ embeds[2]


@pytest.mark.network
@pytest.mark.parametrize("name", list(SENTENCE_TRANSFORMERS))
def test_sentence_transformers_models_of_the_hub(name: str) -> None:
    dim, size, settings = SENTENCE_TRANSFORMERS[name]
    need(size)
    try:
        check(EmbedderConfig(model=name, backend="sentence-transformers", **settings), dim)  # type: ignore[arg-type]
    except ProclipError as error:
        if "no *.safetensors" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "dim", "size"),
    [
        ("microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned", 4096, 20),
        ("microsoft/LLM2CLIP-Llama-3.2-1B-Instruct-CC-Finetuned", 2048, 5),
    ],
)
def test_llm2clips_embedders(name: str, dim: int, size: int) -> None:
    need(size)
    check(EmbedderConfig(model=name, backend="llm2vec"), dim)


def need(gibibytes: int) -> None:
    """Skip where memory or disk would not hold the model."""
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else _ram()
    free = min(memory, shutil.disk_usage(Path.home()).free)
    if free < gibibytes * GIBIBYTE:
        pytest.skip(f"needs {gibibytes} GiB of memory and disk, there are {free // GIBIBYTE}")


def _ram() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
