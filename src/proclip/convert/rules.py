"""Which tensor of the official code is which of ours; one list serves both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """One tensor of theirs and the tensors of ours that it holds, stacked along the first dimension."""

    theirs: str
    """Key in the official checkpoint."""
    ours: tuple[str, ...]
    """Keys in the state dict of `ProCLIP`."""
    transposed: bool = False
    """Theirs is a matrix [in, out], ours a Linear's weight [out, in]."""

    def to_ours(self, tensor: Tensor) -> dict[str, Tensor]:
        """Their tensor as ours; views of it where that is possible."""
        tensor = tensor.T if self.transposed else tensor
        parts = tensor.chunk(len(self.ours)) if len(self.ours) > 1 else (tensor,)
        return dict(zip(self.ours, parts, strict=True))

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Our tensors as theirs, in memory of its own."""
        parts = [tensors[name].detach().cpu() for name in self.ours]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0].clone()
        return (tensor.T if self.transposed else tensor).contiguous()

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The shape that theirs must have, from the shapes of ours."""
        first = shapes[self.ours[0]]
        stacked = (sum(shapes[name][0] for name in self.ours), *first[1:]) if len(self.ours) > 1 else first
        return stacked[::-1] if self.transposed else stacked


def adapter_rules(prefix: str, num_blocks: int) -> list[Rule]:
    """The adapter: ``TextProj.text_adaptor`` of both code bases, ``LLM2CLIP_Adapter.adaptor`` of the hub's models.

    Args:
        prefix: up to the number of a block, such as ``text.text_adaptor.``.
        num_blocks: N.
    """
    names = {"ln": "norm", "fn.0": "expand", "fn.3": "contract"}
    pairs = [(f"{i}.{theirs}", f"blocks.{i}.{ours}") for i in range(num_blocks) for theirs, ours in names.items()]
    pairs += [(f"{num_blocks}", "norm"), (f"{num_blocks + 1}", "project")]
    return _with_parts((prefix + theirs, f"adapter.{ours}") for theirs, ours in pairs)


def openai_rules(inner: str, depth: int) -> list[Rule]:
    """OpenAI's ViT (``visual.conv1``, ``visual.transformer.resblocks``) to the family "clip".

    Args:
        inner: prefix of transformers' names in our tower, with a dot at its end.
        depth: number of blocks.
    """
    ours = f"image_tower.{inner}"
    rules = [
        Rule("visual.class_embedding", (f"{ours}embeddings.class_embedding",)),
        Rule("visual.positional_embedding", (f"{ours}embeddings.position_embedding.weight",)),
        Rule("visual.conv1.weight", (f"{ours}embeddings.patch_embedding.weight",)),
        Rule("visual.proj", ("image_tower.projection.weight",), transposed=True),
    ]
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    pairs = [("visual.ln_pre", f"{ours}pre_layrnorm"), ("visual.ln_post", f"{ours}post_layernorm")]
    for i in range(depth):
        theirs, layer = f"visual.transformer.resblocks.{i}.", f"{ours}encoder.layers.{i}."
        pairs += [(theirs + a, layer + b) for a, b in names.items()]
        for part in ("weight", "bias"):
            heads = tuple(f"{layer}self_attn.{name}_proj.{part}" for name in "qkv")
            rules.append(Rule(f"{theirs}attn.in_proj_{part}", heads))
    return rules + _with_parts(pairs)


def transformers_rules(inner: str, names: Iterable[str]) -> list[Rule]:
    """The hub's models, in transformers' own names.

    Args:
        inner: prefix of transformers' names in our tower, with a dot at its end.
        names: state dict of our tower.
    """
    rules = [Rule("visual_projection.weight", ("image_tower.projection.weight",))]
    return rules + [
        Rule(f"vision_model.{name.removeprefix(inner)}", (f"image_tower.{name}",))
        for name in names
        if name.startswith(inner)
    ]


EVA_NAMES = {
    "attn.norm.": "attn.inner_attn_ln.",
    "mlp.norm.": "mlp.ffn_ln.",
    "mlp.fc1_g.": "mlp.w1.",
    "mlp.fc1_x.": "mlp.w2.",
}
"""timm's names of an EVA block's parts, and EVA-CLIP's (facts: timm/models/eva.py, its filter of checkpoints)."""


def eva_rules(names: Iterable[str], *, bare_bias: bool) -> list[Rule]:
    """EVA-CLIP's own names to timm's, for the family "open_clip".

    Args:
        names: state dict of our tower, ``visual.trunk.*``.
        bare_bias: the biases of queries and values are ``q_bias`` and ``v_bias`` (EVA-CLIP's releases), not
            ``q_proj.bias`` and ``v_proj.bias`` (LLM2CLIP's code).
    """
    names = list(names)
    gated = any(".mlp.fc1_g." in name for name in names)
    rules = []
    for name in names:
        theirs = name.replace("visual.trunk.", "visual.", 1)
        for ours, official in EVA_NAMES.items():
            theirs = theirs.replace(ours, official)
        if gated:
            theirs = theirs.replace("mlp.fc2.", "mlp.w3.")
        if bare_bias:
            theirs = theirs.replace(".q_proj.bias", ".q_bias").replace(".v_proj.bias", ".v_bias")
        rules.append(Rule(theirs, (f"image_tower.{name}",)))
    return rules


def same_rules(names: Iterable[str]) -> list[Rule]:
    """A tower whose names are open_clip's on both sides (``visual.trunk.*``; ``visual.conv1`` of open_clip itself)."""
    return [Rule(name, (f"image_tower.{name}",)) for name in names]


def _with_parts(pairs: Iterable[tuple[str, str]]) -> list[Rule]:
    """Modules that have a weight and a bias on both sides."""
    return [Rule(f"{a}.{part}", (f"{b}.{part}",)) for a, b in pairs for part in ("weight", "bias")]
