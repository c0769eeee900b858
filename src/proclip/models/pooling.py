"""One vector for a text: pooling of the hidden states of its tokens. Letters: b batch, t tokens, h width."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of a text's token states, padding left out.

    Args:
        hidden: [b, t, h], any float type.
        mask: [b, t], 1 at tokens and 0 at padding, on either side; every row has a token.

    Returns:
        [b, h] float32.
    """
    weights = mask.to(torch.float32).unsqueeze(-1)
    # Where, not a product: a padded position may hold inf or nan, and 0 * nan is nan.
    kept = torch.where(weights > 0, hidden.float(), 0.0)
    return kept.sum(1) / weights.sum(1)


def last_token_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """State of a text's last token, which in a causal model has seen all the others.

    Args:
        hidden: [b, t, h], any float type.
        mask: [b, t], 1 at tokens and 0 at padding, on either side; every row has a token.

    Returns:
        [b, h] float32.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * (mask > 0)).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last].float()
