"""An embedder whose blocks run through torch.compile: one graph for all, the same vectors, the same identity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_llms import CORPUS, qwen3
from torch import nn

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models.compiling import compile_blocks
from proclip.models.embedder import embedder_identity, load_embedder
from proclip.models.saving import pinned_embedder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EmbedderConfig:
    folder = tmp_path_factory.mktemp("llm") / "qwen3"
    qwen3(folder)
    return EmbedderConfig(model=str(folder), pooling="last_token", dtype="float32", compile=True)


def test_it_is_no_part_of_the_identity_and_of_a_saved_model(config: EmbedderConfig) -> None:
    assert embedder_identity(config) == embedder_identity(replace(config, compile=False))
    assert not pinned_embedder(config).compile


@pytest.mark.parametrize("settings", [{"device_map": "auto"}, {"quantization": "int8"}])
def test_what_it_does_not_go_with(settings: dict[str, str]) -> None:
    with pytest.raises(ProclipError, match=r"embedder\.compile must be false with quantization or a device_map"):
        EmbedderConfig(model="some/llm", compile=True, **settings)  # type: ignore[arg-type]


def test_a_machine_that_cannot_compile_is_told_so(config: EmbedderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: object) -> object:
        raise RuntimeError("no g++")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(ProclipError, match=r"embedder\.compile: torch\.compile does not work on cpu here; it wants"):
        load_embedder(config)


def test_the_blocks_alone_are_compiled_and_a_model_without_such_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Block(nn.Linear):
        pass

    class Model(nn.Sequential):
        _no_split_modules = ("Block",)

    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append(module))
    model, plain = Model(nn.Embedding(3, 2), Block(2, 2), Block(2, 2)), nn.Linear(2, 2)
    compile_blocks(model)
    compile_blocks(plain)
    assert compiled == [model[1], model[2], plain]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("layer", [-1, 2])
def test_one_graph_gives_the_vectors_of_the_plain_model(config: EmbedderConfig, layer: int) -> None:
    """Of a layer in the middle the states are taken by a hook on the last block alone."""
    texts = [f"{text} {n}" for n in range(40) for text in CORPUS]
    config = replace(config, layer=layer)
    wanted = load_embedder(replace(config, compile=False)).encode(texts).embeds
    torch.compiler.reset()
    compiled = load_embedder(config)
    torch.testing.assert_close(compiled.encode(texts).embeds, wanted, rtol=1e-4, atol=1e-5)
    with torch.compiler.set_stance("fail_on_recompile"):  # another number of texts, and of tokens
        compiled.encode(texts[:33])
