"""Zero-shot classification: the paper's sets, ImageNet's variants, and any set in the same layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...data.images import ImageSource, TarImages
from ...errors import ProclipError
from ..benchmark import Benchmark, Entry
from ..tasks import ClassificationTask
from .imagenet import class_folders, class_names, imagenet_templates
from .prompts import CLASSNAMES, DEFAULT_TEMPLATES, TEMPLATES, read_templates, text_lines
from .webdataset import Items, check_classification, is_webdataset, labels, shards

PER_CLASS = "mean_per_class"
TOP1 = "acc1"
WEBDATASET = "test/0.tar, ... (image and cls), test/nshards.txt, classnames.txt, zeroshot_classification_templates.txt"
CLASS_FOLDERS = "or a folder of pictures for each class, as the authors publish it"


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A set that the paper measures."""

    folders: tuple[str, ...]
    """Where it may lie below the data root; the first is CLIP_benchmark's name of the set."""
    images: tuple[int, ...]
    """Sizes of its test split that are in use, the usual one first."""
    metric: str = TOP1
    """The paper's figure of it."""
    by_class_folder: bool = False
    """Whether folders of classes are a layout of it: ImageNet and its variants."""
    remark: str = ""
    """What the protocol says besides."""


ELEVEN: dict[str, KnownSet] = {
    "food101": KnownSet(folders=("wds_food101",), images=(25_250,)),
    "cifar10": KnownSet(folders=("wds_vtab-cifar10", "wds_cifar10"), images=(10_000,)),
    "cifar100": KnownSet(folders=("wds_vtab-cifar100", "wds_cifar100"), images=(10_000,)),
    "sun397": KnownSet(folders=("wds_sun397",), images=(108_754, 19_850)),
    "cars": KnownSet(folders=("wds_cars",), images=(8_041,)),
    "fgvc_aircraft": KnownSet(folders=("wds_fgvc_aircraft",), images=(3_333,), metric=PER_CLASS),
    "dtd": KnownSet(folders=("wds_vtab-dtd", "wds_dtd"), images=(1_880,)),
    "pets": KnownSet(folders=("wds_vtab-pets", "wds_pets"), images=(3_669,), metric=PER_CLASS),
    "caltech101": KnownSet(
        folders=("wds_vtab-caltech101", "wds_caltech101"), images=(6_084, 6_085, 5_677, 8_677), metric=PER_CLASS
    ),
    "flowers": KnownSet(folders=("wds_vtab-flowers", "wds_flowers"), images=(6_149,), metric=PER_CLASS),
    "imagenet1k": KnownSet(
        folders=("wds_imagenet1k", "imagenet1k", "imagenet"), images=(50_000,), by_class_folder=True
    ),
}
"""The paper's sets of zero-shot classification and of the probe. Counts: the public test splits, as torchvision and
TFDS give them; of SUN397 all pictures (CLIP_benchmark) or the first test partition (CLIP), of Caltech101 those of VTAB,
CLIP, the paper and torchvision."""

ROBUSTNESS: dict[str, KnownSet] = {
    "imagenetv2": KnownSet(
        folders=("wds_imagenetv2", "imagenetv2", "imagenetv2-matched-frequency-format-val"),
        images=(10_000,),
        by_class_folder=True,
        remark="matched-frequency",
    ),
    "imagenet-a": KnownSet(folders=("wds_imagenet-a", "imagenet-a"), images=(7_500,), by_class_folder=True),
    "imagenet-o": KnownSet(
        folders=("wds_imagenet-o", "imagenet-o"),
        images=(2_000,),
        by_class_folder=True,
        remark="accuracy over its own 200 classes, not the detection of outliers that the set was made for",
    ),
    "imagenet-r": KnownSet(folders=("wds_imagenet-r", "imagenet-r"), images=(30_000,), by_class_folder=True),
    "imagenet_sketch": KnownSet(
        folders=("wds_imagenet_sketch", "imagenet_sketch", "sketch"), images=(50_889,), by_class_folder=True
    ),
}
"""ImageNet's variants; A, O and R have 200 classes each, three different sets. Counts: the public ones."""

KNOWN = ELEVEN | ROBUSTNESS


def webdataset_classification(folder: Path, wds_name: str | None = None) -> Benchmark:
    """Any classification set in CLIP_benchmark's webdataset layout; its class names and templates come with it.

    A set of the paper is known by its folder's name, or by `wds_name` where that says another, such as
    ``wds_food101``, and gets the paper's figure and counts.

    Raises:
        ProclipError: archives, pictures, labels or names are missing or do not fit each other; the message names the
            first of them and how many there are.
    """
    name, known = _known(wds_name or folder.name)
    check_classification(folder)
    classnames = text_lines(folder / CLASSNAMES)
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    source = "the default template"
    if (folder / TEMPLATES).is_file():
        templates, source = read_templates(folder / TEMPLATES), "the set's templates"
    images = TarImages(shards(folder, "test"))
    items = labels(folder, "test", images, len(classnames))
    return _zero_shot(
        name, items, images, classnames, templates, f"test split, class names of the set, {source}", known
    )


def folder_classification(name: str, folder: Path) -> Benchmark:
    """ImageNet or one of its variants (a name of `KNOWN`) as folders of classes; see `imagenet` for the names.

    Raises:
        ProclipError: folders, pictures or names are missing.
    """
    known = KNOWN[name]
    found = class_folders(folder / "val" if (folder / "val").is_dir() else folder)
    classnames, source = class_names(folder, found)
    templates = imagenet_templates(folder)
    said = f"class folders, class names: {source}"
    return _zero_shot(name, found.items, found.images, classnames, templates, said, known)


def place_of(name: str, folder: Path) -> Path:
    """Where a set of `KNOWN` lies: `folder`, or beside it under another of its names.

    Raises:
        ProclipError: it lies at none of them.
    """
    known = KNOWN[name]
    places = list(dict.fromkeys((folder, *(folder.parent / place for place in known.folders))))
    there = [place for place in places if place.is_dir()]
    if not there:
        raise ProclipError(
            f"{name}: there is none of {', '.join(str(place) for place in places)}. Download it with: hf download "
            f"--repo-type dataset clip-benchmark/{known.folders[0]} --local-dir {folder.parent / known.folders[0]}"
        )

    def holds_pictures(place: Path) -> bool:  # wds_imagenet1k may be there for its class names alone
        return is_webdataset(place) or (known.by_class_folder and any(path.is_dir() for path in place.iterdir()))

    return next((place for place in there if holds_pictures(place)), there[0])


def _load(name: str, folder: Path) -> Benchmark:
    place = place_of(name, folder)
    if is_webdataset(place) or not KNOWN[name].by_class_folder:
        return webdataset_classification(place)
    return folder_classification(name, place)


def _known(wds_name: str) -> tuple[str, KnownSet | None]:
    """Name and facts of the set that a folder's name stands for; that name itself where it is not known."""
    for name, known in KNOWN.items():
        if wds_name in known.folders:
            return name, known
    return wds_name.removeprefix("wds_"), None


def _zero_shot(
    name: str,
    items: Items,
    images: ImageSource,
    classnames: Sequence[str],
    templates: tuple[str, ...],
    said: str,
    known: KnownSet | None,
) -> Benchmark:
    metric = known.metric if known else TOP1
    task = ClassificationTask(
        name=name, items=items, classnames=tuple(classnames), templates=templates, chance=1 / len(classnames)
    )
    what = "mean per-class accuracy" if metric == PER_CLASS else "top-1 accuracy"
    remark = f"; {known.remark}" if known and known.remark else ""
    notes: dict[str, object] = {"classes": len(classnames)}
    if (repeated := len(classnames) - len(set(classnames))) > 0:
        notes["repeated_class_names"] = repeated
    return Benchmark(
        name=name,
        tasks={"": task},
        images=images,
        protocol=f"zero-shot {what} of {len(classnames)} classes, mean of {len(templates)} prompts a class; {said}"
        + remark,
        headline=(metric,),
        complete=known is None or len(items) in known.images,
        notes=notes,
    )


def _entry(name: str, known: KnownSet) -> Entry:
    return Entry(
        name=name,
        folder=known.folders[0],
        load=partial(_load, name),
        layout=f"{WEBDATASET}; {CLASS_FOLDERS}" if known.by_class_folder else WEBDATASET,
        expected={"images": known.images},
        aliases=known.folders[1:],
    )


ENTRIES: dict[str, Entry] = {name: _entry(name, known) for name, known in KNOWN.items()}
"""The paper's zero-shot sets and ImageNet's variants."""
