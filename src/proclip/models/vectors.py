"""Vectors of pictures and texts, tensors or arrays alike: checked and compared. torch is not imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ProclipError, one_line

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Vectors = TypeVar("Vectors", "Tensor", Floats)


def is_tensor(value: object) -> bool:
    """Whether it is a tensor of torch."""
    return hasattr(value, "cpu") and hasattr(value, "numpy")


def as_array(value: Any, name: str) -> Any:
    """A tensor as an array; anything else as it is.

    Raises:
        ProclipError: numpy has nothing like it, as for bfloat16 and sparse tensors; the message begins with `name`.
    """
    if not is_tensor(value):
        return value
    try:
        return value.detach().cpu().numpy()
    except (RuntimeError, TypeError):
        raise ProclipError(f"{name}: a tensor of {value.dtype}, {value.layout} is no array for numpy") from None


def check_vectors(vectors: Tensor | Floats, inputs: Sequence[str], hint: str = "") -> None:
    """Refuse what an encoder gave if it cannot be right.

    Args:
        vectors: of the inputs.
        inputs: texts or keys of pictures, n of them.
        hint: what the message says at its end where a value is not finite.

    Raises:
        ProclipError: the vectors are not [n, d], or a value is not finite; the message names the input.
    """
    if vectors.ndim != 2 or len(vectors) != len(inputs) or (len(inputs) and not vectors.shape[1]):
        raise ProclipError(
            f"the encoder returned a tensor of shape {list(vectors.shape)} for {len(inputs)} inputs "
            f"({_first(inputs)}); it must be [{len(inputs)}, d]"
        )
    sizes: Any = abs(vectors)
    finite = (sizes < math.inf).all(1)
    if not bool(finite.all()):
        bad = inputs[finite.tolist().index(False)]
        raise ProclipError(f"the encoder returned a value that is not finite for {bad!r}{hint}")


def check_llm_embeds(llm_embeds: Any, width: int) -> None:
    """Refuse what an adapter cannot take.

    Args:
        llm_embeds: what a caller gave for the LLM's vectors.
        width: of each of them.

    Raises:
        ProclipError: it is no tensor or array of floating-point numbers, or not [n, width].
    """
    if not (is_tensor(llm_embeds) or isinstance(llm_embeds, np.ndarray)):
        raise ProclipError(
            f"the adapter takes vectors [n, {width}], a tensor or an array, not {type(llm_embeds).__name__}"
        )
    if llm_embeds.ndim != 2 or llm_embeds.shape[1] != width:
        raise ProclipError(f"the adapter takes vectors [n, {width}], these are {list(llm_embeds.shape)}")
    if "float" not in str(llm_embeds.dtype):
        raise ProclipError(f"the adapter takes vectors of floating-point numbers, these are of {llm_embeds.dtype}")


def similarity(image_embeds: Vectors, text_embeds: Vectors) -> Vectors:
    """Cosine of every image with every text, [n, m], in [-1, 1].

    Args:
        image_embeds: [n, d], or [d] of one, L2-normalised.
        text_embeds: [m, d], or [d] of one, likewise; both tensors, or both arrays.

    Raises:
        ProclipError: they are something else, one is a tensor and the other an array, or widths or types differ.
    """
    both = (image_embeds, text_embeds)
    if is_tensor(image_embeds) != is_tensor(text_embeds):
        raise ProclipError("similarity: both must be tensors or both arrays (convert_to_numpy=True)")
    for embeds in both:
        if not (is_tensor(embeds) or isinstance(embeds, np.ndarray)):
            raise ProclipError(f"similarity: tensors or arrays are wanted, not {type(embeds).__name__}")
        if embeds.ndim not in (1, 2):
            raise ProclipError(f"similarity: vectors [n, d], or [d] of one, are wanted, not {list(embeds.shape)}")
    images, texts = (embeds.reshape(1, -1) if embeds.ndim == 1 else embeds for embeds in both)
    if images.shape[-1] != texts.shape[-1]:
        raise ProclipError(f"similarity: vectors of width {images.shape[-1]} and {texts.shape[-1]}, of two models?")
    try:
        cosines: Vectors = images @ texts.T
    except (RuntimeError, TypeError) as error:  # tensors of two types or devices, arrays of no numbers
        raise ProclipError(f"similarity: {one_line(error)}") from None
    return cosines


def _first(inputs: Sequence[str]) -> str:
    return f"{inputs[0]!r}, ..." if len(inputs) > 1 else "".join(map(repr, inputs))
