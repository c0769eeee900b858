"""LLM2CLIP's and ProCLIP's modules written again from the facts of interop.md: names, shapes and arithmetic, slowly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

LLM_DIM = 16
EMBED_DIM = 12


class LinearBlock(nn.Module):
    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * dim
        self.fn = nn.Sequential(nn.Linear(dim, inner), nn.GELU(), nn.Dropout(0.0), nn.Linear(inner, dim))
        self.ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(self.ln(x))


class TextProj(nn.Module):
    def __init__(self, dim: int, out: int, blocks: int, expansion: int) -> None:
        super().__init__()
        stack = [LinearBlock(dim, expansion) for _ in range(blocks)]
        self.text_adaptor = nn.Sequential(*stack, nn.LayerNorm(dim), nn.Linear(dim, out))

    def forward(self, text: Tensor, l2_norm: bool = True) -> Tensor:
        return self.text_adaptor(text / text.norm(dim=-1, keepdim=True) if l2_norm else text)


class Online(nn.Module):
    """What holds the adapter where the LLM runs while training (SigLIP2): its input is not normalised."""

    def __init__(self, text_proj: TextProj) -> None:
        super().__init__()
        self.text_proj = text_proj

    def forward(self, text: Tensor) -> Tensor:
        return self.text_proj(text, l2_norm=False)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-1.702 * x))


class ResBlock(nn.Module):
    def __init__(self, width: int, heads: int, act: nn.Module) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", act)
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class OpenAiVit(nn.Module):
    def __init__(
        self, width: int, depth: int, heads: int, patch: int, size: int, out: int, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(ResBlock(width, heads, act or QuickGELU()) for _ in range(depth))
        self.proj = nn.Parameter(torch.empty(width, out))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positional_embedding)
        for block in self.transformer.resblocks:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


class Rope(nn.Module):
    """Angles by a loop over pairs; frequencies as in language, places scaled to a grid of 16."""

    def __init__(self, grid: int, head: int) -> None:
        super().__init__()
        angles = torch.zeros(grid, grid, head, device="cpu")
        places = torch.arange(grid, device="cpu") / grid * 16
        for pair in range(head // 2):
            of_row = pair < head // 4
            index = pair if of_row else pair - head // 4
            angle = places / 10000 ** (2 * index / (head // 2))
            angles[:, :, 2 * pair : 2 * pair + 2] = angle[:, None, None] if of_row else angle[None, :, None]
        self.register_buffer("freqs_cos", angles.flatten(0, 1).cos())
        self.register_buffer("freqs_sin", angles.flatten(0, 1).sin())

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        turn = torch.complex(self.freqs_cos[:, ::2], self.freqs_sin[:, ::2])
        return torch.view_as_real(pairs * turn).flatten(-2)


class EvaAttention(nn.Module):
    def __init__(self, width: int, heads: int, rope: Rope, bare_bias: bool) -> None:
        super().__init__()
        self.heads, self.rope, self.bare_bias = heads, rope, bare_bias
        self.q_proj = nn.Linear(width, width, bias=not bare_bias)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=not bare_bias)
        if bare_bias:
            self.q_bias, self.v_bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.inner_attn_ln = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        queries, values = self.q_proj(x), self.v_proj(x)
        if self.bare_bias:
            queries, values = queries + self.q_bias, values + self.v_bias
        q, k, v = self.split(queries), self.split(self.k_proj(x)), self.split(values)
        q, k = (torch.cat([t[:, :, :1], self.rope(t[:, :, 1:])], dim=2) for t in (q, k))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.proj(self.inner_attn_ln((weights @ v).transpose(1, 2).flatten(2)))


class EvaMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.w1(x)
        return self.w3(self.ffn_ln(gate * torch.sigmoid(gate) * self.w2(x)))


class EvaBlock(nn.Module):
    def __init__(self, width: int, heads: int, rope: Rope, bare_bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = EvaAttention(width, heads, rope, bare_bias)
        self.mlp = EvaMlp(width, int(width * 8 / 3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class EvaVit(nn.Module):
    def __init__(
        self, width: int, depth: int, heads: int, patch: int, size: int, out: int, bare_bias: bool = False
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, (size // patch) ** 2 + 1, width))
        self.rope = Rope(size // patch, width // heads)
        self.blocks = nn.ModuleList(EvaBlock(width, heads, self.rope, bare_bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, out)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """One head at a time: [b, s, w], [b, t, w], [b, t, w] -> [b, s, w]."""
    parts = zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
    return torch.cat([(a @ b.mT / math.sqrt(a.shape[-1])).softmax(-1) @ c for a, b, c in parts], dim=-1)


class TimmBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn.proj(attend(*self.attn.qkv(self.norm1(x)).chunk(3, -1), self.heads))
        return x + self.mlp(self.norm2(x))


class AttentionPool(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.norm, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(attend(self.q(self.latent.expand(len(x), -1, -1)), *self.kv(x).chunk(2, -1), self.heads))
        return (x + self.mlp(self.norm(x)))[:, 0]


class SiglipVit(nn.Module):
    """open_clip's TimmModel around SigLIP's ViT: pooled by attention, no projection."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, size: int, ratio: float) -> None:
        super().__init__()
        self.trunk = nn.Module()
        self.trunk.patch_embed = nn.Module()
        self.trunk.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.trunk.pos_embed = nn.Parameter(torch.empty(1, (size // patch) ** 2, width))
        hidden = int(width * ratio)
        self.trunk.blocks = nn.Sequential(*(TimmBlock(width, heads, hidden) for _ in range(depth)))
        self.trunk.norm = nn.LayerNorm(width, eps=1e-6)
        self.trunk.attn_pool = AttentionPool(width, heads, hidden)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.trunk.patch_embed.proj(pixels).flatten(2).transpose(1, 2) + self.trunk.pos_embed
        return self.trunk.attn_pool(self.trunk.norm(self.trunk.blocks(x)))


class CustomClip(nn.Module):
    def __init__(self, visual: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.visual, self.text, self.logit_scale = visual, text, nn.Parameter(torch.tensor(3.0))


def tiny(kind: str, seed: int = 0) -> CustomClip:
    """A random model of 16 x 16 pixels: openai, gelu, eva, eva-bare, siglip, siglip-online."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        visual: nn.Module
        if kind in ("openai", "gelu"):
            visual = OpenAiVit(128, 2, 2, 8, 16, EMBED_DIM, nn.GELU() if kind == "gelu" else None)
        elif kind in ("eva", "eva-bare"):
            visual = EvaVit(24, 3, 2, 4, 16, EMBED_DIM, kind == "eva-bare")
        else:
            visual = SiglipVit(24, 2, 3, 4, 16, 3.5)
        out = 24 if kind.startswith("siglip") else EMBED_DIM
        proj = TextProj(LLM_DIM, out, 1 if kind == "gelu" else 3, 8 if kind == "gelu" else 2)
        model = CustomClip(visual, Online(proj) if kind == "siglip-online" else proj)
        for name, parameter in model.named_parameters():
            if name != "logit_scale":  # every tensor differs from what an untrained module would have there
                nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 and "ias" not in name else 0.0, 0.3)
    return model.eval()


class HubVision(nn.Module):
    """The image side of LLM2CLIP-Openai-* on the hub: transformers' own."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        vision = CLIPVisionConfig(**config["vision_config"], projection_dim=config["projection_dim"])
        self.model = CLIPVisionModelWithProjection(vision)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).image_embeds


def official_model(path: Path, heads: int | None = None) -> tuple[CustomClip, int, int]:
    """A checkpoint, read again from its files alone, in the modules above.

    Args:
        path: a file of torch, or a folder in the hub's format.
        heads: of the image tower; 64 of the width each if not given.

    Returns:
        the model with all its weights, its image size and the LLM's width.
    """
    visual: nn.Module
    if path.is_dir():
        config = json.loads((path / "config.json").read_text())
        state = {
            name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()
        }
        visual, size = HubVision(config), config["vision_config"]["image_size"]
        renamed = {name: name.replace("text_adapter.adaptor", "text.text_adaptor") for name in state}
        renamed |= {name: f"visual.model.{name}" for name in state if name.startswith(("vision_model", "visual_proj"))}
        state = {renamed[name]: tensor for name, tensor in state.items()}
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        while key := next((key for key in ("model", "module", "state_dict") if isinstance(state.get(key), dict)), None):
            state = state[key]
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        visual, size = _visual(state, heads)
    inside = "text.text_proj.text_adaptor." if any(".text_proj." in name for name in state) else "text.text_adaptor."
    blocks = sum(name.startswith(inside) and name.endswith(".fn.0.weight") for name in state)
    out, llm_dim = state[f"{inside}{blocks + 1}.weight"].shape
    text = TextProj(llm_dim, out, blocks, len(state[f"{inside}0.fn.0.weight"]) // llm_dim if blocks else 1)
    model = CustomClip(visual, Online(text) if ".text_proj." in inside else text)
    absent, unknown = model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    assert not unknown and all("freqs_" in name or name.endswith("position_ids") for name in absent), (absent, unknown)
    return model.eval(), size, llm_dim


def _visual(state: dict[str, Tensor], heads: int | None) -> tuple[nn.Module, int]:
    """The image tower of a file of torch by the shapes of its weights, and its image size."""

    def depth(name: str) -> int:
        return len({key.removeprefix(name).split(".")[0] for key in state if key.startswith(name)})

    def sizes(patches: str, positions: str) -> tuple[int, int, int]:
        width, _, _, patch = state[patches].shape
        return width, patch, patch * math.isqrt(state[positions].shape[-2])  # a class token changes no root

    if "visual.conv1.weight" in state:
        width, patch, size = sizes("visual.conv1.weight", "visual.positional_embedding")
        layers, out = depth("visual.transformer.resblocks."), state["visual.proj"].shape[1]
        return OpenAiVit(width, layers, heads or width // 64, patch, size, out), size
    if "visual.cls_token" in state:
        width, patch, size = sizes("visual.patch_embed.proj.weight", "visual.pos_embed")
        bare, out = "visual.blocks.0.attn.q_bias" in state, len(state["visual.head.weight"])
        return EvaVit(width, depth("visual.blocks."), heads or width // 64, patch, size, out, bare), size
    width, patch, size = sizes("visual.trunk.patch_embed.proj.weight", "visual.trunk.pos_embed")
    ratio = (len(state["visual.trunk.blocks.0.mlp.fc1.weight"]) + 0.5) / width
    return SiglipVit(width, depth("visual.trunk.blocks."), heads or 16, patch, size, ratio), size
