"""What inspect and the card say of an embedder: what its backend reads, and what the model's own files declare."""

from __future__ import annotations

from pathlib import Path

import pytest
from damaged import damage
from tiny_embedders import QWEN_QUERY, multilingual_e5, qwen3_embedding

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models.embedder import load_embedder
from proclip.models.embedder_facts import DECLARED, embedder_facts
from proclip.models.proclip import ProCLIP
from proclip.runs.inspect import describe, inspect_command


def declared(folder: Path, **settings: object) -> EmbedderConfig:
    return EmbedderConfig(model=str(folder), backend="sentence-transformers", dtype="float32", **settings)  # type: ignore[arg-type]


def test_a_causal_lm(tmp_path: Path) -> None:
    facts = embedder_facts(EmbedderConfig(layer=0, instruction="Text: ", class_instruction="Name: "))
    assert (facts["pooling"], facts["layer"], facts["padding_side"], facts["skip_tokens"]) == ("mean", 0, "right", 0)
    assert facts["prompts"] == {"captions": "Text: ", "class names": "Name: "}
    assert "chat" not in facts and "prompt_name" not in facts


def test_llm2vec() -> None:
    facts = embedder_facts(EmbedderConfig(model="org/Llama-3-8B-Instruct-CC-Finetuned", backend="llm2vec"))
    assert (facts["pooling"], facts["padding_side"]) == ("mean of the text's own tokens", "left")
    assert "<|eot_id|>" in facts["chat"] and "layer" not in facts and "skip_tokens" not in facts


@pytest.mark.parametrize("saved_by_the_library", [False, True])
def test_a_sentence_transformers_model(tmp_path: Path, saved_by_the_library: bool) -> None:
    """In the layout of the hub's repositories, and in that of today's library."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    (tmp_path / "qwen").mkdir()
    folder = qwen3_embedding(tmp_path / "qwen")
    if saved_by_the_library:
        library = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        library.default_prompt_name = "query"
        folder = tmp_path / "again"
        library.save_pretrained(str(folder))
    facts = embedder_facts(declared(folder, class_prompt_name="document"))
    loaded = load_embedder(declared(folder))
    assert facts["pooling"] == "lasttoken" and "(lasttoken)" in loaded.settings.pooling  # type: ignore[attr-defined]
    assert facts["padding_side"] == loaded.padding_side == "left"  # type: ignore[attr-defined]
    assert facts["prompts"]["captions"] == loaded.prompt == (QWEN_QUERY if saved_by_the_library else "")  # type: ignore[attr-defined]
    assert facts["prompts"]["class names"] == ""
    assert not {"layer", "skip_tokens", "prompt_name", "instruction"} & set(facts)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("modules.json", "[{", r"modules\.json is not JSON"),
        ("modules.json", [{"type": "a"}], r"modules\.json must hold a JSON list of objects"),
        ("config_sentence_transformers.json", {"prompts": 5}, "prompts must be an object"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, values: object, message: str) -> None:
    folder = multilingual_e5(tmp_path)
    damage(folder / file, values)
    with pytest.raises(ProclipError, match=message):
        embedder_facts(declared(folder))


def test_a_model_that_is_not_on_this_machine() -> None:
    facts = embedder_facts(declared(Path("nobody/has-this"), prompt_name="query", class_instruction="Name: "))
    assert facts["pooling"] == facts["padding_side"] == DECLARED
    assert facts["prompts"] == {"captions": "the model's 'query'", "class names": "Name: "}
    assert embedder_facts(declared(Path("nobody/has-this")))["prompts"]["captions"] == DECLARED


def test_card_and_inspect_say_so(tiny_proclip_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e5").mkdir()
    model = ProCLIP.from_pretrained(tiny_proclip_path)
    model.embedder_config = declared(multilingual_e5(tmp_path / "e5"), prompt_name="passage", class_prompt_name="query")
    model.embedder_identity = None
    for inside, where in ((False, "beside"), (True, "inside")):
        model.save_pretrained(tmp_path / where, include_embedder=inside)
        card = (tmp_path / where / "README.md").read_text()
        assert "pooling 'mean', padding_side 'right'" in card and "layer" not in card
        assert '| text before every | captions "passage: ", class names "query: " |' in card
        facts = describe(str(tmp_path / where))
        assert facts["embedder"]["pooling"] == "mean" and "layer" not in facts["embedder"]
        assert facts["prompts"] == {"captions": "passage: ", "class names": "query: "}
    inspect_command(str(tmp_path / "beside"))
    assert 'captions "passage: ", class names "query: "' in " ".join(capsys.readouterr().out.split())


def test_inspect_shows_the_chat_frame_as_it_is_used(
    tiny_proclip_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ProCLIP.from_pretrained(tiny_proclip_path)
    model.embedder_config = EmbedderConfig(model="nobody/llm", backend="llm2vec", chat="<user>\n\n{}<end>")
    model.embedder_identity = None
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("COLUMNS", "500")
    inspect_command(str(tmp_path / "model"))
    assert r"chat <user>\n\n{}<end>" in capsys.readouterr().out
