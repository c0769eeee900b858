"""How far an image tower moved from the one it started as."""

from __future__ import annotations

from collections.abc import Sequence

from ..metrics import linear_cka
from .encoders import Encode, encode_distinct


def cka_to_reference(keys: Sequence[str], image_features: Encode, reference_features: Encode) -> float:
    """Linear CKA between a tower's image features and the original tower's over the same images; 1 is "not moved".

    Args:
        keys: distinct image keys.
        image_features: keys to the features of the tower in question, [n, f].
        reference_features: keys to those of the original tower, [n, g].
    """
    return float(linear_cka(encode_distinct(image_features, keys), encode_distinct(reference_features, keys)))
