"""LLM2CLIP's way of embedding, computed slowly from the facts: one text at a time, no padding, float64, no library."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer

HEADER = "<|start_header_id|>user<|end_header_id|>\n\n"


class Weights:
    """A checkpoint's tensors in float64, each read when it is asked for: a large model never lies in memory whole."""

    def __init__(self, folder: Path) -> None:
        self.files = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
        self.places = {name.removeprefix("model."): (file, name) for file in self.files for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> torch.Tensor:
        file, full = self.places[name]
        return file.get_tensor(full).double()


def frequencies(settings: dict[str, Any], width: int) -> list[float]:
    """Turns a position of each pair of a head; the ``llama3`` scaling makes slow ones slower."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or settings.get("rope_theta") or 10000.0
    plain = [theta ** (-2 * i / width) for i in range(width // 2)]
    if rope.get("rope_type") != "llama3":
        assert rope.get("rope_type") in (None, "default")
        return plain
    scaled = []
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    for frequency in plain:
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)  # over the original context
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        scaled.append(kept * frequency + (1 - kept) * frequency / rope["factor"])
    return scaled


def slow_llama(folder: Path, ids: list[int]) -> torch.Tensor:
    """Last hidden states [t, h] of a Llama without any mask, in float64, head by head."""
    settings = json.loads((folder / "config.json").read_text())
    weights = Weights(folder)
    heads, shared = settings["num_attention_heads"], settings["num_key_value_heads"]
    width = settings.get("head_dim") or settings["hidden_size"] // heads
    turns = frequencies(settings, width)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + settings["rms_norm_eps"]).sqrt() * weights[f"{name}.weight"]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        out, positions = torch.empty_like(x), torch.arange(len(x)).double()
        for i, turn in enumerate(turns):
            angle = positions * turn
            a, b = x[:, i], x[:, i + width // 2]
            out[:, i] = a * angle.cos() - b * angle.sin()
            out[:, i + width // 2] = b * angle.cos() + a * angle.sin()
        return out

    states = weights["embed_tokens.weight"][ids]
    for block in range(settings["num_hidden_layers"]):
        name = f"layers.{block}"
        x = norm(states, f"{name}.input_layernorm")
        q, k, v = (x @ weights[f"{name}.self_attn.{p}_proj.weight"].T for p in "qkv")
        keys = [rotate(k[:, g * width : (g + 1) * width]) for g in range(shared)]
        seen = []
        for head in range(heads):
            group = head // (heads // shared)
            scores = rotate(q[:, head * width : (head + 1) * width]) @ keys[group].T / math.sqrt(width)
            seen.append(scores.softmax(-1) @ v[:, group * width : (group + 1) * width])
        states = states + torch.cat(seen, -1) @ weights[f"{name}.self_attn.o_proj.weight"].T
        x = norm(states, f"{name}.post_attention_layernorm")
        gate, up = (x @ weights[f"{name}.mlp.{p}_proj.weight"].T for p in ("gate", "up"))
        states = states + (gate * torch.sigmoid(gate) * up) @ weights[f"{name}.mlp.down_proj.weight"].T
    return norm(states, "norm")


def slow_embed(folder: Path, text: str, instruction: str = "", limit: int = 512) -> tuple[torch.Tensor, bool]:
    """The vector of one text, and whether it was cut."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def tokens(string: str, special: bool) -> list[int]:
        return tokenizer.encode(string, add_special_tokens=special).ids

    short = text
    while len(tokens(short, False)) > limit:
        words = short.split()
        short = " ".join(words[: int(len(words) * (limit / len(tokens(short, False))))])
    marked = f"{instruction.strip()} !@#$%^&*(){short}" if instruction else f"!@#$%^&*(){short}"
    wrapped = HEADER + marked.strip() + "<|eot_id|>"
    before, after = wrapped.split("!@#$%^&*()")
    ids = tokens(before + after, True)
    pooled = min(len(tokens(after, False)), limit)
    states = slow_llama(folder, ids[:limit])
    return states[-pooled:].mean(0).float(), short != text or len(ids) > limit
