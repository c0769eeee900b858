"""How far an image tower moved from another, such as the one it started as."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..metrics import Outcomes, minibatch_hsic
from .encoders import Encode, encode_distinct
from .measure import Measured

BATCH = 64
"""Images of a minibatch: few enough that some hundreds of images already give batches to take an interval from."""


def measure_cka(keys: Sequence[str], image_features: Encode, reference_features: Encode) -> Measured:
    """``cka``: linear CKA between two image encoders' features of the same images; 1 is "not moved".

    Minibatch unbiased HSIC (Nguyen et al. 2021) over batches of `BATCH` images or a little more, drawn once for all
    models.

    Args:
        keys: distinct image keys.
        image_features: keys to the features of the tower in question, [n, f].
        reference_features: keys to those of the other tower, [n, g].

    Raises:
        ProclipError: fewer than four images, or features that do not vary.
    """
    hsic = minibatch_hsic(encode_distinct(image_features, keys), encode_distinct(reference_features, keys), BATCH)
    outcomes = Outcomes(values=hsic.numpy().astype(np.float32), statistic="cka")
    notes = {"batches": len(hsic), "images": len(hsic) * (len(keys) // len(hsic))}
    return Measured(outcomes={"cka": outcomes}, chance={}, notes=notes)
