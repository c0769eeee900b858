"""Image-text retrieval, both ways."""

from __future__ import annotations

from collections.abc import Sequence

from ..metrics import recall_at_k
from .encoders import Encoders, encode_distinct
from .tasks import RetrievalTask

KS = (1, 5, 10)
"""The k of every recall@k that is reported."""


def retrieval_recall(task: RetrievalTask, encoders: Encoders, ks: Sequence[int] = KS) -> dict[str, float]:
    """Recall@k in CLIP's sense, ``{"i2t_r@1": ..., "t2i_r@1": ..., ...}``, 0 to 1.

    i2t: the mean over images; a hit if any caption of the image is among the k nearest texts. t2i: the mean over all
    captions; a hit if an image of the caption is among the k nearest images. A text that is the caption of several
    images stands once among the texts that are searched, and is right for each of its images: otherwise a perfect
    model would be wrong about one of two images with the same name.
    """
    texts = list(dict.fromkeys(caption for _, captions in task.items for caption in captions))
    text_rows = {text: row for row, text in enumerate(texts)}
    images_of: list[list[int]] = [[] for _ in texts]
    texts_of: list[list[int]] = []
    for image, (_, captions) in enumerate(task.items):
        texts_of.append(sorted({text_rows[caption] for caption in captions}))
        for text in texts_of[-1]:
            images_of[text].append(image)
    queries = [text_rows[caption] for _, captions in task.items for caption in captions]

    image_embeds = encode_distinct(encoders.encode_image, [key for key, _ in task.items])
    text_embeds = encode_distinct(encoders.encode_text, texts)
    i2t = recall_at_k(image_embeds, text_embeds, texts_of, ks=tuple(ks))
    t2i = recall_at_k(text_embeds[queries], image_embeds, [images_of[text] for text in queries], ks=tuple(ks))
    return {f"i2t_r@{k}": float(i2t[k]) for k in ks} | {f"t2i_r@{k}": float(t2i[k]) for k in ks}
