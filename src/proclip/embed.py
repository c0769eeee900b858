"""Captions, each text once, and pictures to embedding stores, by any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, pairwise
from math import gcd
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from . import distributed
from .data.ahead import DECODE_THREADS
from .data.dataset import Sample, Samples
from .data.embed_plan import Plan, PlanRows, Skip, make_plan
from .data.in_order import in_order
from .data.shared_work import SharedWork
from .data.store_folder import LOCK_SECONDS, lock
from .data.store_format import MANIFEST, UNKNOWN, Manifest, StoreDtype, pack
from .errors import ProclipError
from .models.embedder import Encoded, TextEmbedder
from .models.preprocess import ImagePreprocess
from .models.towers import ImageTower
from .models.vectors import check_vectors

Report = Callable[[int, int, int], None]
"""Called with texts or pictures done and all of the run, and tokens read so far, of all processes."""
PICTURES = 128
"""That the tower takes at a time; twice as many more wait, decoded and prepared."""
A_CHUNK_ON_GPU = 4096
"""Texts or pictures that a process takes there."""
WAIT_SECONDS = 24 * 3600.0
"""How long a run waits for another one that embeds the same pictures."""


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
    replace: bool = False,
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
        replace: captions whose text is no longer the one in the store are embedded anew.

    Raises:
        ProclipError: a text is empty; a key stands twice with different texts, or has another text than the one in the
            store and is not to be replaced; the store was made otherwise; the disk is too small; another run is writing
            the store.
    """

    def encode(numbers: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
        texts = [captions[number][1] for number in numbers]
        encoded = embedder.encode(texts)
        check_vectors(encoded.embeds, texts)
        yield 0, encoded

    def plan(wanted: Manifest) -> Plan:
        return make_plan(folder, wanted, captions, skip, size, replace=replace)

    found, _, truncated = _fill(folder, embedder.identity, lambda: embedder.dim, dtype, plan, encode, report)
    return EmbedCounts(found.keys, found.rows, found.kept, truncated)


@dataclass(frozen=True)
class PictureCounts:
    """What a call of `embed_pictures` did."""

    pictures: int
    """That the store did not hold."""
    broken: int
    """Of these, how many cannot be used: the store has none of their vectors."""
    first_broken: str | None
    """Key and fault of one that this process met."""


def embed_pictures(
    samples: Samples,
    tower: ImageTower,
    preprocess: ImagePreprocess,
    folder: Path,
    identity: Mapping[str, Any],
    report: Report | None = None,
) -> PictureCounts:
    """Embed the plain pictures of samples that the store does not hold yet, by the samples' keys, L2-normalised.

    A picture that has changed since (by its size, and its time of change where it is a file) is embedded anew.

    Processes share the work, and what was stopped goes on, as with `embed_captions`.

    Args:
        samples: with distinct keys.
        tower: computes where its weights are.
        preprocess: the tower's.
        folder: of the store.
        identity: of tower and preprocessing.
        report: called by the main process now and then.

    Raises:
        ProclipError: a picture is missing; the store was made otherwise; the disk is too small; another run is writing
            the store; a vector is not finite.
    """
    broken = list[str]()
    size = None if next(tower.parameters()).device.type == "cpu" else A_CHUNK_ON_GPU

    def encode(numbers: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
        return _encode_pictures([samples[number] for number in numbers], tower.eval(), preprocess, broken)

    def plan(wanted: Manifest) -> Plan:
        return make_plan(folder, wanted, _Stamps(samples), size=size, replace=True)

    width = tower.embed_dim
    found, done, _ = _fill(folder, identity, lambda: width, "float32", plan, encode, report, WAIT_SECONDS)
    return PictureCounts(found.rows, distributed.from_main(found.rows - done), broken[0] if broken else None)


@final
class _Stamps(Sequence[tuple[str, str]]):
    """Keys of pictures, and what changes when a picture does."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[str, str]:  # type: ignore[override]  # no slices: they would be lists
        sample = self.samples[number]
        return sample.key, sample.stamp()


def _encode_pictures(
    samples: Sequence[Sample], tower: ImageTower, preprocess: ImagePreprocess, broken: list[str]
) -> Iterator[tuple[int, Encoded]]:
    """Stretches of pictures that can be used: number of the first, and their vectors."""
    device = next(tower.parameters()).device

    def prepared(sample: Sample) -> Tensor | None:
        try:
            return preprocess(sample.picture.open())
        except ProclipError as error:
            broken.append(f"{sample.key}: {error}")
            return None

    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        pictures = in_order(pool, prepared, samples, 2 * PICTURES)
        for start in range(0, len(samples), PICTURES):
            keys = [sample.key for sample in samples[start : start + PICTURES]]
            found = [(start + n, pixels) for n, pixels in enumerate(islice(pictures, len(keys))) if pixels is not None]
            if not found:
                continue
            with torch.inference_mode():
                embeds = F.normalize(tower(torch.stack([pixels for _, pixels in found]).to(device)).float(), dim=-1)
            check_vectors(embeds, [keys[n - start] for n, _ in found])
            numbers = [number for number, _ in found]
            starts = [n for n in range(len(numbers)) if n == 0 or numbers[n] > numbers[n - 1] + 1]
            for first, last in pairwise([*starts, len(numbers)]):
                yield numbers[first], Encoded(embeds[first:last], None)


Encode = Callable[[Sequence[int]], Iterator[tuple[int, Encoded]]]
"""From numbers of what is embedded to stretches of them: place of the first among the numbers, and vectors."""


def _fill(
    folder: Path,
    identity: Mapping[str, Any],
    dim: Callable[[], int],
    dtype: StoreDtype,
    plan_for: Callable[[Manifest], Plan],
    encode: Encode,
    report: Report | None,
    wait_seconds: float = LOCK_SECONDS,
) -> tuple[Plan, int, int]:
    """Plan, encode and finish, by all processes: the plan, its rows that are done, and the texts that were cut.

    The numbers of the last two are known to the main process.
    """
    main, done, truncated = distributed.is_main(), 0, 0
    with SharedWork() as work, lock(folder, wait_seconds) if main else nullcontext():
        if main:
            there = Manifest.read(folder).dim if (folder / MANIFEST).is_file() else dim()
            plan = plan_for(Manifest(identity=dict(identity), dim=there, dtype=dtype))
            work.add("texts", int(plan.tried().sum()))
            work.add("planned", 1)
        else:
            work.wait("planned")
            plan = Plan.open(folder)
        _encode(plan, encode, work, report if main else None)
        work.reach("encoded", distributed.world_size())
        if main:
            done = int(plan.done().sum())
            truncated = plan.finish()
        work.leave()
    return plan, done, truncated


def _encode(plan: Plan, encode: Encode, work: SharedWork, report: Report | None) -> None:
    """Take chunks of rows as long as there are some, and encode those that have not come to their end."""
    tried = plan.tried()
    if tried.all():
        return
    with PlanRows(plan, distributed.rank()) as rows:
        stride = _mixing(plan.chunks)
        for turn in work.units(plan.chunks):
            first, last = plan.chunk(turn * stride % plan.chunks)
            if tried[first:last].all():
                continue
            written = read = 0
            for place, encoded in encode(plan.sources[first:last].tolist()):
                rows.write(first + place, _packed(encoded, plan.manifest))
                written += len(encoded.embeds)
                read += int(encoded.tokens.sum()) if encoded.tokens is not None else 0
            if written < last - first:
                rows.end_chunk(first, last)
            new = int((~tried[first:last]).sum())
            texts_done, tokens = work.add("texts", new), work.add("tokens", read)
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
