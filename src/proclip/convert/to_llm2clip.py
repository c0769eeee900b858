"""A `ProCLIP` model to a checkpoint that the code of LLM2CLIP and ProCLIP loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ProclipError
from ..files import make_folder, replacing
from ..models.proclip import ProCLIP
from .rope import rope_tables
from .rules import Rule, adapter_rules, eva_rules, openai_rules, same_rules
from .towers import inner_prefix

PLAIN_VIT = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"}
"""Fields of open_clip's ``vision_cfg`` that the official code has too, for a ViT that is not timm's."""


def write_llm2clip(model: ProCLIP, out: Path) -> list[tuple[str, str]]:
    """Write ``{"state_dict": ...}`` with ``visual.*``, ``text.text_adaptor.*`` and ``logit_scale``, in float32.

    Args:
        model: of a tower that the official code has.
        out: file that is not there yet.

    Returns:
        what the official code's model config must say, one row a fact: it builds its model before it loads weights.

    Raises:
        ProclipError: the official code has no place for a part of the model, or `out` is there.
    """
    if out.exists():
        raise ProclipError(f"{out} is there already: give another file or delete it")
    config = model.adapter.config
    if config.input_norm == "standardize":
        raise ProclipError(
            "adapter.input_norm is 'standardize'; LLM2CLIP's adapter knows l2 and none, and the residual blocks "
            "do not let a standardisation be folded into its weights"
        )
    if getattr(model, "logit_bias", None) is not None:
        raise ProclipError("the model has a logit_bias (sigmoid loss); LLM2CLIP's model has no place for it")
    rules, tables, rows = _tower(model)
    online = config.input_norm == "none"
    prefix = "text.text_proj.text_adaptor." if online else "text.text_adaptor."
    rules = [*rules, *adapter_rules(prefix, config.num_blocks), Rule("logit_scale", ("logit_scale",))]
    own = model.state_dict()
    left = set(own) - {name for rule in rules for name in rule.ours} - {"adapter.input_mean", "adapter.input_std"}
    if left:
        raise ProclipError(f"LLM2CLIP's model has no place for {', '.join(sorted(left)[:5])} ({len(left)} in all)")
    state = {rule.theirs: rule.to_theirs(own).float() for rule in rules} | tables
    make_folder(out.parent)
    with replacing(out) as draft:
        torch.save({"state_dict": state}, draft)
    rows += [
        ("embed_dim", str(model.adapter.embed_dim)),
        ("text_cfg.llm_embedding_dim", str(model.adapter.llm_dim)),
        ("TextProj", f"num_layers_text={config.num_blocks}, expansion_factor={config.expansion}, l2_norm={not online}"),
    ]
    if online:
        rows.append(("text.text.*", "the LLM is not in the file: load with strict=False"))
    return rows


def _tower(model: ProCLIP) -> tuple[list[Rule], dict[str, Tensor], list[tuple[str, str]]]:
    """Rules of the image tower, buffers that theirs keeps, and its config's fields."""
    tower = model.image_tower
    if tower.family == "clip":
        return _clip_tower(model)
    if tower.family != "open_clip":
        raise ProclipError(
            f"the image tower is of family {tower.family!r}; LLM2CLIP's code holds ViTs of OpenAI, EVA-CLIP and timm"
        )
    vision: dict[str, Any] = tower.config["vision_cfg"]
    names = list(tower.state_dict())
    name = vision.get("timm_model_name")
    if name is None:
        extra = sorted(key for key in set(vision) - PLAIN_VIT if vision[key])
        if extra or any(isinstance(vision.get("layers"), kind) for kind in (list, tuple)):
            raise ProclipError(f"LLM2CLIP's ViT has no {', '.join(extra) or 'ResNet'}: this tower cannot be written")
        plain = ", ".join(f"{key}={vision[key]}" for key in sorted(vision))
        return same_rules(names), {}, [("vision_cfg", plain), ("quick_gelu", str(tower.config["quick_gelu"]))]
    eva = name.startswith("eva") and vision.get("timm_pool") == "token" and not vision.get("timm_proj")
    if not eva:
        fields = ", ".join(f"{key}={vision[key]}" for key in sorted(vision) if key.startswith("timm_"))
        return same_rules(names), {}, [("vision_cfg", f"image_size={model.preprocess.size}, {fields}")]
    rules = eva_rules(names, bare_bias=False)
    rows = [("vision_cfg", f"EVA-CLIP's of the tower that timm calls {name}, image_size={model.preprocess.size}")]
    return rules, _tables(model, rules), rows


def _clip_tower(model: ProCLIP) -> tuple[list[Rule], dict[str, Tensor], list[tuple[str, str]]]:
    tower = model.image_tower
    config = tower.config
    width, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    activation = config.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise ProclipError(f"the image tower's activation is {activation!r}; LLM2CLIP's ViT has quick_gelu or gelu")
    if config.get("layer_norm_eps", 1e-5) != 1e-5:
        raise ProclipError(f"the image tower's layer_norm_eps is {config['layer_norm_eps']}; LLM2CLIP's ViT has 1e-05")
    rules = openai_rules(inner_prefix(tower), len(tower.blocks))
    vision = f"layers={len(tower.blocks)}, width={width}, head_width={width // heads}"
    vision += f", patch_size={config.get('patch_size', 32)}, image_size={config.get('image_size', 224)}"
    vision += f", mlp_ratio={config.get('intermediate_size', 3072) / width:.6g}"
    return rules, {}, [("vision_cfg", vision), ("quick_gelu", str(activation == "quick_gelu"))]


def _tables(model: ProCLIP, rules: list[Rule]) -> dict[str, Tensor]:
    """EVA02's rotary tables: one module of theirs, which its state dict lists at the top and in every block."""
    trunk: Any = model.image_tower.visual
    trunk = trunk.trunk
    if trunk.rope is None:
        return {}
    grid = trunk.patch_embed.grid_size[0]
    cos, sin = rope_tables(grid, trunk.embed_dim // trunk.blocks[0].attn.num_heads)
    places = ["visual.rope.", *(f"visual.blocks.{i}.attn.rope." for i in range(len(trunk.blocks)))]
    return {f"{place}freqs_{name}": table for place in places for name, table in (("cos", cos), ("sin", sin))}
