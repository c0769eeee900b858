"""Which image tower a checkpoint holds: OpenAI's ViT, EVA-CLIP's, or timm's (SigLIP2), and how ours is built."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ProclipError
from ..models.preprocess import ImagePreprocess
from ..models.towers import ImageTower, build_image_tower
from .facts import Hints, Shapes, heads_of, resolution_of
from .reading import Checkpoint, some
from .rules import Rule, eva_rules, openai_rules, same_rules, transformers_rules

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class FoundTower:
    """An image tower, its weights still in the checkpoint."""

    name: str
    """For people."""
    tower: ImageTower
    """On the meta device."""
    rules: list[Rule]
    preprocess: ImagePreprocess
    width: int
    depth: int
    heads: int
    heads_source: str
    """How the number is known."""
    patch: int
    hidden: int
    """Width inside the MLP."""
    activation: str
    dropped: frozenset[str] = field(default_factory=frozenset)
    """Buffers of theirs that ours computes."""


def find_tower(checkpoint: Checkpoint, shapes: Shapes, hints: Hints) -> FoundTower:
    """Tell the tower's kind from its names, its size from its shapes, and build ours on the meta device.

    Raises:
        ProclipError: a kind or size that is not known, or a key that tells it is missing.
    """
    names = shapes.tensors
    vit = "visual.conv1.weight" in names and not any(name.startswith("visual.layer1.") for name in names)
    if checkpoint.config is not None or vit:
        if hints.timm_model:
            raise ProclipError(f"--timm-model {hints.timm_model}: this image tower is not one of timm's")
        if checkpoint.config is not None:
            return _transformers_vit(shapes, checkpoint.config, hints)
        return _openai_vit(shapes, hints)
    if hints.heads is not None or hints.activation:
        raise ProclipError("--heads and --activation are for ViTs with OpenAI's names; this tower's model says them")
    if any(name.startswith("visual.trunk.") for name in names):
        return _timm(shapes, hints)
    if any(name.startswith("visual.blocks.") for name in names):
        return _eva(shapes, hints)
    kind = "a ResNet" if any(name.startswith("visual.layer1.") for name in names) else "none that is known"
    raise ProclipError(
        f"{shapes.source}: its image tower is {kind}; ViTs of OpenAI (visual.conv1), EVA-CLIP (visual.blocks) "
        "and timm (visual.trunk) are read"
    )


def build_on_meta(family: str, config: Mapping[str, Any], embed_dim: int) -> ImageTower:
    """A tower without memory for its weights."""
    with torch.device("meta"):
        return build_image_tower(family, config, embed_dim)


def inner_prefix(tower: ImageTower) -> str:
    """What transformers' version puts before ``embeddings.`` in the names of the family "clip"."""
    end = "embeddings.class_embedding"
    return next(name for name in tower.state_dict() if name.endswith(end)).removesuffix(end)


def _clip_preprocess(size: int, crop_offset: Literal["floor", "round"] = "round") -> ImagePreprocess:
    """CLIP's, the centre cut as torchvision does it: that is the transform of all code that writes files of torch."""
    return ImagePreprocess(size=size, mean=OPENAI_MEAN, std=OPENAI_STD, crop_offset=crop_offset)


def _vit_config(size: int, patch: int, width: int, depth: int, heads: int, hidden: int) -> dict[str, Any]:
    """The fields of a ``CLIPVisionConfig`` that shapes give."""
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "image_size": size,
        "patch_size": patch,
    }


def _openai_vit(shapes: Shapes, hints: Hints) -> FoundTower:
    width = shapes.of("visual.conv1.weight", 4)[0]
    patch = shapes.patch("visual.conv1.weight")
    positions, key = shapes.of("visual.positional_embedding", 2)[0] - 1, "visual.positional_embedding"
    size = resolution_of(shapes, positions, patch, hints, key)
    depth = shapes.count(r"visual\.transformer\.resblocks\.(\d+)\.")
    hidden = shapes.of("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    heads = heads_of(shapes, width, hints)
    activation = hints.activation or "quick_gelu"
    config = _vit_config(size, patch, width, depth, heads, hidden) | {"hidden_act": activation}
    tower = build_on_meta("clip", config, shapes.of("visual.proj", 2)[1])
    return FoundTower(
        "OpenAI ViT",
        tower,
        openai_rules(inner_prefix(tower), depth),
        _clip_preprocess(size),
        width,
        depth,
        heads,
        "stated" if hints.heads is not None else "64 each",
        patch,
        hidden,
        f"{activation} ({'stated' if hints.activation else 'usual for these names'})",
    )


def _said_of_vision(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says of the image tower; the fields that are read are checked, null ones left out.

    Raises:
        ProclipError: ``vision_config`` is no object, or a field is of another type or out of range.
    """
    from transformers.activations import ACT2FN

    where = f"{shapes.source}/config.json: vision_config"
    said = {} if config.get("vision_config") is None else config["vision_config"]
    if not isinstance(said, dict):
        raise ProclipError(f"{where} is {said!r}, an object is wanted")
    said = {name: value for name, value in said.items() if value is not None}
    for name in set(said) & set(_vit_config(1, 1, 1, 1, 1, 1)):
        if type(said[name]) is not int or said[name] < 1:
            raise ProclipError(f"{where}.{name} is {said[name]!r}, a whole number above 0 is wanted")
    eps, activation = said.get("layer_norm_eps", 1e-5), said.get("hidden_act", "quick_gelu")
    if type(eps) not in (int, float) or not 0 < eps < math.inf:
        raise ProclipError(f"{where}.layer_norm_eps is {eps!r}, a number above 0 is wanted")
    if not isinstance(activation, str) or activation not in ACT2FN:
        raise ProclipError(f"{where}.hidden_act is {activation!r}, none of transformers' activations, as quick_gelu is")
    return said


def _transformers_vit(shapes: Shapes, config: Mapping[str, Any], hints: Hints) -> FoundTower:
    start = "vision_model.embeddings."
    width = shapes.of(f"{start}patch_embedding.weight", 4)[0]
    patch = shapes.patch(f"{start}patch_embedding.weight")
    key = f"{start}position_embedding.weight"
    said = _said_of_vision(shapes, config)
    positions = shapes.of(key, 2)[0] - 1
    size = resolution_of(shapes, positions, patch, hints, key)
    depth = shapes.count(r"vision_model\.encoder\.layers\.(\d+)\.")
    hidden = shapes.of("vision_model.encoder.layers.0.mlp.fc1.weight", 2)[0]
    heads = heads_of(shapes, width, hints, said.get("num_attention_heads"))
    activation = hints.activation or said.get("hidden_act", "quick_gelu")
    ours = _vit_config(size, patch, width, depth, heads, hidden)
    for name, value in ours.items():
        if name in said and said[name] != value and name not in ("image_size", "num_attention_heads"):
            raise ProclipError(
                f"{shapes.source}/config.json: vision_config.{name} is {said[name]}, its weights {value}"
            )
    if hints.resolution is None:
        size = ours["image_size"] = resolution_of(
            shapes, positions, patch, Hints(resolution=said.get("image_size")), key
        )
    ours |= {"hidden_act": activation, "layer_norm_eps": said.get("layer_norm_eps", 1e-5)}
    tower = build_on_meta("clip", ours, shapes.of("visual_projection.weight", 2)[0])
    return FoundTower(
        "ViT of LLM2CLIP's hub models",
        tower,
        transformers_rules(inner_prefix(tower), tower.state_dict()),
        _clip_preprocess(size, "floor"),  # they are read with transformers' CLIPImageProcessor
        width,
        depth,
        heads,
        "stated" if hints.heads is not None else "config.json" if "num_attention_heads" in said else "64 each",
        patch,
        hidden,
        activation,
        frozenset({f"{start}position_ids"}),
    )


def _eva(shapes: Shapes, hints: Hints) -> FoundTower:
    width = shapes.of("visual.patch_embed.proj.weight", 4)[0]
    patch = shapes.patch("visual.patch_embed.proj.weight")
    positions = shapes.of("visual.pos_embed", 3)[1] - 1
    size = resolution_of(shapes, positions, patch, hints, "visual.pos_embed")
    depth = shapes.count(r"visual\.blocks\.(\d+)\.")
    bare = any(re.search(r"\.attn\.[qv]_bias$", name) for name in shapes.tensors)
    tower, rules, name = _match_timm(
        shapes,
        _timm_names(("eva*clip*",), patch, size, hints),
        {"timm_pool": "token", "timm_proj": None},
        size,
        shapes.of("visual.head.weight", 2)[0],
        lambda names: eva_rules(names, bare_bias=bare),
    )
    heads, hidden = _attention_of(tower)
    tables = (key for key in shapes.tensors if re.search(r"\.rope\.freqs_(cos|sin)$", key))
    ropes = frozenset(tables if getattr(tower.visual.trunk, "rope", None) is not None else ())  # type: ignore[union-attr]
    return FoundTower(
        f"EVA-CLIP, timm's {name}",
        tower,
        rules,
        _clip_preprocess(size),
        width,
        depth,
        heads,
        "that model's",
        patch,
        hidden,
        "silu, gated" if any(".mlp.w3." in key for key in shapes.tensors) else "gelu",
        ropes,
    )


def _timm(shapes: Shapes, hints: Hints) -> FoundTower:
    start = "visual.trunk."
    width = shapes.of(f"{start}patch_embed.proj.weight", 4)[0]
    patch = shapes.patch(f"{start}patch_embed.proj.weight")
    positions = shapes.of(f"{start}pos_embed", 3)[1] - (f"{start}cls_token" in shapes.tensors)
    size = resolution_of(shapes, positions, patch, hints, f"{start}pos_embed")
    depth = shapes.count(r"visual\.trunk\.blocks\.(\d+)\.")
    options, embed_dim = _timm_head(shapes, width)
    eva = f"{start}cls_token" in shapes.tensors
    patterns = ("eva*clip*",) if eva else ("vit*siglip*",)
    names = _timm_names(patterns, patch, size, hints)
    if options["timm_pool"] == "map" and not hints.timm_model:
        names = [name for name in names if "_gap_" not in name]
    tower, rules, name = _match_timm(shapes, names, options, size, embed_dim, same_rules)
    heads, hidden = _attention_of(tower)
    half = ImagePreprocess(size=size, mean=HALF, std=HALF, resize="squash", crop_offset="round")
    return FoundTower(
        f"timm's {name}",
        tower,
        rules,
        _clip_preprocess(size) if eva else half,
        width,
        depth,
        heads,
        "that model's",
        patch,
        hidden,
        "silu, gated" if any(".mlp.fc1_g." in key for key in shapes.tensors) else "gelu",
    )


def _timm_head(shapes: Shapes, width: int) -> tuple[dict[str, Any], int]:
    """open_clip's options for pooling and projection, and d."""
    start = "visual.trunk."
    pool = "token" if f"{start}cls_token" in shapes.tensors else "avg"
    if any(name.startswith(f"{start}attn_pool.") for name in shapes.tensors):
        pool = "map"
    options: dict[str, Any] = {"timm_pool": pool, "timm_proj": "none"}
    if f"{start}head.weight" in shapes.tensors:
        return options | {"timm_proj": None}, shapes.of(f"{start}head.weight", 2)[0]
    if "visual.head.proj.weight" in shapes.tensors:
        bias = "visual.head.proj.bias" in shapes.tensors
        return options | {"timm_proj": "linear", "timm_proj_bias": bias}, shapes.of("visual.head.proj.weight", 2)[0]
    if "visual.head.mlp.fc2.weight" in shapes.tensors:
        bias = "visual.head.mlp.fc2.bias" in shapes.tensors
        return options | {"timm_proj": "mlp", "timm_proj_bias": bias}, shapes.of("visual.head.mlp.fc2.weight", 2)[0]
    return options, width


def _timm_names(patterns: tuple[str, ...], patch: int, size: int, hints: Hints) -> list[str]:
    """The models of timm of that patch and image size, or the one that is stated.

    Raises:
        ProclipError: timm cannot be imported, or has no model of that name.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise ProclipError(f"this image tower needs timm: pip install 'proclip-align[open-clip]' ({error})") from None
    if hints.timm_model is not None:
        if not timm.is_model(hints.timm_model):
            raise ProclipError(f"--timm-model {hints.timm_model}: timm {timm.__version__} has no such model")
        return [hints.timm_model]
    fits = re.compile(rf"patch{patch}_(?:.*_)?{size}$")
    return [name for name in timm.list_models(list(patterns)) if fits.search(name)]


def _match_timm(
    shapes: Shapes,
    candidates: list[str],
    options: Mapping[str, Any],
    size: int,
    embed_dim: int,
    rules_of: Callable[[Mapping[str, Tensor]], list[Rule]],
) -> tuple[ImageTower, list[Rule], str]:
    """The one of timm's models whose weights have the names and shapes of the checkpoint's.

    If only one has the right width and depth it is taken whatever else differs: the check of all names and shapes
    that follows says what.

    Raises:
        ProclipError: none has, or several.
    """
    close, exact = [], []
    stem = next(name for name in shapes.tensors if name.endswith("patch_embed.proj.weight"))
    block = stem.removesuffix("patch_embed.proj.weight") + "blocks."
    depth = shapes.count(re.escape(block) + r"(\d+)\.")
    for name in candidates:
        config = {"image_size": size, "timm_model_name": name, "timm_model_pretrained": False, **options}
        tower = build_on_meta("open_clip", {"vision_cfg": config, "quick_gelu": False}, embed_dim)
        own = tower.state_dict()
        rules = rules_of(own)
        sizes = {f"image_tower.{key}": tuple(tensor.shape) for key, tensor in own.items()}
        found = (tower, rules, name)
        wanted = {rule.theirs: rule.shape(sizes) for rule in rules}
        if len(tower.blocks) == depth and wanted.get(stem) == tuple(shapes.tensors[stem].shape):
            close.append(found)
        if all(key in shapes.tensors and tuple(shapes.tensors[key].shape) == shape for key, shape in wanted.items()):
            exact.append(found)
    chosen = exact or close
    if len(chosen) != 1:
        fit = some([name for _, _, name in chosen] or candidates) or "there is none"
        raise ProclipError(
            f"{shapes.source}: {len(chosen)} of timm's models have this tower's shapes (of its patch and image size: "
            f"{fit}); name it with --timm-model, or the image size with --resolution"
        )
    return chosen[0]


def _attention_of(tower: ImageTower) -> tuple[int, int]:
    """Heads and width inside the MLP of a tower's first block, as timm says."""
    block: Any = tower.blocks[0]
    return int(block.attn.num_heads), int(block.mlp.fc2.in_features)
