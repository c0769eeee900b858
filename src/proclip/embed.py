"""Texts to an embedding store: every caption of a dataset, each text once, by any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import torch

from . import distributed
from .data.embed_plan import Plan, PlanRows, Skip, make_plan
from .data.shared_work import SharedWork
from .data.store_folder import lock
from .data.store_format import MANIFEST, UNKNOWN, Manifest, StoreDtype, pack
from .errors import ProclipError
from .models.embedder import Encoded, TextEmbedder
from .models.vectors import check_vectors

Report = Callable[[int, int, int], None]
"""Called with texts done and all texts of the run, and tokens read so far, of all processes."""


@dataclass(frozen=True)
class EmbedCounts:
    """What a call of `embed_captions` did."""

    rows: int
    """Captions added."""
    texts: int
    """Distinct texts encoded for them, by all processes, in this run or the stopped ones it went on with."""
    kept: int
    """Captions that were in the store already, or stood in the data before."""
    truncated: int
    """Of these texts, how many were longer than the embedder reads; known to the main process."""


def embed_captions(
    captions: Sequence[tuple[str, str]],
    embedder: TextEmbedder,
    folder: Path,
    dtype: StoreDtype = "float32",
    skip: Skip | None = None,
    report: Report | None = None,
    size: int | None = None,
) -> EmbedCounts:
    """Embed captions that the store does not hold yet; equal texts are encoded once and share a row.

    Processes of one run share the work; each needs the same captions. What is computed together depends on the captions
    alone, so the store does not depend on the number of processes, nor on how often a run was stopped. A run that was
    stopped goes on where it was; until its end the store is as it was before.

    Args:
        captions: pairs of key and text, in a fixed order. They are read one after the other once or twice, and then
            some by number.
        embedder: the LLM, or CLIP's text tower.
        folder: of the store.
        dtype: how to store vectors.
        skip: which of some texts are left out.
        report: called by the main process after each of its chunks.
        size: texts of a chunk, which are encoded by one call; 512 if None. A divisor of 16,384.

    Raises:
        ProclipError: a text is empty; a key stands twice with different texts, or has another text than the one in the
            store; the store was made otherwise; the disk is too small; another run is writing the store.
    """
    work, main = SharedWork(), distributed.is_main()
    held = lock(folder) if main else None
    try:
        if main:
            dim = Manifest.read(folder).dim if (folder / MANIFEST).is_file() else embedder.dim
            wanted = Manifest(identity=dict(embedder.identity), dim=dim, dtype=dtype)
            plan = make_plan(folder, wanted, captions, skip, size)
            work.add("texts", int(plan.done().sum()))
            work.add("planned", 1)
        else:
            work.wait("planned")
            plan = Plan.open(folder)
        _encode(plan, captions, embedder, work, report if main else None)
        work.reach("encoded", distributed.world_size())
        truncated = plan.finish() if main else 0
        work.leave()
    finally:
        if held is not None:
            held.release()
    return EmbedCounts(plan.keys, plan.rows, plan.kept, truncated)


def _encode(
    plan: Plan, captions: Sequence[tuple[str, str]], embedder: TextEmbedder, work: SharedWork, report: Report | None
) -> None:
    """Take chunks of rows as long as there are some, and encode what is not done."""
    done = plan.done()
    if done.all():
        return
    with PlanRows(plan, distributed.rank()) as rows:
        stride = _mixing(plan.chunks)
        for turn in work.units(plan.chunks):
            first, last = plan.chunk(turn * stride % plan.chunks)
            if done[first:last].all():
                continue
            texts = [captions[source][1] for source in plan.sources[first:last].tolist()]
            encoded = embedder.encode(texts)
            check_vectors(encoded.embeds, texts)
            rows.write(first, _packed(encoded, plan.manifest))
            read = int(encoded.tokens.sum()) if encoded.tokens is not None else 0
            texts_done, tokens = work.add("texts", last - first), work.add("tokens", read)
            if report is not None:
                report(texts_done, plan.rows, tokens)


def _mixing(chunks: int) -> int:
    """A stride that visits all chunks, long and short in turn, so that the rate of the first foretells the rest."""
    return next((s for s in range(round(0.618 * chunks), chunks) if gcd(s, chunks) == 1), 1)


def _packed(encoded: Encoded, manifest: Manifest) -> dict[str, torch.Tensor]:
    count, width = encoded.embeds.shape
    if width != manifest.dim:
        raise ProclipError(f"the embedder gives vectors {width} wide, the store holds {manifest.dim}")
    cut = encoded.cut.byte() if encoded.cut is not None else torch.full((count,), UNKNOWN).byte()
    return {**pack(encoded.embeds.float().cpu(), manifest.dtype), "cut": cut.cpu()}
