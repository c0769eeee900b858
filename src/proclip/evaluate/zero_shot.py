"""Zero-shot classification with prompt templates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics import mean_per_class_accuracy
from .encoders import Encode, Encoders, encode_distinct
from .tasks import ClassificationTask


def build_zero_shot_classifier(encode_text: Encode, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One direction for each class: the mean of its prompts' text_embeds, normalised again, [d, c].

    Args:
        encode_text: texts to L2-normalised text_embeds.
        classnames: c names.
        templates: p texts with ``{}`` where the name goes.
    """
    prompts = [template.replace("{}", name) for name in classnames for template in templates]
    prompt_embeds = encode_distinct(encode_text, prompts).view(len(classnames), len(templates), -1)  # [c, p, d]
    return F.normalize(prompt_embeds.mean(dim=1), dim=-1).T


def zero_shot_accuracy(task: ClassificationTask, encoders: Encoders) -> float:
    """Mean per-class accuracy, 0 to 1, of the nearest class direction."""
    classifier = build_zero_shot_classifier(encoders.encode_text, task.classnames, task.templates)
    image_embeds = encode_distinct(encoders.encode_image, [key for key, _ in task.items])
    predictions = (image_embeds @ classifier).argmax(dim=1)
    targets = torch.tensor([label for _, label in task.items])
    return float(mean_per_class_accuracy(predictions, targets))
