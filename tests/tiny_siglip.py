"""Tiny SigLIP and SigLIP2 checkpoints with random weights, written by transformers in the formats of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    GemmaTokenizer,
    PreTrainedTokenizerBase,
    Siglip2Config,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

TEXT = (
    "a red green blue grey square bar column on white drawing of the its colour is canvas around it thing one two "
    "rot grün blau grau picture with some at tip tail seen from above"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789äöüß"
CONTEXT = 16
PATCH = 8
PATCHES = 20


def unigram_pieces() -> list[tuple[str, float]]:
    """Pieces and log-probabilities in the order of SigLIP's vocabulary: unknown is 2, the end 1."""
    words = [(f"▁{word}", -4.0) for word in TEXT.split()]
    letters = [(letter, -9.0) for letter in LETTERS]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0), *dict([*words, *letters]).items()]


def write_siglip_tokenizer(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json as google/siglip-base-patch16-224 has them."""
    tokenizer = Tokenizer(models.Unigram(unigram_pieces(), unk_id=2, byte_fallback=False))
    punctuation = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]"
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(punctuation), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("</s>", "<unk>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "SiglipTokenizer", "model_max_length": CONTEXT, "model_input_names": ["input_ids"],
        "do_lower_case": True, "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def gemma_tokenizer(kind: type[PreTrainedTokenizerBase], texts: list[str]) -> PreTrainedTokenizerBase:
    """A byte-fallback BPE of Gemma's layout, with the settings of SigLIP2's tokenizer_config.json."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    learner = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    vocab = dict(model["vocab"])
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    return kind(
        vocab=vocab, merges=[tuple(pair) for pair in model["merges"]], add_bos_token=False, add_eos_token=True,
        padding_side="right", model_input_names=["input_ids"],
    )  # type: ignore[call-arg]  # fmt: skip


def _sides(vocab_size: int, **vision: Any) -> dict[str, Any]:
    shared = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    return {
        "text_config": {**shared, "vocab_size": vocab_size, "max_position_embeddings": CONTEXT},
        "vision_config": {**shared, "patch_size": PATCH, **vision},
    }


def _randomise(model: torch.nn.Module) -> None:
    """Weights large enough that a wrong token, mask or filter shows in the embeddings."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.logit_scale.data.fill_(4.7)
        model.logit_bias.data.fill_(-12.5)


def write_siglip(folder: Path, resample: int = 3, **vision: Any) -> Path:
    """A SigLIP (version 1) checkpoint: Unigram tokenizer, squashed pictures of 32 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    write_siglip_tokenizer(folder)
    _write_fixed(folder, len(unigram_pieces()), resample, **vision)
    return folder


def write_siglip2_fixed(folder: Path) -> Path:
    """A SigLIP2 checkpoint of fixed resolution: model_type siglip, Gemma's tokenizer, which does not lower-case."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = gemma_tokenizer(GemmaTokenizer, [TEXT])
    tokenizer.save_pretrained(folder)
    _write_fixed(folder, len(tokenizer), 2)
    return folder


def _write_fixed(folder: Path, vocab_size: int, resample: int, **vision: Any) -> None:
    model = SiglipModel(SiglipConfig(**_sides(vocab_size, image_size=32, **vision)))
    _randomise(model)
    model.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    processor = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "do_convert_rgb": None, "image_mean": half,
        "image_processor_type": "SiglipImageProcessor", "image_std": half, "processor_class": "SiglipProcessor",
        "resample": resample, "rescale_factor": 1 / 255, "size": {"height": 32, "width": 32},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def write_siglip2_naflex(folder: Path) -> Path:
    """A SigLIP2 NaFlex checkpoint, its processor saved by transformers (processor_config.json)."""
    tokenizer = gemma_tokenizer(Siglip2Tokenizer, [TEXT])
    model = Siglip2Model(Siglip2Config(**_sides(len(tokenizer), num_patches=16)))
    _randomise(model)
    model.save_pretrained(folder)
    Siglip2Processor(Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=PATCHES), tokenizer).save_pretrained(
        folder
    )
    return folder


def write_spiece(path: Path) -> None:
    """The same vocabulary as sentencepiece's own file."""
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    for piece, score in unigram_pieces():
        entry = proto.pieces.add()
        entry.piece, entry.score = piece, score
        entry.type = {"<unk>": 2, "<pad>": 3, "</s>": 3}.get(piece, 1)
    spec = proto.trainer_spec
    spec.model_type, spec.vocab_size = 1, len(unigram_pieces())
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 2, -1, 1, 0
    proto.normalizer_spec.name, proto.normalizer_spec.add_dummy_prefix = "identity", True
    proto.normalizer_spec.remove_extra_whitespaces, proto.normalizer_spec.escape_whitespaces = True, True
    path.write_bytes(proto.SerializeToString())
