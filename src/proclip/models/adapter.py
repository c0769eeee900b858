"""The adapter: a small residual MLP from the LLM's embedding space to CLIP's."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AdapterConfig
from ..distributed import from_all
from ..errors import ProclipError


class ResidualBlock(nn.Module):
    """``x + W2 GELU(W1 LN(x))``, W1: h -> r h, W2: r h -> h, both with bias."""

    def __init__(self, dim: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, expansion * dim)
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(expansion * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[b, h] -> [b, h]."""
        hidden = F.gelu(self.expand(self.norm(x)))
        output: Tensor = x + self.contract(self.dropout(hidden))
        return output


class Moments(NamedTuple):
    """Of vectors [n, h], float64; those of parts join without cancellation."""

    number: int
    """n."""
    mean: Tensor
    """[h]."""
    squares: Tensor
    """[h], summed squares of the distances from the mean."""

    @classmethod
    def none(cls, width: int) -> Moments:
        """Of no vectors."""
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64))

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """Of some vectors, at least one."""
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).square().sum(0))

    def joined(self, other: Moments) -> Moments:
        """Of both together."""
        n, m = self.number, other.number
        if not n + m:
            return self
        moved = other.mean - self.mean
        squares = self.squares + (other.squares + moved.square() * n * m / (n + m))
        return Moments(n + m, self.mean + moved * m / (n + m), squares)


class Adapter(nn.Module):
    """Input norm, N residual blocks, LayerNorm, one Linear (LLM2CLIP's and ProCLIP's adapter; paper preset N=4, r=2).

    The input norm is the paper's L2 normalisation, none, or, for the raw states of a causal LM, a standardisation of
    each dimension by the training captions' mean and deviation: those states share one dominant direction, beside
    which captions differ little under L2 (benchmarks/results/input_norm.json: 5 and 4 points of retrieval on the mini
    world). The statistics are buffers and travel with the weights.

    Args:
        llm_dim: h, width of the LLM's embeddings.
        embed_dim: d, width of CLIP's shared space.
        config: N, r, dropout and input norm.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, llm_dim: int, embed_dim: int, config: AdapterConfig) -> None:
        super().__init__()
        self.llm_dim, self.embed_dim, self.config = llm_dim, embed_dim, config
        self.register_buffer("input_mean", torch.zeros(llm_dim))
        self.register_buffer("input_std", torch.ones(llm_dim))
        self.blocks = nn.Sequential(
            *(ResidualBlock(llm_dim, config.expansion, config.dropout) for _ in range(config.num_blocks))
        )
        self.norm = nn.LayerNorm(llm_dim)
        self.project = nn.Linear(llm_dim, embed_dim)

    @torch.no_grad()
    def fit_input_norm(self, llm_embeds: Iterable[Tensor]) -> None:
        """Set mean and deviation from training captions, n in all; nothing unless ``input_norm`` is standardize.

        Of several processes each reads its share, and all set what follows from the whole.

        Args:
            llm_embeds: parts of them (of the share), [m, h] each, read once.
        """
        if self.config.input_norm != "standardize":
            return
        moments = Moments.none(self.llm_dim)
        for part in llm_embeds:
            moments = moments.joined(Moments.of(part.double()))
        number, mean, squares = reduce(Moments.joined, from_all(moments))
        self.input_mean.copy_(mean)
        self.input_std.copy_((squares / (number - 1)).sqrt().clamp_min(1e-6))

    def forward(self, llm_embeds: Tensor) -> Tensor:
        """LLM embeddings, [b, h], to text features, [b, d], not normalised.

        Raises:
            ProclipError: the width is not the one the adapter was made for.
        """
        if llm_embeds.shape[-1] != self.llm_dim:
            raise ProclipError(
                f"the adapter takes LLM embeddings of width {self.llm_dim}, these have width {llm_embeds.shape[-1]}"
            )
        return self.features_of(self.normalized_input(llm_embeds))

    def normalized_input(self, llm_embeds: Tensor) -> Tensor:
        """LLM embeddings after the input norm, [b, h]."""
        if self.config.input_norm == "l2":
            return F.normalize(llm_embeds, dim=-1)
        return llm_embeds if self.config.input_norm == "none" else (llm_embeds - self.input_mean) / self.input_std

    def features_of(self, x: Tensor) -> Tensor:
        """What the input norm gave, [b, h], to text features, [b, d]."""
        features: Tensor = self.project(self.norm(self.blocks(x.to(self.project.weight.dtype))))
        return features

    @torch.no_grad()
    def folded(self) -> Adapter:
        """The same function with fewer weights, for inference: a copy without dropout, its LayerNorms without gain.

        A LayerNorm's gain and bias go into the Linear that reads it: ``W (g * n + c) + b = (W diag g) n + (W c + b)``.
        That is exact, but for rounding. The input norm stays: a LayerNorm, which is not linear, stands between it and
        the first Linear, and the blocks' residual sum needs its output itself.
        """
        plain = copy.deepcopy(self).eval()
        blocks = [block for block in plain.blocks if isinstance(block, ResidualBlock)]
        pairs: list[tuple[ResidualBlock | Adapter, nn.Linear]] = [(block, block.expand) for block in blocks]
        for holder, linear in [*pairs, (plain, plain.project)]:
            norm = holder.norm
            weight, bias = linear.weight.double(), linear.bias.double()
            linear.bias.copy_(weight @ norm.bias.double() + bias)
            linear.weight.copy_(weight * norm.weight.double())
            holder.norm = nn.LayerNorm(self.llm_dim, norm.eps, elementwise_affine=False)
        for block in blocks:
            block.dropout = nn.Dropout(0.0)
        return plain
