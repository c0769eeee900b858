"""Zero-shot classification with prompt templates."""

from __future__ import annotations

import torch

from ..metrics import mean_per_class_accuracy
from ..models.zero_shot import build_zero_shot_classifier
from .encoders import Encoders, encode_distinct
from .tasks import ClassificationTask


def zero_shot_accuracy(task: ClassificationTask, encoders: Encoders) -> float:
    """Mean per-class accuracy, 0 to 1, of the nearest class direction."""
    encode = encoders.encode_class or encoders.encode_text
    classifier = build_zero_shot_classifier(
        lambda texts: encode_distinct(encode, texts), task.classnames, task.templates
    )
    image_embeds = encode_distinct(encoders.encode_image, [key for key, _ in task.items])
    predictions = (image_embeds @ classifier).argmax(dim=1)
    targets = torch.tensor([label for _, label in task.items])
    return float(mean_per_class_accuracy(predictions, targets))
