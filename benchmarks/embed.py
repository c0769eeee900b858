"""Embedding, tokens a second: ours against sentence-transformers' own `encode` with the best of its batch sizes.

    python benchmarks/embed.py                 # a quarter of an hour on two cores
    python benchmarks/embed.py --shape qwen3-0.6b --texts 3000 --repeats 3     # on a GPU

The same texts, the same model with random weights, the same process, in turn. Theirs sorts by length by itself and gets
every batch size of a list; the fastest of them in the same round is what ours is held against. Ours is what
`proclip embed` runs: a plan on disk, chunks of neighbours of a window of texts of like length, batches by a budget of
tokens, vectors written; and the embedder alone, without the store.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import command_line, figure, in_turn, write
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast, Qwen3Config

from proclip.config import EmbedderConfig
from proclip.embed import A_CHUNK_ON_GPU, embed_captions
from proclip.models.embedder import load_embedder

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert-small": ("bert", {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
                            "intermediate_size": 1536, "max_position_embeddings": 512}),
    "qwen3-small": ("qwen3", {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6,
                              "num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 1152}),
    "qwen3-0.6b": ("qwen3", {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
                             "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072}),
}  # fmt: skip
BATCH_SIZES = {"cpu": (8, 16, 32, 64, 128), "cuda": (32, 64, 128, 256, 512, 1024)}


def texts_like_captions(count: int) -> list[str]:
    """Half short (about 12 words), half long (about 55), as DreamLIP's; words of a made-up language of 5,000."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(5000)]
    middles = (12, 55)
    lengths = [max(3, round(rng.gauss(middles[n % 2], middles[n % 2] / 4))) for n in range(count)]
    return [f"{' '.join(rng.choices(words, k=length))} {n}" for n, length in enumerate(lengths)]


def random_model(folder: Path, shape: str, texts: list[str]) -> Path:
    """A model with random weights and a tokenizer trained on the texts, as sentence-transformers saves them."""
    kind, sizes = SHAPES[shape]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts[:5000], trainer)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    side = "left" if kind == "qwen3" else "right"
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", padding_side=side, model_max_length=512
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = (Qwen3Config if kind == "qwen3" else BertConfig)(vocab_size=len(tokenizer.get_vocab()), **sizes)
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    pooling = "lasttoken" if kind == "qwen3" else "mean_tokens"
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "lasttoken")}
    (folder / "1_Pooling").mkdir()
    pooled = {"word_embedding_dimension": sizes["hidden_size"], **modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooled))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for n, (path, kind) in enumerate(kinds.items())]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {}, "default_prompt_name": None}))
    return folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of this script."""
    parser.add_argument("--shape", choices=SHAPES, action="append", help="(default: bert-small and qwen3-small)")
    parser.add_argument("--texts", type=int, default=400)


def measure(folder: Path, shape: str, texts: list[str], repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ours and theirs on one model."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: Any = "bfloat16" if device == "cuda" else "float32"
    path = random_model(folder / "model", shape, texts)
    embedder: Any = load_embedder(
        EmbedderConfig(model=str(path), backend="sentence-transformers", dtype=dtype, max_length=512), device
    )
    model, captions = embedder.model, [(str(n), text) for n, text in enumerate(texts)]

    def ours() -> None:
        shutil.rmtree(folder / "store", ignore_errors=True)
        embed_captions(
            captions, embedder, folder / "store", "float16", size=A_CHUNK_ON_GPU if device == "cuda" else None
        )

    def theirs(batch_size: int) -> Callable[[], object]:
        return lambda: model.encode(texts, batch_size=batch_size, show_progress_bar=False)

    found = torch.from_numpy(model.encode(texts[:64])).float()
    torch.testing.assert_close(
        embedder.encode(texts[:64]).embeds, found, rtol=0, atol=3e-2 if dtype != "float32" else 1e-4
    )
    ways = {"ours": ours, "our embedder alone": lambda: embedder.encode(texts)}
    ways |= {f"theirs, {size}": theirs(size) for size in BATCH_SIZES[device]}
    turns = in_turn(ways, repeats)
    best = [min(times) for times in zip(*(turns.seconds[f"theirs, {n}"] for n in BATCH_SIZES[device]), strict=True)]
    over = {
        way: [a / b for a, b in zip(best, turns.seconds[way], strict=True)] for way in ("ours", "our embedder alone")
    }
    tokens = int(embedder.encode(texts).tokens.sum())
    shutil.rmtree(folder / "model")
    figures = [
        figure(f"{shape}: tokens a second over sentence-transformers'", over["ours"], "x", aim="at least 1"),
        figure(f"{shape}: the embedder alone over theirs", over["our embedder alone"], "x"),
        figure(f"{shape}: tokens a second, store included", turns.rate("ours", tokens), "tokens/s"),
    ]  # fmt: skip
    return figures, {"tokens": tokens, **turns.values()}


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=9, extend=add_options)
    texts = texts_like_captions(100 if options.small else options.texts)
    figures, details = [], {}
    for shape in options.shape or ["bert-small", "qwen3-small"]:
        with tempfile.TemporaryDirectory() as name:
            more, details[shape] = measure(Path(name), shape, texts, options.repeats)
        figures += more
    write(options, __doc__, figures, {"texts": len(texts), "shapes": details})


if __name__ == "__main__":
    main()
