"""The LLM of a model as a graph: which ones export, with what they are described, and their tokenizer."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

from ..config import EmbedderConfig
from ..models.causal_lm import CausalLMEmbedder
from ..models.embedder import TextEmbedder, load_embedder
from ..models.embedder_source import chat_frame
from ..models.proclip import ProCLIP
from ..models.sentence_transformers_embedder import SentenceTransformersEmbedder
from ..onnx.manifest import EmbedderPart
from ..onnx.tokens import Tokenize, load_tokenizer, token_rows
from .graphs import DecoderGraph, DoesNotExport, Graph, SentenceTransformersGraph
from .parity import CHECK_TEXTS

ELSEWHERE = "serve the LLM elsewhere and give its vectors to the adapter (project_text)"
"""What to do where the LLM does not export."""
Embedder = CausalLMEmbedder | SentenceTransformersEmbedder


def load_in_float32(model: ProCLIP) -> Embedder:
    """The model's LLM on the CPU in float32, whatever precision it was trained with.

    Raises:
        DoesNotExport: it is of a kind that does not export.
        ProclipError: it cannot be found or loaded, or is not the one that the adapter was trained with.
    """
    config = model.embedder_config
    if config is None:
        raise DoesNotExport(f"the LLM does not export: the model was made around an object; {ELSEWHERE}")
    if config.quantization != "none":
        raise DoesNotExport(
            f"the LLM does not export: its weights are {config.quantization} of bitsandbytes; {ELSEWHERE}"
        )
    if config.trust_remote_code:
        raise DoesNotExport(f"the LLM does not export: it runs code of its checkpoint; {ELSEWHERE}")
    located = model.embedder  # with its identity checked; no weights are loaded yet
    config = getattr(located, "config", config)
    plain = dataclasses.replace(config, dtype="float32", device_map=None, compile=False)
    embedder: TextEmbedder = load_embedder(plain, "cpu")
    if not isinstance(embedder, (CausalLMEmbedder, SentenceTransformersEmbedder)):
        raise DoesNotExport(f"the LLM does not export: a {type(embedder).__name__} is not known here; {ELSEWHERE}")
    return embedder


def graph_of(embedder: Embedder) -> Graph:
    """What computes the LLM's vectors from tokens.

    Raises:
        DoesNotExport: a sentence-transformers model of parts that are not known here.
    """
    if isinstance(embedder, CausalLMEmbedder):
        return DecoderGraph(embedder)
    for module in embedder.model:
        kind = type(module).__name__
        if kind not in ("Transformer", "Pooling", "Normalize", "Dense", "LayerNorm"):
            raise DoesNotExport(f"the LLM does not export: its module {kind} is not known here; {ELSEWHERE}")
        if not getattr(module, "include_prompt", True):
            raise DoesNotExport(f"the LLM does not export: its pooling leaves the prompt out; {ELSEWHERE}")
    return SentenceTransformersGraph(embedder)


def write_tokenizer(embedder: Embedder, path: Path) -> None:
    """Write the LLM's ``tokenizer.json``, without truncation and padding, which the manifest tells.

    Raises:
        DoesNotExport: its tokenizer is not one of the library tokenizers.
    """
    from tokenizers import Tokenizer

    backend = getattr(_tokenizer(embedder), "backend_tokenizer", None)
    if backend is None:
        raise DoesNotExport(f"the LLM does not export: its tokenizer has no tokenizer.json; {ELSEWHERE}")
    plain = Tokenizer.from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    path.write_text(json.dumps(json.loads(plain.to_str()), ensure_ascii=False), encoding="utf-8")


def check_tokens(embedder: Embedder, part: EmbedderPart, path: Path) -> None:
    """Compare the tokens of the file with those of the LLM's own tokenizer, also of a text that is cut.

    Raises:
        DoesNotExport: they differ.
    """
    own, other = _tokenizer(embedder), Tokenize(load_tokenizer(path))
    texts = [*CHECK_TEXTS, "a long text of many words, 長い文章 " * part.max_length]
    for instruction in dict.fromkeys((part.instruction, part.class_instruction)):
        rows = [token_rows(texts, tokenize, part, instruction) for tokenize in (own, other)]
        if rows[0] != rows[1]:
            raise DoesNotExport(
                f"the LLM does not export: tokenizer.json gives other tokens than it reads; {ELSEWHERE}"
            )


def _tokenizer(embedder: Embedder) -> Any:
    return embedder.tokenizer if isinstance(embedder, CausalLMEmbedder) else embedder.model.tokenizer


def describe(embedder: Embedder, graph: Graph) -> EmbedderPart:
    """What the manifest says of the LLM."""
    config: EmbedderConfig = embedder.config
    classes = embedder.for_classes()
    part = partial(
        EmbedderPart,
        model=config.model,
        inputs=tuple(graph.axes),
        padding_side="left" if embedder.padding_side == "left" else "right",
    )
    if isinstance(embedder, SentenceTransformersEmbedder):
        assert isinstance(classes, SentenceTransformersEmbedder)
        return part(
            pooling="as the model declares, in the graph",
            max_length=embedder.max_length,
            pad_token_id=int(embedder.model.tokenizer.pad_token_id or 0),
            instruction=embedder.prompt,
            class_instruction=classes.prompt,
        )
    llm2vec = config.backend == "llm2vec"
    return part(
        pooling="mean" if llm2vec else config.pooling,
        max_length=embedder.max_length,
        pad_token_id=embedder.fill,
        instruction=config.instruction,
        class_instruction=classes.config.instruction,
        skip_tokens=config.skip_tokens,
        chat=chat_frame(config) if llm2vec else None,
    )
