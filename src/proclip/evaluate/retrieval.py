"""Image-text retrieval, both ways."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..metrics import Outcomes, ranks_of_first_positive
from .encoders import Encoders, encode_distinct
from .measure import Measured
from .tasks import RetrievalTask

KS = (1, 5, 10)
"""The k of every recall@k that is reported."""


def measure_retrieval(task: RetrievalTask, encoders: Encoders) -> Measured:
    """Recall@k in CLIP's sense and the median rank: ``i2t_r@1``, ..., ``i2t_median_rank``, ``t2i_r@1``, ...

    i2t: over images; a hit if any caption of the image is among the k nearest texts. t2i: over all captions; a hit if
    an image of the caption is among the k nearest images; captions of one image are one cluster. A text that is the
    caption of several images stands once among the texts that are searched, and is right for each of its images:
    otherwise a perfect model would be wrong about one of two images with the same name.

    Chance is that of a random order, exact for any numbers of captions.
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
    right = [images_of[text] for text in queries]
    images = np.array([_cluster(key) for key, _ in task.items], dtype=np.int32)
    image_of = np.repeat(images, [len(captions) for _, captions in task.items])

    image_embeds = encode_distinct(encoders.encode_image, [key for key, _ in task.items])
    text_embeds = encode_distinct(encoders.encode_text, texts)
    i2t = ranks_of_first_positive(image_embeds, text_embeds, texts_of).numpy()
    t2i = ranks_of_first_positive(text_embeds[queries], image_embeds, right).numpy()
    return Measured(
        outcomes=_outcomes("i2t", i2t, images) | _outcomes("t2i", t2i, image_of),
        chance=_chance("i2t", texts_of, len(texts)) | _chance("t2i", right, len(task.items)),
        notes={"repeated_captions": repeated} if (repeated := sum(len(of) - 1 for of in images_of)) else {},
    )


def _cluster(key: str) -> int:
    """A number for an image, the same in every task: in a mean over languages its captions are drawn together."""
    return zlib.crc32(key.encode()) & 0x7FFFFFFF


def _outcomes(way: str, ranks: NDArray[np.int64], clusters: NDArray[np.int32]) -> dict[str, Outcomes]:
    found = {f"{way}_r@{k}": Outcomes(values=(ranks <= k).astype(np.float32), clusters=clusters) for k in KS}
    median = Outcomes(values=ranks.astype(np.float32), clusters=clusters, statistic="median")
    return found | {f"{way}_median_rank": median}


def _chance(way: str, positives: Sequence[Sequence[int]], gallery: int) -> dict[str, float]:
    """What a random order gets.

    The best of m positives among g items has a rank above r with probability ``C(g - m, r) / C(g, r)``, which is the
    product over j < m of ``(g - r - j) / (g - j)``. The median rank is that of all queries' ranks together.
    """
    numbers, queries = np.unique([len(rows) for rows in positives], return_counts=True)
    r = np.arange(gallery + 1)
    within = np.zeros(gallery + 1)  # share of queries with a rank of at most r
    for m, share in zip(numbers.tolist(), queries / queries.sum(), strict=True):
        j = np.arange(m)[:, None]
        within += share * (1 - (np.maximum(gallery - r - j, 0) / (gallery - j)).prod(axis=0))
    within = within.round(12)
    median = (np.argmax(within >= 0.5) + np.argmax(within > 0.5)) / 2
    return {f"{way}_r@{k}": float(within[min(k, gallery)]) for k in KS} | {f"{way}_median_rank": float(median)}
