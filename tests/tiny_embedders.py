"""Tiny embedding models in the layouts that sentence-transformers repositories of the hub have."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny_llms import CORPUS, qwen3
from transformers import BertConfig, BertModel, BertTokenizerFast, XLMRobertaConfig, XLMRobertaModel

TEXTS = ["two birds", "a red car beside a tall tree", "赤い家と青い車", CORPUS[0], "a long text of many words " * 12]
MODULES = [
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
]
QWEN_QUERY = "Instruct: Given a web search query, retrieve relevant passages\nQuery:"


def declare(folder: Path, pooling: str, prompts: dict[str, str], max_length: int | None) -> None:
    """The files that a sentence-transformers repository of the hub has beside the model's own."""
    entries = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(MODULES)]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    modes = {
        f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    }
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, **modes, "include_prompt": True})
    )
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    if max_length is not None:
        (folder / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": max_length, "do_lower_case": False})
        )


def qwen3_embedding(folder: Path) -> Path:
    """Qwen3-Embedding: last token, left padding, a named prompt for queries and an empty one for documents."""
    qwen3(folder)
    declare(folder, "lasttoken", {"query": QWEN_QUERY, "document": ""}, None)
    return folder


def word_pieces(folder: Path, **names: str) -> BertTokenizerFast:
    words = sorted({c for text in [*CORPUS, *TEXTS] for c in text.lower()} | {"a", "red", "two", "query", "passage"})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *[f"##{w}" for w in words]]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    tokenizer = BertTokenizerFast(vocab={word: n for n, word in enumerate(vocab)})
    tokenizer.save_pretrained(folder)
    return tokenizer


def multilingual_e5(folder: Path) -> Path:
    """multilingual-e5: mean over the tokens, "query: " and "passage: " before the texts."""
    tokenizer = word_pieces(folder)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        BertModel(BertConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=64)).save_pretrained(folder)
    declare(folder, "mean_tokens", {"query": "query: ", "passage": "passage: "}, 64)
    return folder


def bge_m3(folder: Path) -> Path:
    """bge-m3: an XLM-RoBERTa, first token."""
    tokenizer = word_pieces(folder)
    with torch.random.fork_rng():
        torch.manual_seed(6)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = XLMRobertaConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=130, pad_token_id=0)
        XLMRobertaModel(config).save_pretrained(folder)
    declare(folder, "cls_token", {}, 128)
    return folder
