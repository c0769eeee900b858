"""Classification sets of the hub, and saved data sets, with class labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...data.hub import PREFIX, first_line, load_hub_dataset
from ...data.images import DatasetImages
from ...errors import ProclipError
from ..benchmark import Benchmark, check_pictures, some
from ..tasks import ClassificationTask
from .classification import TOP1, webdataset_classification
from .prompts import DEFAULT_TEMPLATES


def from_hub(name: str) -> Benchmark:
    """A benchmark by a name such as ``hf:ylecun/mnist#test`` or ``hf:clip-benchmark/wds_food101``.

    A repository whose name begins with ``wds_`` is in CLIP_benchmark's layout and is downloaded (its test split);
    any other is read as `hub_classification` does, split ``test`` unless one is named after ``#``.

    Raises:
        ProclipError: as there, or the name has no ``hf:`` or nothing after it.
    """
    identifier, _, split = name.removeprefix(PREFIX).partition("#")
    if not name.startswith(PREFIX) or not identifier:
        raise ProclipError(f"a data set of the hub is named hf:ID or hf:ID#SPLIT, not {name!r}")
    if identifier.split("/")[-1].startswith("wds_") and not Path(identifier).is_dir():
        if split not in ("", "test"):
            raise ProclipError(f"{name}: sets in CLIP_benchmark's layout are measured on test, not {split!r}")
        return hub_webdataset(identifier)
    return hub_classification(identifier, split or "test")


def hub_webdataset(identifier: str) -> Benchmark:
    """Download the test split of a set in CLIP_benchmark's layout, such as ``clip-benchmark/wds_food101``.

    Raises:
        ProclipError: the hub cannot be reached or has no such set, or as `webdataset_classification`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        copy = snapshot_download(identifier, repo_type="dataset", allow_patterns=["test/*", "*.txt"])
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ProclipError(f"the hub does not give the data set {identifier!r}: {first_line(error)}") from None
    return webdataset_classification(Path(copy), identifier.split("/")[-1])


def hub_classification(
    identifier: str,
    split: str = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    templates: tuple[str, ...] = DEFAULT_TEMPLATES,
) -> Benchmark:
    """Zero-shot classification on a data set whose labels have names (feature ``ClassLabel``).

    Underscores in the names become spaces.

    Args:
        identifier: hub id, or a folder.
        split: its split.
        image_column: with the pictures; the only one of the feature ``Image`` if None.
        label_column: with the labels; the only one of the feature ``ClassLabel`` if None.
        templates: prompts with ``{}`` for the class name.

    Raises:
        ProclipError: as `load_hub_dataset`, a column is missing or not the only one, or pictures or labels are missing.
    """
    dataset = load_hub_dataset(identifier, split)
    image = _column(identifier, dataset, image_column, "Image")
    label = _column(identifier, dataset, label_column, "ClassLabel")
    names = [name.replace("_", " ") for name in dataset.features[label].names]
    images = DatasetImages(dataset, [image])
    keys = [f"{image}/{row}" for row in range(len(dataset))]
    numbers = list(dataset[label])
    if wrong := [key for key, n in zip(keys, numbers, strict=True) if n is None or not 0 <= n < len(names)]:
        raise ProclipError(
            f"{identifier}, split {split!r}: {len(wrong)} of {len(keys)} rows have no label (a test split may hide "
            f"them): {some(wrong)}"
        )
    if not keys:
        raise ProclipError(f"{identifier}, split {split!r}, has no rows")
    check_pictures(f"{identifier}, split {split!r}", images, keys)
    name = Path(identifier).name if Path(identifier).is_dir() else identifier.replace("/", "-")
    name += "" if split == "test" else f"-{split}"
    task = ClassificationTask(
        name=name,
        items=tuple(zip(keys, numbers, strict=True)),
        classnames=tuple(names),
        templates=templates,
        chance=1 / len(names),
    )
    return Benchmark(
        name=name,
        tasks={"": task},
        images=images,
        protocol=f"zero-shot top-1 accuracy of {len(names)} classes, mean of {len(templates)} prompts a class; split "
        f"{split}, class names of the feature {label}, underscores as spaces",
        headline=(TOP1,),
        notes={"classes": len(names)},
    )


def _column(identifier: str, dataset: Any, wanted: str | None, feature: str) -> str:
    """The column of that feature, by name or because it is the only one."""
    of_feature = [name for name, kind in dataset.features.items() if type(kind).__name__ == feature]
    if wanted in of_feature or (wanted is None and len(of_feature) == 1):
        return wanted or of_feature[0]
    asked = f"no column {wanted!r}" if wanted else f"{len(of_feature)} columns"
    listed = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in dataset.features.items())
    raise ProclipError(f"{identifier} has {asked} of the feature {feature}; its columns: {listed}")
