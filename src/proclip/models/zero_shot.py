"""The zero-shot classifier: class names and prompt templates to one direction a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import ProclipError

if TYPE_CHECKING:
    from torch import Tensor

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


def build_zero_shot_classifier(
    encode_text: Callable[[Sequence[str]], Tensor], classnames: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """One column a class: the mean of its prompts' text embeds, normalised again.

    Args:
        encode_text: texts to L2-normalised text_embeds, [n, d].
        classnames: c names.
        templates: p prompt templates with ``{}`` where the name goes.

    Returns:
        [d, c]; ``image_embeds @ classifier`` is the score of each class.

    Raises:
        ProclipError: no class, no template, or a template without ``{}``.
    """
    import torch.nn.functional as F

    embeds = encode_text(prompts(classnames, templates)).view(len(classnames), len(templates), -1)  # [c, p, d]
    return F.normalize(embeds.mean(dim=1), dim=-1).T


def probabilities(cosines: Tensor, logit_scale: float, logit_bias: float | None) -> Tensor:
    """How likely each class is.

    Args:
        cosines: of pictures and classes, [..., c].
        logit_scale: log of the inverse temperature.
        logit_bias: of a model trained with the sigmoid loss, else None.

    Returns:
        [..., c]: a softmax over the classes, or, where there is a bias, a sigmoid of each.
    """
    logits = cosines * math.exp(logit_scale)
    return logits.softmax(dim=-1) if logit_bias is None else (logits + logit_bias).sigmoid()
