"""Thirteen colour words, and which one a pixel is: the nearest anchor in CIELAB."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

ANCHORS: dict[str, tuple[str, ...]] = {
    "black": ("000000", "1a1a1a", "292f33", "31373d", "2b2b2b", "3f3f3f"),
    "grey": ("4d4d4d", "66757f", "808080", "99aab5", "9b9b9a", "b0b8bf", "ccd6dd", "d0cfce", "58595b"),
    "white": ("ffffff", "f5f8fa", "f2f2f2", "e6e7e8", "ebf0f3"),
    "red": ("dd2e44", "ea5a47", "d22f27", "be1931", "a0041e", "e0302a", "ff0000", "781e32", "da2f47", "8a0a1c"),
    "orange": ("f4900c", "e27022", "f4aa41", "ff8000", "fa743e", "e57b1e", "ffa040"),
    "yellow": ("ffcc4d", "fcea2b", "f1b31c", "ffd983", "ffac33", "ffff00", "ffe51e", "f2d860", "ffdc5d", "fff3a0"),
    "green": (
        "77b255",
        "b1cc33",
        "5c9e31",
        "3e721d",
        "008000",
        "5c913b",
        "a6d388",
        "186648",
        "00ff00",
        "c6e5b3",
        "009460",
        "87c46a",
        "186a3b",
        "1eb53a",
    ),
    "light blue": ("92d3f5", "bbddf5", "8ccaf7", "88c9f9", "5dadec", "55acee", "61b2e4", "9adbff", "bdddf4", "b9e2f8"),
    "blue": ("3b88c3", "226699", "1e50a0", "0000ff", "1b6aa5", "2a6797", "0d5385", "3b94d9", "003f87", "00318f"),
    "purple": ("aa8ed6", "9266cc", "b399c8", "8967aa", "800080", "7450a8", "553986", "cbb7ea", "61309b"),
    "pink": ("ea596e", "f4abba", "ffa7c0", "e67a94", "ff80b0", "f7b6d2", "e75a70", "ffc0cb", "f28fb1", "e95f93"),
    "brown": (
        "a57939",
        "6a462f",
        "c1694f",
        "662113",
        "7c533e",
        "8a4b38",
        "bf6952",
        "583529",
        "af7e57",
        "915a34",
        "d99e82",
        "c19a65",
        "513229",
        "865b3a",
    ),
    "beige": ("fadcbc", "debb90", "f7dece", "f3d2a2", "ffe8b6", "d5ab88", "e8d4b0", "f5deb3", "edd2b8", "ffefd5"),
}
"""Colour word -> typical sRGB values, the flat colours of the two drawing styles among them."""

COLOURS = tuple(ANCHORS)
"""Colour words; a colour's index is its place here."""

_BITS = 5  # colours are looked up at five bits a channel: steps of 8 of 255, finer than the words


def _to_lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turns sRGB values in [0, 1], ``[..., 3]``, into CIELAB under D65."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


@cache
def _table() -> NDArray[np.uint8]:
    """Returns the index of the colour word for each of the 32^3 colours."""
    words, values = [], []
    for index, word in enumerate(COLOURS):
        for value in ANCHORS[word]:
            words.append(index)
            values.append([int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    steps = (np.arange(2**_BITS) + 0.5) / 2**_BITS
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    grid_lab, anchor_lab = _to_lab(grid), _to_lab(np.array(values))
    squares = ((grid_lab[:, None, :] - anchor_lab[None, :, :]) ** 2).sum(-1).round(3)
    table: NDArray[np.uint8] = np.array(words, dtype=np.uint8)[squares.argmin(1)]
    return table


def colour_words(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the index into :data:`COLOURS` of each pixel of ``rgb`` ``[..., 3]``, 0 to 255."""
    cells = (rgb >> (8 - _BITS)).astype(np.int64)
    words: NDArray[np.uint8] = _table()[(cells[..., 0] << (2 * _BITS)) | (cells[..., 1] << _BITS) | cells[..., 2]]
    return words
