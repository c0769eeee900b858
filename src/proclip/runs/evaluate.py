"""``proclip eval``: a model through every task of a mini world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Recipe, config_hash, load_recipe
from ..data.dataset import ImageCaptions
from ..embed import Progress, TextCache
from ..errors import ProclipError
from ..evaluate.encoders import Encoders
from ..evaluate.suite import chance_levels, evaluated_class_prompts, evaluated_texts, run_suite
from ..evaluate.tasks import load_tasks
from ..files import read_json, write_atomically, write_json
from ..models.clip import Clip, checkpoint_folder, digest_of, load_clip
from ..models.embedder import TextEmbedder
from ..models.open_clip_source import holds_open_clip, is_open_clip
from ..models.preprocess import ImagePreprocess, read_image
from ..models.proclip import ProCLIP
from ..models.towers import ImageTower
from .recipes import environment, pick_device

BATCH = 128


class ImageFeatures:
    """An image tower over a dataset's keys; each picture is encoded once."""

    def __init__(self, data: ImageCaptions, tower: ImageTower, preprocess: ImagePreprocess) -> None:
        self.data, self.tower, self.preprocess = data, tower.eval(), preprocess
        self._known: dict[str, Tensor] = {}

    @torch.inference_mode()
    def __call__(self, keys: Sequence[str]) -> Tensor:
        """Image features, [n, d], not normalised."""
        device = next(self.tower.parameters()).device
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        for start in range(0, len(new), BATCH):
            chunk = new[start : start + BATCH]
            pixels = torch.stack([self.preprocess(read_image(self.data[key].path)) for key in chunk])
            features = self.tower(pixels.to(device)).float().cpu()
            self._known.update(zip(chunk, features, strict=True))
        return torch.stack([self._known[key] for key in keys])

    def embeds(self, keys: Sequence[str]) -> Tensor:
        """Image embeds, [n, d], L2-normalised."""
        return F.normalize(self(keys), dim=-1)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same parameters and buffers, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


class ClipTexts:
    """A CLIP's text tower: each text is encoded once, and texts longer than it reads are counted."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.cut = clip, 0
        self._known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Text embeds, [n, d], L2-normalised."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            encoded = self.clip.encode(new)
            self._known.update(zip(new, encoded.embeds, strict=True))
            self.cut += encoded.truncated
        return torch.stack([self._known[text] for text in texts])

    def truncated(self) -> dict[str, float]:
        """``texts``: how many distinct texts lost their end; ``share``: of all, 0 to 1."""
        return {"texts": self.cut, "share": self.cut / max(1, len(self._known))}


def clip_encoders(clip: Clip, images: ImageFeatures) -> Encoders:
    """The original CLIP under evaluation."""
    return Encoders(encode_image=images.embeds, encode_text=ClipTexts(clip), image_features=images)


def proclip_encoders(model: ProCLIP, images: ImageFeatures, texts: TextCache, classes: TextCache) -> Encoders:
    """A model of ours under evaluation, its LLM embeddings from the caches of captions and of class prompts."""
    return Encoders(
        encode_image=images.embeds,
        encode_text=lambda t: model.project_text(texts.encode(t)),
        encode_class=lambda t: model.project_text(classes.encode(t)),
        image_features=images,
    )


class World:
    """A mini world's pictures, tasks and reference CLIP, opened once for any number of models.

    Args:
        folder: that ``proclip mini`` built.
        store: folder of the text cache.
        split: ``test`` or ``dev`` concepts.
        clip: the original CLIP, to whose image tower CKA compares.
    """

    def __init__(self, folder: Path, store: Path, split: str = "test", clip: str = "mini-clip") -> None:
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            raise ProclipError(f"{folder} is not a mini world: {manifest} is missing; proclip mini builds one")
        self.benchmark: dict[str, str] = read_json(manifest).get("benchmark", {})
        if not {"name", "version", "checksum"} <= self.benchmark.keys():
            raise ProclipError(
                f"{manifest} lacks a benchmark with name, version and checksum: build the mini world again"
            )
        self.folder, self.store, self.split = folder, store, split
        self.tasks = folder / "tasks" / split
        self.data = ImageCaptions(folder)
        self.device = pick_device()
        self.clip_name, self.clip = clip, load_clip(clip)
        self.clip.image_tower.to(self.device)
        self.clip.text_tower.to(self.device)
        self.reference = ImageFeatures(self.data, self.clip.image_tower, self.clip.preprocess)
        self.truncated: dict[str, float] | None = None
        """Texts that the text tower of the CLIP evaluated last has cut; None for a model of ours."""
        self._probed: dict[str, float] = {}  # of the original image tower, which several methods keep

    def texts(self, embedder: TextEmbedder) -> TextCache:
        """The cache of an embedder's vectors for the tasks' captions; the LLM is loaded only when one is new."""
        return TextCache(self.store / "texts", embedder)

    def class_prompts(self, embedder: TextEmbedder) -> TextCache:
        """The cache for class names in their templates: that of the captions, unless they have another prompt."""
        for_classes = embedder.for_classes()
        return self.texts(embedder) if for_classes is embedder else TextCache(self.store / "class_texts", for_classes)

    def embed_tasks(self, embedder: TextEmbedder, tasks: Sequence[str], progress: Progress | None = None) -> None:
        """Fill both caches with all texts of some tasks."""
        chosen = load_tasks(self.tasks, tasks)
        self.texts(embedder).encode(evaluated_texts(chosen), progress)
        self.class_prompts(embedder).encode(evaluated_class_prompts(chosen), progress)

    def encoders(self, model: str | Path) -> Encoders:
        """Load a model: a run folder, a proclip or CLIP model's folder, name or hub id, or ``mini-clip``."""
        if str(model) == self.clip_name:
            return clip_encoders(self.clip, self.reference)
        inner = Path(model) / "model"
        name = str(inner if (inner / "config.json").is_file() else model)
        folder = Path(name) if is_open_clip(name) else checkpoint_folder(name)
        path = folder / "config.json"
        kind = read_json(path).get("model_type") if path.is_file() else None
        if kind not in (None, "proclip") or is_open_clip(name) or holds_open_clip(folder):
            clip = load_clip(name)
            clip.image_tower.to(self.device)
            clip.text_tower.to(self.device)
            return clip_encoders(clip, ImageFeatures(self.data, clip.image_tower, clip.preprocess))
        loaded = ProCLIP.from_pretrained(folder, device=self.device)
        images = self.reference
        if not same_weights(loaded.image_tower, self.clip.image_tower):
            images = ImageFeatures(self.data, loaded.image_tower, loaded.preprocess)
        return proclip_encoders(loaded, images, self.texts(loaded.embedder), self.class_prompts(loaded.embedder))

    def evaluate(self, model: str | Path, tasks: Sequence[str] | None = None) -> dict[str, float]:
        """Every task's figure, 0 to 1, under the keys of `run_suite`."""
        encoders = self.encoders(model)
        locked = encoders.image_features is self.reference
        figures = run_suite(self.tasks, encoders, self.reference, tasks, self._probed if locked else {})
        texts = encoders.encode_text
        self.truncated = texts.truncated() if isinstance(texts, ClipTexts) else None
        if locked:
            self._probed = {key: figure for key, figure in figures.items() if key.startswith("linear_probe/")}
        return figures

    def chance(self) -> dict[str, float]:
        """What guessing gets, under the same keys."""
        return chance_levels(self.tasks)


def evaluated(
    world: World, model: str | Path, path: Path, recipe: Recipe | None, tasks: Sequence[str] | None = None
) -> dict[str, float]:
    """A model's figures: from `path` if they were measured there on the same data, CLIP and recipe, else measured."""
    key = {
        "benchmark": world.benchmark,
        "split": world.split,
        "clip": world.clip.identity["sha256"],
        "config_hash": config_hash(recipe) if recipe else None,
        "weights": digest_of(inner) if (inner := Path(model) / "model").is_dir() else None,
        "tasks": list(tasks) if tasks else None,
    }
    if path.is_file():
        found = read_json(path)
        if found["key"] == key:
            figures: dict[str, float] = found["figures"]
            return figures
    figures = world.evaluate(model, tasks)
    write_json(path, {"key": key, "figures": figures, "environment": environment()})
    return figures


CARD_HEADING = "## Figures"


def add_figures_to_card(model: Path, figures: Mapping[str, float], world: World) -> None:
    """Write a model's figures, and the command that gives them, at the end of its card; earlier ones go."""
    card = model / "README.md"
    benchmark = world.benchmark
    text = card.read_text(encoding="utf-8").split(CARD_HEADING)[0].rstrip()
    rows = [
        f"| {key} | {100 * figures[key]:.1f} |" for key in sorted(figures) if "r@5" not in key and "r@10" not in key
    ]
    lines = [
        f"{text}\n\n{CARD_HEADING}\n",
        f"In per cent, on the {world.split} concepts of {benchmark['name']} version {benchmark['version']} "
        f"(checksum {benchmark['checksum'][:12]}); `proclip eval RUN` gives them.\n",
        "| task | figure |\n|---|---|",
        *rows,
    ]
    write_atomically(card, "\n".join(lines) + "\n")


def evaluate_command(
    model: str, data: Path, store: Path, split: str, clip: str | None, out: Path | None
) -> dict[str, Any]:
    """Evaluate a model, print its figures beside chance, and write them.

    Raises:
        ProclipError: no such model or data, or a model whose embedder is not the one the cache was written with.
    """
    from rich.console import Console
    from rich.table import Table

    recipe = _recipe_of(model)
    world = World(data, store, split, clip or (recipe.clip if recipe else "mini-clip"))
    with Console(stderr=True).status(f"evaluating {model}"):
        figures, chance = world.evaluate(model), world.chance()
    table = Table("task", "figure", "chance", title=f"{model} on {world.benchmark['name']} ({split} concepts)")
    for key in sorted(figures):
        table.add_row(key, f"{figures[key]:.3f}", f"{chance[key]:.3f}" if key in chance else "")
    Console().print(table)
    if cut := world.truncated:
        Console().print(f"{cut['texts']} texts ({cut['share']:.1%}) are longer than the text tower reads and were cut")
    result = {
        "benchmark": world.benchmark,
        "protocol": f"proclip mini world, {split} concepts",
        "model": model,
        "clip": world.clip_name,
        "config_hash": config_hash(recipe) if recipe else None,
        "seed": recipe.seed if recipe else None,
        "figures": figures,
        "chance": chance,
        "truncated": world.truncated,
        "environment": environment(),
    }
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)
    return result


def _recipe_of(model: str) -> Recipe | None:
    path = Path(model) / "recipe.toml"
    return load_recipe(path) if path.is_file() else None
