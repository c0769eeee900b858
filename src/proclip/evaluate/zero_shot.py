"""Zero-shot classification with prompt templates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..metrics import Outcomes, class_ranks
from ..models.zero_shot import build_zero_shot_classifier
from .encoders import Encoders, encode_distinct
from .measure import Measured
from .tasks import ClassificationTask

TOP = 5
"""k of the second accuracy, left out where there are no more classes than that."""
CHUNK = 4096
"""Images whose logits are held at once."""


def measure_classification(task: ClassificationTask, encoders: Encoders) -> Measured:
    """``acc1``, ``acc5`` and ``mean_per_class`` of the nearest class direction.

    A class that scores the same as the right one counts as ahead of it. Of classes with one name (ImageNet's list has
    two pairs of them) the first has all the images that are nearest to that name, as in the evaluators that take the
    largest logit. ``mean_per_class`` is the mean over the classes
    that have images of the share of a class's images that are right.
    """
    encode = encoders.encode_class or encoders.encode_text
    classifier = build_zero_shot_classifier(
        lambda texts: encode_distinct(encode, texts), task.classnames, task.templates
    )
    image_embeds = encode_distinct(encoders.encode_image, [key for key, _ in task.items])
    labels = torch.tensor([label for _, label in task.items])
    parts = zip(torch.split(image_embeds, CHUNK), torch.split(labels, CHUNK), strict=True)
    ahead = torch.cat([_ranks(embeds, wanted, classifier) for embeds, wanted in parts])
    ranks = (ahead - _namesakes_behind(task.classnames)[labels]).numpy()
    hits = (ranks == 1).astype(np.float32)
    outcomes = {
        "acc1": Outcomes(values=hits),
        f"acc{TOP}": Outcomes(values=(ranks <= TOP).astype(np.float32)),
        "mean_per_class": Outcomes(values=hits, strata=labels.numpy().astype(np.int32)),
    }
    chance = {"acc1": task.chance, f"acc{TOP}": min(1.0, TOP * task.chance), "mean_per_class": task.chance}
    if len(task.classnames) <= TOP:
        del outcomes[f"acc{TOP}"], chance[f"acc{TOP}"]
    return Measured(outcomes=outcomes, chance=chance)


def _namesakes_behind(classnames: Sequence[str]) -> Tensor:
    """How many later classes have the same name as each, [c]: they tie with it and do not count as ahead."""
    return torch.tensor([classnames[place + 1 :].count(name) for place, name in enumerate(classnames)])


def _ranks(image_embeds: Tensor, labels: Tensor, classifier: Tensor) -> Tensor:
    """Logits in float64, rounded once, so that classes of the same prompts tie."""
    return class_ranks((image_embeds.double() @ classifier.double()).float(), labels)
