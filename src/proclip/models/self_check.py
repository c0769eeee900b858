"""What an embedder must show before its first vectors are used: wrong pooling and padding look healthy and are not.

Refused is what makes vectors wrong whatever the model: values that are not finite, one vector for every text, a text
embedded otherwise in a batch than alone. Said in a warning is what may have a good reason: the padding side that is
not in use gives other vectors; texts that mean the same are no nearer than others (a model of another language, or
one with random weights in a test, is no error).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import EmbedderConfig
from ..errors import ProclipError

Forward = Callable[[Sequence[str]], Tensor]
"""Texts, as one batch, to vectors, [b, h] float32 on the CPU."""

# The difference allowed between a text alone and in a batch, as a share of the difference between two texts. SmolLM2
# stays seven times below it at every layer tried; wrong pooling lands near 1.
TOLERANCE = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.15}
# Two texts differ by more than this share of a vector's own values; rounding alone differs by less.
LEAST_SPREAD = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 5e-3}
CHECK_TEXTS = (
    "two birds",
    "a red car beside a tall tree",
    "A drawing on a white background. It shows a small house with a blue door, three windows and a round roof.",
)
PARAPHRASES = (
    ("A cat sleeps on the sofa.", "The kitten is having a nap on the couch."),
    ("Shares fell sharply on the stock market today.", "Investors lost money as equity prices dropped."),
    ("The chef is cooking soup in a large pot.", "A cook prepares broth over the stove."),
    ("Two children play football in the park.", "A couple of kids kick a ball around on the grass."),
    ("The aeroplane landed safely at the airport.", "A jet touched down on the runway without trouble."),
    ("Heavy rain flooded the streets of the town.", "After the storm the city's roads were under water."),
    ("The doctor examined the sick man.", "A physician looked at an ill patient."),
    ("She plays the violin in an orchestra.", "A woman performs music on a string instrument."),
)
LEAST_SIMILARITY = 0.65
"""Share of comparisons in which a paraphrase must be nearer than another text; chance is a half."""
_log = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What decides how tokens become a vector, and its values, as the messages name it."""

    pooling: str
    """Such as ``embedder.pooling (mean)``."""
    padding: str
    """Such as ``embedder.padding_side (right)``."""


def self_check(config: EmbedderConfig, settings: Settings, forward: Forward, other_side: Forward | None) -> None:
    """Try an embedder on a few texts.

    Args:
        config: of the embedder, for the messages.
        settings: where to look when something is wrong.
        forward: the embedder.
        other_side: the embedder with its batches padded on the other side, None where only one side can be right.

    Raises:
        ProclipError: its vectors cannot be right; the message names the settings to look at.
    """
    alone = torch.cat([forward([text]) for text in CHECK_TEXTS])
    together = forward(CHECK_TEXTS)
    precision, allowed = _precision(config), tolerance(config)
    if not bool(torch.isfinite(alone).all() and torch.isfinite(together).all()):
        raise ProclipError(
            f"{config.model!r} gives values that are not finite: look at embedder.dtype ({config.dtype})"
        )
    largest = _spreads(alone)[-1]
    if largest <= LEAST_SPREAD[precision] * float(alone.abs().median()):
        raise ProclipError(
            f"{config.model!r} gives one and the same vector for different texts: look at {settings.pooling} and the "
            "prompt; the texts' own tokens are not pooled"
        )
    share = difference(together, alone)
    if share > allowed:
        raise ProclipError(
            f"{config.model!r} embeds a text otherwise in a batch than alone: the difference is {share:.2g} of that "
            f"between two texts, at most {allowed} is expected. Padding is not masked as it should be: "
            f"look at {settings.padding}, {settings.pooling}, embedder.backend ({config.backend}) and "
            f"embedder.dtype ({config.dtype})"
        )
    if other_side is not None and difference(other_side(CHECK_TEXTS), alone) > allowed:
        _log.warning(
            "%r gives other vectors when batches are padded on the other side than they are: look at %s; "
            "as they are padded now, a text gets the vector that it gets alone",
            config.model,
            settings.padding,
        )
    found = similarity_of_paraphrases(forward)
    if found < LEAST_SIMILARITY:
        _log.warning(
            "%r: texts that mean the same are nearer than others in %.0f %% of comparisons, at least %.0f %% is "
            "expected of a model that reads English: look at %s, embedder.backend (%s) and the prompts",
            config.model, 100 * found, 100 * LEAST_SIMILARITY, settings.pooling, config.backend,
        )  # fmt: skip


def tolerance(config: EmbedderConfig) -> float:
    """What `difference` may be of vectors that should be equal."""
    return TOLERANCE[_precision(config)]


def _precision(config: EmbedderConfig) -> str:
    return config.dtype if config.quantization == "none" else "bfloat16"


def difference(embeds: Tensor, wanted: Tensor) -> float:
    """Of vectors of `CHECK_TEXTS` from those wanted, [3, h] each, as a share of the difference between two texts."""
    return _error(embeds, wanted) / max(_spreads(wanted)[1], 1e-12)


def _spreads(embeds: Tensor) -> list[float]:
    """Differences between each two of three vectors, least first; the least may be zero (texts with one last token).

    Medians over the dimensions, here and in `_error`, since a few dimensions of a causal LM's states are thousands of
    times larger than the rest and would hide them.
    """
    return sorted(float((embeds[i] - embeds[j]).abs().median()) for i, j in ((0, 1), (0, 2), (1, 2)))


def _error(embeds: Tensor, wanted: Tensor) -> float:
    """Largest difference of a row to the wanted one; infinite where a value is not finite."""
    return float(torch.nan_to_num((embeds - wanted).abs().median(1).values, nan=torch.inf).max())


def similarity_of_paraphrases(forward: Forward) -> float:
    """How often a text is nearer to its paraphrase than to an unrelated text, 0 to 1; chance is a half.

    Each dimension is standardised over the texts, so that the few large ones of raw states do not decide.
    """
    embeds = forward([text for pair in PARAPHRASES for text in pair])
    spread, mean = torch.std_mean(embeds, dim=0)
    unit = F.normalize((embeds - mean) / spread.clamp(min=1e-12), dim=-1)
    scores = unit @ unit.T
    pair_of = torch.arange(len(unit)) // 2
    same = pair_of[:, None] == pair_of[None, :]
    near = scores[same & ~torch.eye(len(unit), dtype=torch.bool)]  # [2p], text by text
    far = scores[~same].view(len(unit), -1)
    return float((near[:, None] > far).float().mean())
