"""Ranks of retrieval, exact and about as quick as the matrix product.

Ties never help: an item that scores the same as the best positive counts as ahead of it, so that a model that gives one
score to everything gets the worst rank and not luck.

Letters: q queries, g gallery items, d width, p pairs of a query and an item.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import final

import torch
from torch import Tensor

from ..errors import ProclipError
from .checks import check_finite, shapes

PAIRS = 512
"""Pairs whose inner products are taken in float64 at once: few enough for a processor's cache."""
CROWDED = 1 / 32
"""Share of a block's items in doubt from which the whole block is multiplied in float64: then that is quicker."""
USUAL = 20
"""Power of two, up or down, of the largest value of embeds that need no scaling."""
UNIT = 2.0**-24
"""Largest relative error of one rounding to float32."""


def ranks_of_first_positive(
    query_embeds: Tensor, gallery_embeds: Tensor, positives: Sequence[Sequence[int]], *, chunk: int = 2048
) -> Tensor:
    """Where each query's best positive stands among the gallery items by inner product; 1 is the first.

    The rank is 1 + the number of items, other than positives, that score at least as much as the best positive.
    Recall@k in CLIP's sense, "is one of the positives among the k best", is ``rank <= k``. (It is not the recall of
    information retrieval, which counts how many of the positives were found.)

    A score is the inner product in float64, rounded to float32 once, so that equal items tie whatever the order of
    summation; of float64 embeds it stays float64. Not all of these are computed: every product is taken in float32,
    and only those that lie within its largest possible error of the best positive's are taken again in float64.

    Args:
        query_embeds: [q, d], of any scale.
        gallery_embeds: [g, d].
        positives: for each query the rows of `gallery_embeds` that are right, one or more, any number a query.
        chunk: queries, and gallery items, scored at once; memory is about 16 bytes x chunk x chunk.

    Returns:
        [q] int64, in [1, g], on the device of the embeds.

    Raises:
        ProclipError: no query or gallery item, shapes that do not fit, embeds that are not finite, or a query
            without positives or with one that the gallery does not have; the message names the query.
    """
    _check_embeds(query_embeds, gallery_embeds)
    rows, columns = _pairs(positives, queries=len(query_embeds), gallery=len(gallery_embeds))
    scores = _Scores(query_embeds.detach(), gallery_embeds.detach())
    rows, columns = rows.to(scores.device), columns.to(scores.device)
    positive = scores.exact(rows, columns)
    best = positive.new_full((len(query_embeds),), -torch.inf).scatter_reduce(0, rows, positive, "amax")
    ahead = torch.zeros(len(best), dtype=torch.int64, device=scores.device)
    with _full_precision(scores.device.type):
        for top in range(0, len(query_embeds), chunk):
            down = slice(top, min(top + chunk, len(query_embeds)))
            first, last = torch.searchsorted(rows, torch.tensor([down.start, down.stop], device=rows.device)).tolist()
            right = rows[first:last], columns[first:last]
            for left in range(0, len(gallery_embeds), chunk):
                across = slice(left, min(left + chunk, len(gallery_embeds)))
                ahead[down] += scores.ahead(down, across, best[down], right)
    return (1 + ahead).to(query_embeds.device)


@final
class _Scores:
    """Inner products of two sets of embeds, both multiplied by powers of two so that none overflows or vanishes."""

    def __init__(self, query_embeds: Tensor, gallery_embeds: Tensor) -> None:
        self.device = torch.device("cpu") if query_embeds.device.type == "mps" else query_embeds.device  # no float64
        self.queries, self.gallery = query_embeds.to(self.device), gallery_embeds.to(self.device)
        self.scales = _power_near_one(query_embeds), _power_near_one(gallery_embeds)
        self.rounded = query_embeds.dtype != torch.float64
        self.error = self._largest_error()

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[p] and [p] to the scores of these pairs, [p]; each is summed in the same order."""
        found = []
        for start in range(0, len(rows), PAIRS):
            products = self.queries[rows[start : start + PAIRS]].double().mul_(self.scales[0])
            products *= self.gallery[columns[start : start + PAIRS]].double().mul_(self.scales[1])
            found.append(products.sum(dim=1))
        return torch.cat(found).float() if self.rounded else torch.cat(found)

    def ahead(self, down: slice, across: slice, best: Tensor, right: tuple[Tensor, Tensor]) -> Tensor:
        """How many items of a block score at least `best`, [rows]; `right` names pairs that do not count."""
        rough = self.rough(down, across)
        self._leave_out(rough, down, across, right)
        reach = (
            self.error[down] + 2 * UNIT * best.abs()
        )  # a score may round up to the best positive's, and so may these
        above = rough > (best + reach).float()[:, None]
        doubt = (rough >= (best - reach).float()[:, None]) ^ above
        rows, columns = doubt.nonzero(as_tuple=True)
        if self.rounded and len(rows) > CROWDED * doubt.numel():
            queries, gallery = self.queries[down].double() * self.scales[0], self.gallery[across].double()
            scores = (queries @ gallery.T * self.scales[1]).float()
            self._leave_out(scores, down, across, right)
            return (scores >= best[:, None]).sum(dim=1)
        count = above.sum(dim=1, dtype=torch.int32).long()
        if len(rows):
            not_behind = self.exact(rows + down.start, columns + across.start) >= best[rows]
            count.index_add_(0, rows, not_behind.long())
        return count

    def rough(self, down: slice, across: slice) -> Tensor:
        """A block's scores in float32, [rows, columns]."""
        return self._float(self.queries[down], 0) @ self._float(self.gallery[across], 1).T

    def _largest_error(self) -> Tensor:
        """The most that each query's rough scores can be wrong by, [q] float64.

        ``|fl(x . y) - x . y| <= n u / (1 - n u) |x| |y|`` for n roundings in a row in any order (Higham, "Accuracy and
        Stability of Numerical Algorithms", chapter 3): d here, and some for casting float64 embeds, for the exact
        score's own float64 sum and for the norms. What lies below float32's normal range may be lost besides.
        """
        width = self.queries.shape[1]
        roundings = (width + 5) * UNIT
        lengths, longest = (
            torch.cat([self._float(part, side).norm(dim=1) for part in torch.split(embeds, PAIRS)]).double()
            for side, embeds in enumerate((self.queries, self.gallery))
        )
        return 1.02 * roundings / (1 - roundings) * lengths * longest.max() + width * 2.0**-120

    def _float(self, embeds: Tensor, side: int) -> Tensor:
        """Scaled, in float32; usual embeds are so already."""
        if self.scales[side] != 1:
            embeds = embeds.to(torch.float32 if self.rounded else torch.float64) * self.scales[side]
        return embeds.float()

    @staticmethod
    def _leave_out(scores: Tensor, down: slice, across: slice, pairs: tuple[Tensor, Tensor]) -> None:
        rows, columns = pairs
        inside = (columns >= across.start) & (columns < across.stop)
        scores[rows[inside] - down.start, columns[inside] - across.start] = -torch.inf


def _power_near_one(embeds: Tensor) -> float:
    """1 for usual embeds, else the power of two, of those that float holds, that brings the largest value near 1."""
    low, high = embeds.detach().aminmax()
    power = math.frexp(max(-float(low), float(high)))[1]
    least = -1000 if embeds.dtype == torch.float64 else -126
    return 1.0 if abs(power) <= USUAL else 2.0 ** -max(power, least)


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Float32 products with all of float32's digits, whatever autocast, TF32 or bfloat16 setting the caller has."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.fp32_precision = setting


def _check_embeds(query_embeds: Tensor, gallery_embeds: Tensor) -> None:
    one, other = query_embeds, gallery_embeds
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or len(one) == 0 or len(other) == 0:
        raise ProclipError(f"wanted query_embeds [q, d] and gallery_embeds [g, d], not empty, not {shapes(one, other)}")
    if one.dtype != other.dtype:
        raise ProclipError(f"query_embeds are {one.dtype} and gallery_embeds {other.dtype}; make them the same")
    check_finite(query_embeds, "query_embeds")
    check_finite(gallery_embeds, "gallery_embeds")


def _pairs(positives: Sequence[Sequence[int]], *, queries: int, gallery: int) -> tuple[Tensor, Tensor]:
    """Every query and positive once, [p] and [p], by query."""
    if len(positives) != queries:
        raise ProclipError(f"positives must have one list for each of {queries} queries, not {len(positives)}")
    lengths = torch.tensor([len(rows) for rows in positives])
    if not bool(lengths.all()):
        raise ProclipError(f"query {int((lengths == 0).nonzero()[0])} has no positives")
    rows = torch.arange(queries).repeat_interleave(lengths)
    columns = torch.tensor(list(chain.from_iterable(positives)), dtype=torch.int64)
    wrong = (columns < 0) | (columns >= gallery)
    if bool(wrong.any()):
        query = int(rows[wrong][0])
        found = list(positives[query])
        raise ProclipError(f"query {query}: positives must be gallery rows in [0, {gallery}), not {found}")
    distinct = torch.unique(rows * gallery + columns)
    return distinct // gallery, distinct % gallery
