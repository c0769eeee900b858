"""How a model is seen by the evaluation: as three functions, whatever it is inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.vectors import check_vectors

Encode = Callable[[Sequence[str]], Tensor]
"""Image keys or texts, n of them, to vectors, [n, d], in the same order."""


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """A model under evaluation. The functions may be called often and with the same inputs: the caller caches."""

    encode_image: Encode
    """Image keys to image_embeds, [n, d], L2-normalised."""
    encode_text: Encode
    """Texts to text_embeds, [n, d], L2-normalised."""
    encode_class: Encode | None = None
    """The same for class names in their templates, where the model has another prompt for them."""
    image_features: Encode
    """Image keys to image features, [n, f], not normalised: what the linear probe and CKA see."""


def encode_distinct(encode: Encode, inputs: Sequence[str]) -> Tensor:
    """Encode each distinct input once and lay the vectors out as the inputs were, [n, d], float32 on the CPU.

    Equal inputs so get exactly equal vectors, whatever batch they would have landed in.

    Raises:
        ProclipError: `encode` returned another number of vectors than it was given inputs, or a value that is not
            finite; the message names the input.
    """
    distinct = list(dict.fromkeys(inputs))
    vectors = encode(distinct).detach().to(device="cpu", dtype=torch.float32)
    check_vectors(vectors, distinct)
    rows = {text: row for row, text in enumerate(distinct)}
    return vectors[torch.tensor([rows[text] for text in inputs], dtype=torch.long)]
