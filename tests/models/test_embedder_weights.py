"""LoRA adapters, precision and devices, and that an embedder lets its weights go."""

from __future__ import annotations

import importlib.util
import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_embedders import qwen3_embedding
from tiny_llms import llama3
from transformers import LlamaForCausalLM, LlamaModel

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models.embedder import LazyEmbedder, embedder_identity, identity_difference, load_embedder
from proclip.models.embedder_source import settings_of
from proclip.models.embedder_weights import merge_adapters

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21 asks for it
TEXTS = ["two birds", "a red car beside a tall tree"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return llama3(tmp_path / "Llama-3-Instruct")


@pytest.fixture
def config(folder: Path) -> EmbedderConfig:
    return EmbedderConfig(model=str(folder), dtype="float32")


def adapter(base: torch.nn.Module, folder: Path, seed: int) -> Path:
    """A LoRA adapter with random weights on both sides, as peft saves it."""
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"])
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(folder)
    return folder


def test_merged_adapters_are_pefts_own(config: EmbedderConfig, folder: Path, tmp_path: Path) -> None:
    """As LLM2CLIP does it: an MNTP adapter, then a supervised one."""
    peft = pytest.importorskip("peft")
    first = adapter(LlamaModel.from_pretrained(folder), tmp_path / "mntp", 1)
    second = adapter(LlamaModel.from_pretrained(folder), tmp_path / "supervised", 2)
    model = LlamaModel.from_pretrained(folder)
    for path in (first, second):
        model = peft.PeftModel.from_pretrained(model, path).merge_and_unload()
    ids = torch.tensor([[1, 50, 70, 90, 200]])
    ours = merge_adapters(LlamaModel.from_pretrained(folder), [first, second])
    wanted = model(ids).last_hidden_state
    torch.testing.assert_close(ours(ids).last_hidden_state, wanted, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(LlamaModel.from_pretrained(folder)(ids).last_hidden_state, wanted, atol=1e-2)
    assert not [name for name, _ in ours.named_parameters() if "lora" in name]

    both = replace(config, lora=(str(first), str(second)), backend="llm2vec")
    embeds = load_embedder(both).encode(TEXTS).embeds
    assert not torch.allclose(embeds, load_embedder(replace(config, backend="llm2vec")).encode(TEXTS).embeds, atol=1e-2)
    assert settings_of(both)["lora"] == ["mntp", "supervised"]
    identity = embedder_identity(both)
    swapped = embedder_identity(replace(both, lora=(str(second), str(first))))
    assert identity["files"] != swapped["files"] != embedder_identity(config)["files"]


def test_an_adapter_of_the_model_with_its_head_fits_too(folder: Path, tmp_path: Path) -> None:
    bare = adapter(LlamaModel.from_pretrained(folder), tmp_path / "bare", 1)
    headed = adapter(LlamaForCausalLM.from_pretrained(folder), tmp_path / "headed", 1)
    a, b = (load_file(path / "adapter_model.safetensors") for path in (bare, headed))
    assert {name.replace("base_model.model.model.", "base_model.model.") for name in b} == set(a)
    ids = torch.tensor([[1, 50, 70]])
    one, other = (merge_adapters(LlamaModel.from_pretrained(folder), [path])(ids) for path in (bare, headed))
    torch.testing.assert_close(one.last_hidden_state, other.last_hidden_state)


def test_adapters_that_do_not_fit_are_named(
    config: EmbedderConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = adapter(LlamaModel.from_pretrained(folder), tmp_path / "mntp", 1)
    weights = load_file(path / "adapter_model.safetensors")
    save_file(
        {name.replace("layers.0.", "blocks.0."): w for name, w in weights.items()}, path / "adapter_model.safetensors"
    )
    with pytest.raises(ProclipError, match=r"embedder\.lora: .*mntp does not fit the model: 12 tensors"):
        load_embedder(replace(config, lora=(str(path),)))
    save_file(
        {n: w[:, :3].contiguous() if "lora_A" in n else w for n, w in weights.items()},
        path / "adapter_model.safetensors",
    )
    with pytest.raises(ProclipError, match=r"embedder\.lora: .*mntp does not load"):
        load_embedder(replace(config, lora=(str(path),)))
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(ProclipError, match=r"embedder\.lora: .* has no adapter_model\.safetensors"):
        load_embedder(replace(config, lora=(str(path),)))
    with pytest.raises(ProclipError, match=r"embedder\.quantization must be 'none': adapters are merged"):
        replace(config, lora=("x",), quantization="int8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(ProclipError, match=r"embedder\.lora needs peft: run  pip install 'proclip-align\[peft\]'"):
        merge_adapters(LlamaModel.from_pretrained(folder), [path])


def test_the_map_of_devices_changes_no_vector(config: EmbedderConfig) -> None:
    pytest.importorskip("accelerate")
    plain = load_embedder(replace(config, layer=1)).encode(TEXTS).embeds
    mapped = replace(config, layer=1, device_map="auto")
    torch.testing.assert_close(load_embedder(mapped).encode(TEXTS).embeds, plain)
    assert embedder_identity(mapped) == embedder_identity(replace(config, layer=1))


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_weights(config: EmbedderConfig, quantization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = replace(config, quantization=quantization, dtype="bfloat16")  # type: ignore[arg-type]
    assert settings_of(quantized)["quantization"] == quantization
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, package=None: None if n == "bitsandbytes" else find(n))
    with pytest.raises(ProclipError, match=rf"quantization '{quantization}' needs bitsandbytes: run  pip install"):
        load_embedder(quantized)
    monkeypatch.undo()
    pytest.importorskip("bitsandbytes")
    embeds = load_embedder(quantized).encode(TEXTS).embeds
    full = load_embedder(config).encode(TEXTS).embeds
    error = float((embeds - full).norm() / full.norm())
    assert 1e-4 < error < (0.1 if quantization == "int8" else 0.5)


def test_weights_that_are_not_there_are_refused(config: EmbedderConfig, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ProclipError, match=r"lacks 1 weights, such as layers\.1\.mlp\.up_proj\.weight"):
        load_embedder(config)


def test_identity_fields_stand_only_where_they_are_not_at_their_default(config: EmbedderConfig) -> None:
    old = {"model", "kind", "instruction", "max_length", "dtype", "pooling", "layer", "padding_side", "skip_tokens"}
    assert set(settings_of(config)) == old
    prompted = replace(config, class_instruction="Name: ", device_map="auto")
    assert settings_of(prompted) == settings_of(config)
    of_class = settings_of(prompted.for_classes())
    assert identity_difference(settings_of(config), of_class) == "instruction: want '', have 'Name: '"


@pytest.mark.parametrize("backend", ["causal-lm", "llm2vec"])
def test_close_frees_the_weights_and_the_next_text_loads_them(config: EmbedderConfig, backend: str) -> None:
    lazy = LazyEmbedder(replace(config, backend=backend, class_instruction="Name: "))  # type: ignore[arg-type]
    classes = lazy.for_classes()
    before, named = lazy.encode(TEXTS).embeds, classes.encode(TEXTS).embeds
    assert not torch.allclose(before, named, atol=1e-3)
    gone = weakref.ref(lazy._loaded().model)  # type: ignore[attr-defined]
    classes.close()
    assert gone() is None
    torch.testing.assert_close(lazy.encode(TEXTS).embeds, before)
    torch.testing.assert_close(classes.encode(TEXTS).embeds, named)
    assert classes.identity["instruction"] == "Name: " and lazy.identity["instruction"] == ""
    assert classes.for_classes() is classes


def test_the_config_file_of_an_adapter_is_data(folder: Path, tmp_path: Path) -> None:
    path = adapter(LlamaModel.from_pretrained(folder), tmp_path / "mntp", 1)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "NONSENSE"}))
    with pytest.raises(ProclipError, match=r"embedder\.lora: .*mntp does not load"):
        merge_adapters(LlamaModel.from_pretrained(folder), [path])


@pytest.mark.parametrize("backend", ["causal-lm", "sentence-transformers", "llm2vec"])
def test_weights_that_are_damaged_are_an_error_of_one_line(backend: str, tmp_path: Path) -> None:
    made = qwen3_embedding if backend == "sentence-transformers" else llama3
    (tmp_path / "llm").mkdir()
    folder = made(tmp_path / "llm")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    chat = "{}" if backend == "llm2vec" else None
    with pytest.raises(ProclipError, match=rf"embedder\.model '{folder}' does not load: "):
        load_embedder(EmbedderConfig(model=str(folder), dtype="float32", backend=backend, chat=chat))  # type: ignore[arg-type]
