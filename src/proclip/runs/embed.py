"""``proclip embed``: every caption that recipes read, through the LLM and through CLIP's text tower, once."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ..config import DistillConfig, Recipe, TuneConfig
from ..data.dataset import ImageCaptions, Sample, caption_of
from ..data.store import EmbeddingStore, StoreWriter, caption_key
from ..data.store_format import MANIFEST, StoreDtype
from ..data.text_cache import Progress
from ..embed import embed_captions
from ..errors import ProclipError
from ..models.clip import Clip, load_clip
from ..models.embedder import LazyEmbedder, TextEmbedder
from .recipes import pick_device

_log = logging.getLogger(__name__)


def read_captions(stage: DistillConfig | TuneConfig) -> tuple[str, ...]:
    """Every caption column that a stage reads, its teacher's too."""
    of_teacher = stage.teacher_captions.values() if isinstance(stage, DistillConfig) else ()
    return tuple(dict.fromkeys([*stage.captions, *of_teacher]))


def needed_captions(recipe: Recipe, data: ImageCaptions) -> tuple[dict[str, str], dict[str, str]]:
    """What the LLM and what the teacher must read, each as caption key -> text.

    Raises:
        ProclipError: a split or a caption column does not exist, or a caption is empty.
    """
    llm: dict[str, str] = {}
    teacher: dict[str, str] = {}
    stages: list[DistillConfig | TuneConfig] = [s for s in (recipe.distill, recipe.tune) if s is not None]
    for stage in stages:
        for sample in data.select(stage.split, read_captions(stage)):
            llm.update({caption_key(sample.key, c): caption_of(sample, c) for c in stage.captions})
    if recipe.distill:
        columns = {recipe.distill.teacher_captions.get(c, c) for c in recipe.distill.captions}
        for sample in data.select(recipe.distill.split, read_captions(recipe.distill)):
            teacher.update({caption_key(sample.key, c): caption_of(sample, c) for c in sorted(columns)})
    return llm, teacher


def cut_captions(config: DistillConfig, samples: Sequence[Sample], clip: Clip) -> frozenset[str]:
    """Keys of the teacher's captions that stage 1 leaves out, for the teacher cannot read them whole.

    Returns:
        none of them, unless the config leaves such captions out.

    Raises:
        ProclipError: that would leave nothing.
    """
    if not config.skip_truncated:
        return frozenset()
    columns = sorted({config.teacher_captions.get(c, c) for c in config.captions})
    texts = {caption_key(s.key, c): caption_of(s, c) for s in samples for c in columns}
    cut = frozenset(key for key, lost in zip(texts, clip.cuts(list(texts.values())), strict=True) if lost)
    if len(cut) == len(texts):
        raise ProclipError(
            f"the CLIP reads {clip.tokenizer.context_length} tokens, and every caption of {', '.join(columns)} is "
            "longer: stage 1 has nothing to learn from; name a column with shorter captions (distill.captions), leave "
            "the stage out (distill = 'none'), or take them cut (distill.skip_truncated = false)"
        )
    return cut


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


def embed_recipes(recipes: Sequence[Recipe], embedder: TextEmbedder | None = None) -> None:
    """Write the stores ``llm/`` and ``teacher/CLIP/`` that recipes share; captions that are there already cost nothing.

    Args:
        recipes: with the same data, embedder and CLIP.
        embedder: the recipes' own, where the caller has use for it afterwards; one that is loaded here is freed before
            the teacher embeds.

    Raises:
        ProclipError: the recipes do not share a store, a caption is bad, or a store was written by another model,
            prompt or length.
    """
    first = recipes[0]
    llm: dict[str, str] = {}
    teacher: dict[str, str] = {}
    data = ImageCaptions.of(first.data)
    # Before the LLM embeds anything, so that a CLIP that does not load is found at once.
    clip = load_clip(first.clip) if any(recipe.distill for recipe in recipes) else None
    for recipe in recipes:
        if recipe.pretrain:
            raise ProclipError(f"recipe {recipe.name!r} pretrains a CLIP: it reads captions themselves, not embeddings")
        if (recipe.data, recipe.embedder, recipe.clip) != (first.data, first.embedder, first.clip):
            raise ProclipError(f"recipes {first.name!r} and {recipe.name!r} differ in data, embedder or clip")
        of_llm, of_teacher = needed_captions(recipe, data)
        llm.update(of_llm)
        if recipe.distill and clip:
            cut = cut_captions(recipe.distill, data.select(recipe.distill.split, read_captions(recipe.distill)), clip)
            teacher.update({key: text for key, text in of_teacher.items() if key not in cut})
        warn_of_raw_states(recipe)
    store = Path(first.data.store)
    device = pick_device()
    with closing(LazyEmbedder(first.embedder, device)) if embedder is None else nullcontext(embedder) as of_captions:
        _add("LLM", store / "llm", of_captions, first.data.store_dtype, llm)
    if clip and teacher:
        clip.text_tower.to(device)
        _add("teacher", of_clip(store / "teacher", first.clip), clip, "float32", teacher)


def _add(what: str, folder: Path, embedder: TextEmbedder, dtype: StoreDtype, captions: Mapping[str, str]) -> None:
    dim = EmbeddingStore.open(folder).dim if (folder / MANIFEST).is_file() else embedder.dim
    with StoreWriter(folder, embedder.identity, dim, dtype) as writer, progress(what) as report:
        counts = embed_captions(captions.items(), embedder, writer, report)
    cut = f", {counts.truncated} of them cut ({counts.truncated / counts.texts:.1%})" if counts.texts else ""
    line = f"{what}: {counts.rows} captions embedded from {counts.texts} texts{cut}; {counts.kept} were in {folder}"
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)


@contextmanager
def progress(what: str, unit: str = "texts") -> Iterator[Progress]:
    """A progress bar, as for the texts of one embedder."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
