"""The self-check: what it refuses, what it says, and that good models pass in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tiny_llms import llama3

from proclip.config import EmbedderConfig
from proclip.errors import ProclipError
from proclip.models import causal_lm
from proclip.models.embedder import load_embedder
from proclip.models.self_check import LEAST_SIMILARITY, PARAPHRASES, Settings, self_check, similarity_of_paraphrases

SETTINGS = Settings("embedder.pooling (mean), embedder.layer (-1)", "embedder.padding_side (right)")
GROUP = {text: n for n, pair in enumerate(PARAPHRASES) for text in pair}


def meaning(texts: list[str], noise: float = 0.5) -> torch.Tensor:
    """Vectors that know what the texts mean."""
    rows = []
    for text in texts:
        generator = torch.Generator().manual_seed(GROUP.get(text, 100 + len(text)))
        own = torch.Generator().manual_seed(sum(text.encode()))
        rows.append(torch.randn(64, generator=generator) + noise * torch.randn(64, generator=own))
    return torch.stack(rows)


@pytest.fixture
def llama(tmp_path: Path) -> EmbedderConfig:
    return EmbedderConfig(model=str(llama3(tmp_path)), dtype="float32")


def test_a_good_embedder_passes_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    self_check(EmbedderConfig(dtype="float32"), SETTINGS, meaning, meaning)
    assert not caplog.records
    assert similarity_of_paraphrases(meaning) > 0.95
    assert similarity_of_paraphrases(lambda texts: meaning(texts, noise=1e6)) < LEAST_SIMILARITY


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ProclipError, match=r"not finite: look at embedder\.dtype \(float16\)"):
        self_check(EmbedderConfig(dtype="float16"), SETTINGS, lambda texts: meaning(texts) / 0, None)


def test_one_vector_for_every_text_is_refused(llama: EmbedderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load_embedder(llama)
    # The first token of a causal model is the same <|begin_of_text|> in every text.
    monkeypatch.setitem(causal_lm.POOLING, "mean", lambda hidden, mask: hidden[:, 0].float())
    with pytest.raises(ProclipError, match=r"one and the same vector for different texts: look at embedder\.pooling"):
        embedder.encode(["two"])


def test_pooled_padding_is_refused(llama: EmbedderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load_embedder(llama)
    monkeypatch.setitem(causal_lm.POOLING, "mean", lambda hidden, mask: hidden.float().mean(1))
    with pytest.raises(ProclipError, match=r"otherwise in a batch than alone.*look at embedder\.padding_side"):
        embedder.encode(["two"])


def test_the_other_padding_side_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    self_check(EmbedderConfig(dtype="float32"), SETTINGS, meaning, lambda texts: meaning(texts) + torch.arange(64.0))
    assert "on the other side than they are: look at embedder.padding_side (right)" in caplog.text


def test_vectors_without_meaning_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    self_check(EmbedderConfig(dtype="float32"), SETTINGS, lambda texts: meaning(texts, noise=1e6), None)
    assert "look at embedder.pooling (mean), embedder.layer (-1)" in caplog.text


def test_random_weights_are_no_error_and_the_check_runs_once(
    llama: EmbedderConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    embedder = load_embedder(llama)
    assert embedder.encode(["two"]).embeds.isfinite().all()
    monkeypatch.setitem(
        causal_lm.POOLING, "mean", lambda hidden, mask: torch.full((len(hidden), hidden.shape[2]), torch.nan)
    )
    embedder.encode(["two"])  # not checked again


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"layer": 3}, {"layer": 9}, {"layer": 15}, {}, {"pooling": "last_token"}])
def test_smollm2_passes_in_silence(settings: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("gguf")
    load_embedder(EmbedderConfig(**settings)).encode(["a red fox"])  # type: ignore[arg-type]
    assert not [record for record in caplog.records if record.name.startswith("proclip")]


@pytest.mark.slow
def test_smollm2_with_useless_pooling_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("gguf")
    load_embedder(EmbedderConfig(layer=0, pooling="last_token")).encode(["a red fox"])  # a full stop's token embedding
    assert "look at embedder.pooling (last_token), embedder.layer (0)" in caplog.text
