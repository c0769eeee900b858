"""``proclip embed``: every caption that recipes read, through the LLM and through CLIP's text tower, once."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from .. import distributed
from ..config import DistillConfig, Recipe, TuneConfig
from ..data.captions import Captions
from ..data.dataset import ImageCaptions
from ..data.embed_plan import Skip
from ..data.loaders import nothing_to_read
from ..data.store_format import StoreDtype
from ..data.text_cache import Progress
from ..embed import A_CHUNK_ON_GPU, EmbedCounts, Report, embed_captions
from ..errors import ProclipError
from ..models.clip import load_clip
from ..models.devices import pick_device
from ..models.embedder import LazyEmbedder, TextEmbedder

_log = logging.getLogger(__name__)


PLAIN_SECONDS = 30.0
"""Between two lines of progress where there is no terminal."""


class Column(NamedTuple):
    """A caption column of some rows."""

    split: str
    """The rows' split."""
    read: tuple[str, ...]
    """Columns that the rows must have, or be left out if the recipe says so."""
    name: str
    """The column."""


def read_captions(stage: DistillConfig | TuneConfig) -> tuple[str, ...]:
    """Every caption column that a stage reads, its teacher's too."""
    of_teacher = stage.teacher_captions.values() if isinstance(stage, DistillConfig) else ()
    return tuple(dict.fromkeys([*stage.captions, *of_teacher]))


def needed_columns(recipe: Recipe) -> tuple[list[Column], list[Column]]:
    """What the LLM and what the teacher must read."""
    stages: list[DistillConfig | TuneConfig] = [s for s in (recipe.distill, recipe.tune) if s is not None]
    llm = [Column(stage.split, read_captions(stage), name) for stage in stages for name in stage.captions]
    if recipe.distill is None:
        return llm, []
    read = read_captions(recipe.distill)
    targets = sorted({recipe.distill.teacher_captions.get(name, name) for name in recipe.distill.captions})
    return llm, [Column(recipe.distill.split, read, name) for name in targets]


def warn_of_raw_states(recipe: Recipe) -> None:
    """Say that the defaults of embedder and adapter do not go together: they are those of two kinds of embedder."""
    raw = recipe.embedder.backend == "causal-lm" and recipe.embedder.layer == -1
    if raw and recipe.adapter.input_norm == "l2":
        _log.warning(
            "recipe %r pools the last layer of a causal LM and L2-normalises it: a few dimensions of such states hide "
            "the rest; set adapter.input_norm = 'standardize' and try a middle embedder.layer (docs/lab_log.md)",
            recipe.name,
        )


def of_clip(folder: Path, clip: str) -> Path:
    """The part of a folder of stores that belongs to one CLIP, so that several share the LLM's embeddings beside it."""
    name = Path(clip).resolve().name if Path(clip).is_dir() else clip
    return folder / re.sub(r"[^\w.-]+", "_", name)


def embed_recipes(recipes: Sequence[Recipe], embedder: TextEmbedder | None = None, *, replace: bool = False) -> None:
    """Write the stores ``llm/`` and ``teacher/CLIP/`` that recipes share; captions that are there already cost nothing.

    Processes that torchrun started share the work. The teacher comes first: it is quick, and finds bad captions early.

    Args:
        recipes: with the same data, embedder and CLIP.
        embedder: the recipes' own, where the caller has use for it afterwards; one that is loaded here is freed at the
            end.
        replace: embed captions anew whose text has changed; they are refused otherwise.

    Raises:
        ProclipError: the recipes do not share a store, a caption is bad or has changed, or a store was written by
            another model, prompt or length.
    """
    first = recipes[0]
    for recipe in recipes:
        if recipe.pretrain:
            raise ProclipError(f"recipe {recipe.name!r} pretrains a CLIP: it reads captions themselves, not embeddings")
        if (recipe.data, recipe.embedder, recipe.clip) != (first.data, first.embedder, first.clip):
            raise ProclipError(f"recipes {first.name!r} and {recipe.name!r} differ in data, embedder or clip")
        if distributed.is_main():
            warn_of_raw_states(recipe)
    data, store, device = ImageCaptions.of(first.data), Path(first.data.store), pick_device()
    own = embedder if embedder is not None else LazyEmbedder(first.embedder, device)
    _embed_for_teacher(recipes, data, of_clip(store / "teacher", first.clip), device, replace)
    columns = [column for recipe in recipes for column in needed_columns(recipe)[0]]
    try:
        _add("LLM", store / "llm", own, first.data.store_dtype, _captions(data, columns), replace=replace)
    finally:
        if isinstance(own, LazyEmbedder) and embedder is None:
            own.close()


def _embed_for_teacher(
    recipes: Sequence[Recipe], data: ImageCaptions, folder: Path, device: str, replace: bool
) -> None:
    """What stage 1 of the recipes learns from, by whether texts that the teacher would cut are left out."""
    if not any(recipe.distill for recipe in recipes):
        return
    clip = load_clip(recipes[0].clip)
    clip.text_tower.to(device)
    for skips in (False, True):
        of_these = [r for r in recipes if r.distill and r.distill.skip_truncated == skips]
        columns = [column for recipe in of_these for column in needed_columns(recipe)[1]]
        if not columns:
            continue
        captions = _captions(data, columns)
        counts = _add("teacher", folder, clip, "float32", captions, clip.cuts if skips else None, replace=replace)
        if not counts.rows and not counts.kept:
            raise nothing_to_read(sorted({column.name for column in columns}))


def _captions(data: ImageCaptions, columns: Sequence[Column]) -> Captions:
    """The captions of some columns, each once."""
    rows = {(split, read): data.select(split, read) for split, read, _ in columns}
    return Captions([(rows[split, read], name) for split, read, name in dict.fromkeys(columns)])


def _add(
    what: str,
    folder: Path,
    embedder: TextEmbedder,
    dtype: StoreDtype,
    captions: Captions,
    skip: Skip | None = None,
    *,
    replace: bool,
) -> EmbedCounts:
    size = None if pick_device() == "cpu" else A_CHUNK_ON_GPU
    with embedding_progress(what) as report:
        counts = embed_captions(captions, embedder, folder, dtype, skip, report, size, replace)
    if distributed.is_main():
        cut = f", {counts.truncated} of them cut ({counts.truncated / counts.texts:.1%})" if counts.texts else ""
        new = f"{counts.rows} captions embedded from {counts.texts} texts{cut}"
        line = f"{what}: {new} into {folder}; {counts.kept} were there, or repeat"
        Console(stderr=True).print(line, highlight=False, soft_wrap=True)
    return counts


@contextmanager
def progress(what: str, unit: str = "texts") -> Iterator[Progress]:
    """A progress bar, as for the texts of one embedder."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not distributed.is_main()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def embedding_progress(what: str, unit: str = "texts") -> Iterator[Report]:
    """Progress of all processes, with their rates over the run and the time left at them.

    A bar on a terminal, a plain line now and then elsewhere.
    """
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit + " {task.fields[rates]}"))
    console, rates, told = Console(stderr=True), Rates(unit), [time.monotonic()]
    with Bar(*columns, console=console, transient=True, disable=not distributed.is_main()) as bar:
        task = bar.add_task(what, total=None, rates="")

        def report(done: int, total: int, tokens: int) -> None:
            now = time.monotonic()
            found = rates(done, total, tokens, now)
            bar.update(task, completed=done, total=total, rates=found)
            if not console.is_terminal and now - told[0] > PLAIN_SECONDS:
                told[0] = now
                console.print(f"{what}: {done:,} of {total:,} {unit}, {found}", highlight=False, soft_wrap=True)

        yield report


class Rates:
    """What is said of the speed, from the second report on."""

    def __init__(self, unit: str = "texts") -> None:
        self.unit = unit
        self._first: tuple[int, int, float] | None = None

    def __call__(self, done: int, total: int, tokens: int, now: float) -> str:
        """As ``1,234 texts/s, 56,789 tokens/s, 0:01:02 left``; tokens where the embedder counts them."""
        if self._first is None:
            self._first = done, tokens, now
        texts_before, tokens_before, start = self._first
        seconds = now - start
        if done == texts_before or seconds <= 0:
            return ""
        rate = (done - texts_before) / seconds
        parts = [f"{rate:,.0f} {self.unit}/s"]
        if tokens > tokens_before:
            parts.append(f"{(tokens - tokens_before) / seconds:,.0f} tokens/s")
        return ", ".join([*parts, f"{timedelta(seconds=round((total - done) / rate))} left"])
