"""Linear and k-NN probes of the image features on the paper's eleven classification sets."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from ...data.images import ImageFiles, ImageSource, TarImages
from ...errors import ProclipError
from ..benchmark import Benchmark, Entry, some
from ..tasks import ProbeTask
from .classification import ELEVEN, PER_CLASS, KnownSet, place_of
from .imagenet import class_folders
from .prompts import CLASSNAMES, text_lines
from .webdataset import Items, check_classification, is_webdataset, labels, shards

PREFIX = "probe-"


def probe_benchmark(name: str, folder: Path) -> Benchmark:
    """A probe on one of the paper's sets (a name of `ELEVEN`): its ``train`` split, measured on ``test``.

    ImageNet may also lie as the class folders ``train/`` and ``val/``.

    Raises:
        ProclipError: a split is missing, a class of the test split has no training picture, or as
            `webdataset_classification`.
    """
    known, place = ELEVEN[name], place_of(name, folder)
    if known.by_class_folder and not is_webdataset(place):
        images, train, test, classnames = _class_folders(place)
    else:
        images, train, test, classnames = _webdataset(place)
    trained = {label for _, label in train}
    if unseen := [f"{key} (class {label})" for key, label in test if label not in trained]:
        raise ProclipError(
            f"{place}: {len(unseen)} test pictures are of classes without a training picture: {some(unseen)}"
        )
    counts = Counter(label for _, label in test)
    task = ProbeTask(
        name=f"{PREFIX}{name}",
        train=train,
        test=test,
        classnames=classnames,
        chance=max(counts.values()) / len(test),
    )
    what = "mean per-class accuracy" if known.metric == PER_CLASS else "top-1 accuracy"
    return Benchmark(
        name=f"{PREFIX}{name}",
        tasks={"": task},
        images=images,
        protocol=f"probes on frozen image features, fitted on the train split and measured on test: {what} of "
        f"{len(classnames)} classes",
        headline=(known.metric,),
        complete=len(test) in known.images,
        notes={"train_images": len(train), "test_images": len(test)},
    )


def _webdataset(folder: Path) -> tuple[ImageSource, Items, Items, tuple[str, ...]]:
    check_classification(folder)
    if not (folder / "train").is_dir():
        raise ProclipError(f"{folder / 'train'} is missing: a probe is fitted on the set's train split")
    classnames = text_lines(folder / CLASSNAMES)
    images = TarImages({**shards(folder, "train"), **shards(folder, "test")})
    train, test = (labels(folder, split, images, len(classnames)) for split in ("train", "test"))
    return images, train, test, tuple(classnames)


def _class_folders(folder: Path) -> tuple[ImageSource, Items, Items, tuple[str, ...]]:
    if absent := [split for split in ("train", "val") if not (folder / split).is_dir()]:
        raise ProclipError(f"{folder} lacks {' and '.join(f'{split}/' for split in absent)} with class folders")
    train, test = (class_folders(folder / split, f"{split}/") for split in ("train", "val"))
    if differing := sorted(set(train.folders) ^ set(test.folders)):
        raise ProclipError(f"{folder}: class folders in only one of train and val: {some(differing)}")
    return ImageFiles({**train.images.paths, **test.images.paths}), train.items, test.items, train.folders


def _entry(name: str, known: KnownSet) -> Entry:
    layout = "train/0.tar, ... and test/0.tar, ... (image and cls), classnames.txt"
    return Entry(
        name=f"{PREFIX}{name}",
        folder=known.folders[0],
        load=partial(probe_benchmark, name),
        layout=f"{layout}; or train/ and val/ with a folder of pictures for each class"
        if known.by_class_folder
        else layout,
        expected={"images": known.images},
        aliases=known.folders[1:],
    )


ENTRIES: dict[str, Entry] = {f"{PREFIX}{name}": _entry(name, known) for name, known in ELEVEN.items()}
"""``probe-food101``, ...; the expected count is of the test split."""
