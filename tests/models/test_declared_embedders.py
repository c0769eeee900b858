"""Embedding models in the layouts that the hub's have: parity with the library's own encode, prompts, trust."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from damaged import damage
from tiny_embedders import TEXTS, bge_m3, multilingual_e5, qwen3_embedding

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models.batched_embedder import _budget
from proclip.models.embedder import embedder_identity, load_embedder

sentence_transformers = pytest.importorskip("sentence_transformers")
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Dense, Pooling  # noqa: E402


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    makers: dict[str, Callable[[Path], Path]] = {"qwen3": qwen3_embedding, "e5": multilingual_e5, "bge": bge_m3}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in makers.items()}


def config_of(folder: Path, **settings: object) -> EmbedderConfig:
    return EmbedderConfig(model=str(folder), backend="sentence-transformers", dtype="float32", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "prompt_name"), [("qwen3", None), ("qwen3", "query"), ("e5", "query"), ("e5", "passage"), ("bge", None)]
)
def test_vectors_are_the_librarys_own(models: dict[str, Path], name: str, prompt_name: str | None) -> None:
    library = SentenceTransformer(str(models[name]), device="cpu")
    wanted = library.encode(TEXTS, prompt_name=prompt_name, convert_to_tensor=True, batch_size=2)
    embedder = load_embedder(config_of(models[name], prompt_name=prompt_name))
    encoded = embedder.encode(TEXTS, batch_tokens=64)
    torch.testing.assert_close(encoded.embeds, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoded.embeds.norm(dim=1), torch.ones(len(TEXTS)))
    alone = torch.cat([embedder.encode([text]).embeds for text in TEXTS])
    torch.testing.assert_close(encoded.embeds, alone, rtol=1e-4, atol=1e-5)


def test_pooling_and_padding_are_the_declared_ones(models: dict[str, Path]) -> None:
    embedder = load_embedder(config_of(models["qwen3"]))
    assert embedder.model.tokenizer.padding_side == "left"
    module = embedder.model[0].model
    ids = torch.tensor([embedder.model.tokenizer("two birds")["input_ids"]])
    last = module(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, -1].detach()
    torch.testing.assert_close(embedder.encode(["two birds"]).embeds[0], last / last.norm(), rtol=1e-4, atol=1e-5)


def test_the_other_padding_side_is_tried(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pooling that takes the last column is right as long as the tokenizer pads on the left."""
    embedder = load_embedder(config_of(models["qwen3"]))
    other = embedder.other_padding()
    torch.testing.assert_close(other._vectors(TEXTS), embedder._vectors(TEXTS), rtol=1e-4, atol=1e-5)
    assert embedder.model.tokenizer.padding_side == "left"
    embedder.encode(["two"])
    assert "padded on the other side" not in caplog.text
    pooled = Pooling.forward

    def last_column(self: Pooling, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**pooled(self, features), "sentence_embedding": features["token_embeddings"][:, -1]}

    monkeypatch.setattr(Pooling, "forward", last_column)
    load_embedder(config_of(models["qwen3"])).encode(["two"])
    assert "look at the padding side that its tokenizer declares (left)" in caplog.text
    assert load_embedder(config_of(models["e5"])).other_padding() is None  # BERT counts positions from the first column


def test_the_self_check_names_what_the_model_declares(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load_embedder(config_of(models["qwen3"])).encode(["two"])  # random weights: no meaning
    assert "look at the pooling that the model's files declare (lasttoken), embedder.backend" in caplog.text
    assert "embedder.pooling" not in caplog.text and "embedder.layer" not in caplog.text
    embedder = load_embedder(config_of(models["qwen3"]))
    monkeypatch.setattr(embedder, "forward", lambda rows: torch.ones(len(rows), 4))
    with pytest.raises(ProclipError, match=r"look at the pooling that the model's files declare \(lasttoken\) and the"):
        embedder.encode(["two"])


def test_the_shorter_of_both_lengths_holds_and_is_counted(models: dict[str, Path]) -> None:
    declared = load_embedder(config_of(models["e5"]))
    assert declared.max_length == 64
    assert declared.encode(TEXTS).truncated == 2
    assert load_embedder(config_of(models["e5"], max_length=16)).encode(TEXTS).truncated == 3
    long = config_of(models["e5"], max_length=512)
    library = SentenceTransformer(str(models["e5"]), device="cpu").encode(TEXTS[-1:], convert_to_tensor=True)
    torch.testing.assert_close(load_embedder(long).encode(TEXTS[-1:]).embeds, library, rtol=1e-5, atol=1e-5)


def test_class_names_have_a_prompt_of_their_own(models: dict[str, Path]) -> None:
    config = config_of(models["e5"], prompt_name="passage", class_prompt_name="query")
    captions = load_embedder(config)
    classes = captions.for_classes()
    assert classes.model is captions.model
    library = SentenceTransformer(str(models["e5"]), device="cpu")
    for embedder, name in ((captions, "passage"), (classes, "query"), (captions, "passage")):
        wanted = library.encode(["a red fox"], prompt_name=name, convert_to_tensor=True)
        torch.testing.assert_close(embedder.encode(["a red fox"]).embeds, wanted, rtol=1e-5, atol=1e-5)
    assert captions.identity["prompt_name"] == "passage"
    assert classes.identity["prompt_name"] == "query"
    assert classes.identity == embedder_identity(config_of(models["e5"], prompt_name="query"))
    written = load_embedder(config_of(models["e5"], class_instruction="query: ")).for_classes()
    torch.testing.assert_close(written.encode(["a red fox"]).embeds, classes.encode(["a red fox"]).embeds)
    same = load_embedder(config_of(models["e5"], prompt_name="query"))
    assert same.for_classes() is same


def test_prompts_that_are_not_there(models: dict[str, Path]) -> None:
    with pytest.raises(ProclipError, match=r"has no prompt 'caption'; it has: .*passage, query"):
        load_embedder(config_of(models["e5"], prompt_name="caption"))
    with pytest.raises(ProclipError, match="has no prompt 'class'"):
        load_embedder(config_of(models["e5"], class_prompt_name="class"))
    with pytest.raises(ProclipError, match=r"embedder\.prompt_name must be left out, or alone"):
        config_of(models["e5"], prompt_name="query", instruction="query: ")
    with pytest.raises(ProclipError, match=r"embedder\.class_prompt_name must be left out"):
        EmbedderConfig(class_prompt_name="query")


@pytest.mark.parametrize("where", ["modules.json", "config.json"])
def test_a_model_with_its_own_code_needs_trust(tmp_path: Path, where: str) -> None:
    """GME names a class of its own in modules.json, NV-Embed-v2 a model type of its own in config.json."""
    multilingual_e5(tmp_path)
    (tmp_path / "custom_st.py").write_text("raise SystemExit('code from the checkpoint was run')\n")
    path = tmp_path / where
    values = json.loads(path.read_text())
    if where == "modules.json":
        values[0]["type"] = "custom_st.MultiModalTransformer"
    else:
        values.update(model_type="nvembed", auto_map={"AutoConfig": "custom_st.Config", "AutoModel": "custom_st.Model"})
    path.write_text(json.dumps(values))
    with pytest.raises(
        ProclipError, match=rf"runs code that comes with it \({where}.*embedder\.trust_remote_code = true"
    ):
        load_embedder(config_of(tmp_path))
    with pytest.raises(SystemExit, match="code from the checkpoint was run"):  # and with trust it is run
        load_embedder(replace(config_of(tmp_path), trust_remote_code=True))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("modules.json", "[{", r"modules\.json is not JSON"),
        ("modules.json", [5], r"modules\.json must hold a JSON list of objects whose 'type' and 'path' are texts"),
        ("modules.json", [{"type": "a"}], r"modules\.json must hold a JSON list of objects"),
        ("modules.json", [{"type": 5, "path": ""}], r"modules\.json must hold a JSON list of objects"),
        (
            "modules.json",
            [{"type": "a", "path": "../other"}],
            r"modules\.json: the path '\.\./other' leaves",
        ),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}], "does not load: KeyError"),
        ("config.json", "{", r"/config\.json is not JSON"),
        ("config.json", {"hidden_size": "a"}, "does not load: .*hidden_size"),
        ("1_Pooling/config.json", None, r"modules\.json names .*/1_Pooling/config\.json, which is missing"),
        ("1_Pooling/config.json", "{", r"does not load: .*/1_Pooling/config\.json is not JSON"),
        ("sentence_bert_config.json", {"max_seq_length": "x"}, "max_seq_length is 'x', a whole number is wanted"),
    ],
)
def test_damaged_files_are_named(
    models: dict[str, Path], tmp_path: Path, file: str, values: object, message: str
) -> None:
    shutil.copytree(models["e5"], tmp_path / "e5")
    if values is None:
        (tmp_path / "e5" / file).unlink()
    else:
        damage(tmp_path / "e5" / file, values)
    with pytest.raises(ProclipError, match=message):
        load_embedder(config_of(tmp_path / "e5"))


def test_weights_that_may_run_code_are_not_read(tmp_path: Path) -> None:
    bge_m3(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ProclipError, match=r"no \*\.safetensors.*refs/pr"):
        load_embedder(config_of(tmp_path))


def test_a_batch_on_a_gpu_holds_tokens_by_the_transformers_width(models: dict[str, Path], tmp_path: Path) -> None:
    """Not by that of vectors which a layer behind it makes narrower."""
    library = SentenceTransformer(str(models["e5"]), device="cpu")
    library.add_module("2", Dense(32, 4))
    library.save(str(tmp_path))
    embedder = load_embedder(config_of(tmp_path))
    assert (embedder.dim, embedder.width) == (4, 32)
    budgets = [_budget(torch.device("cuda"), width) for width in (embedder.width, 1024, 4096, 8192)]
    assert budgets == [65536, 65536, 16384, 8192]
