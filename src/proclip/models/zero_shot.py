"""The zero-shot classifier: class names and prompt templates to one direction a class, and chances. Without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import ProclipError
from .inputs import labels_of, texts_of
from .vectors import Floats, Vectors

DEFAULT_TEMPLATES = ("a photo of {}",)


def prompts(classnames: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every class name in every template, class by class; ``{}`` stands for the name.

    Raises:
        ProclipError: no class, no template, or a template without ``{}``.
    """
    if not classnames:
        raise ProclipError("a zero-shot classifier needs at least one class name")
    if not templates or not all("{}" in template for template in templates):
        raise ProclipError(f"templates must each hold {{}} where the class name goes: {list(templates)!r}")
    return [template.replace("{}", name) for name in classnames for template in templates]


def asked(labels: Sequence[str], templates: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Labels and templates of a zero-shot classification as lists, checked before anything is encoded.

    Raises:
        ProclipError: no label, an empty or double one; no template, or one without ``{}``.
    """
    names, forms = labels_of(labels), texts_of(templates, "template")
    prompts(names, forms)
    return names, forms


def build_zero_shot_classifier(
    encode_text: Callable[[Sequence[str]], Vectors], classnames: Sequence[str], templates: Sequence[str]
) -> Vectors:
    """One column a class: the mean of its prompts' text embeds, normalised again.

    Args:
        encode_text: texts to L2-normalised text_embeds, [n, d], a tensor or an array.
        classnames: c names.
        templates: p prompt templates with ``{}`` where the name goes.

    Returns:
        [d, c]; ``image_embeds @ classifier`` is the score of each class.

    Raises:
        ProclipError: no class, no template, or a template without ``{}``.
    """
    embeds = encode_text(prompts(classnames, templates)).reshape(len(classnames), len(templates), -1)  # [c, p, d]
    means = embeds.mean(1)
    norms = (means * means).sum(1)[:, None] ** 0.5
    columns: Vectors = (means / norms.clip(1e-12)).T
    return columns


def probabilities(cosines: Floats, logit_scale: float, logit_bias: float | None) -> Floats:
    """How likely each class is.

    Args:
        cosines: of pictures and classes, [..., c].
        logit_scale: log of the inverse temperature.
        logit_bias: of a model trained with the sigmoid loss, else None.

    Returns:
        [..., c]: a softmax over the classes, or, where there is a bias, a sigmoid of each.
    """
    logits = cosines * math.exp(logit_scale)
    found: Floats
    if logit_bias is None:
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        found = shares / shares.sum(axis=-1, keepdims=True)
    else:
        logits = logits + logit_bias
        small = np.exp(-abs(logits))  # never overflows
        found = np.where(logits >= 0, 1, small) / (1 + small)
    return found
