"""OpenCLIP checkpoints of every kind of tower, shrunk; the library itself builds and saves them. Needs open_clip."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
TINY: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 12, "vision_cfg": VIT, "text_cfg": TEXT},
    "quickgelu": {"embed_dim": 12, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "eva02": {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 16, "timm_model_name": "eva02_tiny_patch4_clip_16", "timm_model_pretrained": False,
            "timm_pool": "token", "timm_proj": None,
        },
        "text_cfg": TEXT,
        "custom_text": True,
    },
    "siglip": {
        "embed_dim": 24,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 16, "timm_model_name": "vit_tiny_patch4_siglip_16", "timm_model_pretrained": False,
            "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 700, "hf_tokenizer_name": "nobody/tiny-tokenizer",
            "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 32, "heads": 2, "layers": 2, "mlp_ratio": 3.5,
            "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
        },
    },
    "coca": {
        "embed_dim": 16,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {
            "context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, "attn_pooler_heads": 2,
        },
        "custom_text": True,
    },
    "resnet": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
        "text_cfg": TEXT,
    },
    "convnext": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
}  # fmt: skip
PREPROCESS: dict[str, dict[str, Any]] = {
    "siglip": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    "convnext": {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "resize_mode": "shortest"},
}


@cache
def register_tiny_timm_models() -> None:
    """EVA02-CLIP and SigLIP's ViT as timm builds them, tiny; open_clip passes no sizes on to timm."""
    from timm.models import register_model
    from timm.models.eva import _create_eva
    from timm.models.vision_transformer import _create_vision_transformer

    def eva02_tiny_patch4_clip_16(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        sizes = {
            "img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 4 * 2 / 3,
            "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True,
            "use_rot_pos_emb": True, "ref_feat_shape": (16, 16),
        }  # fmt: skip
        return _create_eva("eva02_large_patch14_clip_336", pretrained=pretrained, **{**sizes, **kwargs})

    def vit_tiny_patch4_siglip_16(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        sizes = {
            "img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 3.5,
            "class_token": False, "global_pool": "map",
        }  # fmt: skip
        return _create_vision_transformer("vit_base_patch16_siglip_224", pretrained=pretrained, **{**sizes, **kwargs})

    for build in (eva02_tiny_patch4_clip_16, vit_tiny_patch4_siglip_16):
        build.__module__ = "timm.models.eva" if "eva" in build.__name__ else "timm.models.vision_transformer"
        register_model(build)


def save_tiny_open_clip(kind: str, folder: Path, seed: int = 0) -> Path:
    """A checkpoint folder of one kind with random weights, in OpenCLIP's format."""
    import open_clip

    register_tiny_timm_models()
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": TINY[kind], "preprocess_cfg": PREPROCESS.get(kind, {})}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}")
        for parameter in model.parameters():  # large enough that every part shows in the output
            if parameter.ndim and parameter.requires_grad:
                parameter.data += 0.2 * torch.randn_like(parameter)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    if "hf_tokenizer_name" in TINY[kind]["text_cfg"]:
        tiny_sentencepiece_like().save_pretrained(folder)
    return folder


def tiny_sentencepiece_like() -> Any:
    """A tokenizer with SigLIP's habits: ``</s>`` at the end, padding to the right, no start token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = ["a red square on white", "the green bar", "blue column über grey", "photo of a fox"] * 3
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=300, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
