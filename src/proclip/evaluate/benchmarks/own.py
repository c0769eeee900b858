"""One's own data as a benchmark: captioned pictures, folders of classes, or a folder of task files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.dataset import ImageCaptions, Sample
from ...data.images import ImageFiles, SampleImages
from ...data.metadata import NAMES
from ...errors import ProclipError
from ...files import read_json
from ..benchmark import Benchmark, check_pictures, some
from ..contents import image_keys
from ..tasks import ClassificationTask, ProbeTask, RetrievalTask, Task, load_tasks
from .classification import webdataset_classification
from .languages import LANGUAGE_CODES
from .multilingual import XM3600_LANGUAGES, language_means
from .prompts import DEFAULT_TEMPLATES
from .reading import HEADLINE, read_text, retrieval_task
from .webdataset import is_webdataset

PICTURES = frozenset(("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"))
"""Endings of picture files."""
ENGLISH = "multilingual/en"
"""Left out of ``multilingual/mean``: what is asked is what other languages get."""
FAMILIES = {"zero_shot": ClassificationTask, "linear_probe": ProbeTask, "multilingual": RetrievalTask}
"""Families of tasks: a task named ``<family>_<rest>`` has the prefix ``<family>/<rest>``; others keep their name."""
FORMS = f"""it must be one of
    captioned pictures: {" or ".join(NAMES)}, a row an image: file_name, and captions in any other columns
    classes: a folder of pictures for each class, named as the class; optionally classnames.txt and templates.txt
    tasks: metadata of the pictures, and tasks/SPLIT/*.json
    webdataset: CLIP_benchmark's layout, test/0.tar, ... and classnames.txt"""

_LANGUAGE = re.compile(r"(?P<stem>.+)(?P<mark>[._])(?P<code>[a-z]{2,3}([-_][A-Za-z]{2,4})?)")


def open_own(path: Path, split: str | None = None) -> Benchmark:
    """A folder of one's own as a benchmark, of whichever of the forms below it has.

    Args:
        path: the folder.
        split: of a folder of tasks (``test`` if None), or of captioned pictures (all rows if None).

    Raises:
        ProclipError: it has none of the forms, or its data are not as they should be.
    """
    if not path.is_dir():
        raise ProclipError(f"no folder {path}")
    if is_webdataset(path):
        return webdataset_classification(path)
    if (path / "tasks").is_dir():
        return tasks_folder(path, split or "test")
    if any((path / name).is_file() for name in NAMES):
        return retrieval_folder(path, split=split)
    if _class_folders(path):
        if split is not None:
            raise ProclipError(f"{path} is a folder of classes, which has no splits: give the folder of that split")
        return class_folder(path)
    inside = [one.name for one in sorted(path.iterdir()) if one.is_dir() and _class_folders(one)]
    hint = f"\n(its folder {some(inside)} is one of classes: name that)" if inside else ""
    raise ProclipError(f"{path} is no benchmark: {FORMS}{hint}")


def _captions(sample: Sample) -> dict[str, tuple[str, ...]]:
    single = {column: (text,) for column, text in sample.captions.items() if text.strip()}
    return single | {c: texts for c, texts in sample.caption_lists.items() if all(text.strip() for text in texts)}


def _is_dull(column: str, captions: Mapping[str, Mapping[str, tuple[str, ...]]]) -> bool:
    """Whether a column says the same of most images, as one with a licence or a source does: no caption."""
    texts = [of_image[column] for of_image in captions.values() if column in of_image]
    return len(texts) > 3 and len(set(texts)) < len(texts) / 2


def language_columns(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Columns that hold one text in several languages: stem to (code to column).

    ``captions.de`` always is such a column; ``name_de`` is one if the code is one of Crossmodal-3600's and there are
    two of its kind or more, since ``image_id`` is not Indonesian.

    Raises:
        ProclipError: after a dot stands no code of a language.
    """
    dotted: dict[str, dict[str, str]] = defaultdict(dict)
    joined: dict[str, dict[str, str]] = defaultdict(dict)
    for column in columns:
        if found := _LANGUAGE.fullmatch(column):
            if found["mark"] == "." and found["code"].split("-")[0].split("_")[0] not in LANGUAGE_CODES:
                raise ProclipError(f"column {column!r}: {found['code']!r} is no code of a language (ISO 639)")
            if found["mark"] == ".":
                dotted[found["stem"]][found["code"]] = column
            elif found["code"] in XM3600_LANGUAGES:
                joined[found["stem"]][found["code"]] = column
    return {**{stem: codes for stem, codes in joined.items() if len(codes) > 1}, **dotted}


def _prefixes(columns: Sequence[str]) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Prefix of each column, and the means: languages become ``STEM/CODE``, or ``CODE`` if there is nothing else."""
    stems = language_columns(columns)
    languages = {column for codes in stems.values() for column in codes.values()}
    alone = len(stems) == 1 and len(languages) == len(columns)
    prefixes = {column: column for column in columns if column not in languages}
    means: dict[str, tuple[str, ...]] = {}
    for stem, codes in stems.items():
        named = {codes[code]: code if alone else f"{stem}/{code}" for code in sorted(codes)}
        prefixes |= named
        means |= language_means(tuple(named.values()))
    if len(columns) == 1 and not stems:
        return {columns[0]: ""}, {}
    return prefixes, means


def retrieval_folder(path: Path, *, split: str | None = None, columns: Sequence[str] | None = None) -> Benchmark:
    """Captioned pictures (docs/data_format.md) as a retrieval benchmark: one task for each caption column.

    Rows whose cell of a column is empty are left out of that column's task.

    Args:
        path: the folder.
        split: only the rows of this split; all if None.
        columns: caption columns; every column that holds texts if None.

    Raises:
        ProclipError: no such folder, split or column, a row that cannot be read, or pictures are missing.
    """
    data = ImageCaptions(path)
    samples = data.samples if split is None else data.select(split)
    captions = {sample.key: _captions(sample) for sample in samples}
    present = list(dict.fromkeys(column for texts in captions.values() for column in texts))
    if absent := [column for column in columns or () if column not in present]:
        raise ProclipError(f"{path}: no captions in column {absent[0]!r}; columns: {', '.join(present)}")
    if not present:
        raise ProclipError(f"{path}: no row has a caption: every column but file_name, key and splits may hold them")
    dull = [] if columns else [column for column in present if _is_dull(column, captions)]
    wanted = list(columns or [column for column in present if column not in dull])
    if not wanted:
        raise ProclipError(f"{path}: no column tells images apart: {', '.join(dull)} say the same of most of them")
    prefixes, means = _prefixes(wanted)
    tasks = {
        prefix: retrieval_task(column, [(key, texts[column]) for key, texts in captions.items() if column in texts])
        for column, prefix in prefixes.items()
    }
    images = SampleImages({sample.key: sample.picture for sample in samples})
    check_pictures(str(path), images, list(captions))
    without = {t.name: len(samples) - len(t.items) for t in tasks.values() if len(t.items) < len(samples)}
    averaged = {part.rpartition("/")[0] for parts in means.values() for part in parts}
    headline = [f"{prefix}/{key}".lstrip("/") for prefix in tasks if prefix not in averaged for key in HEADLINE]
    return Benchmark(
        name=path.resolve().name,
        tasks=tasks,
        images=images,
        protocol="recall@k with all captions of an image; a hit if any right one is among the k nearest",
        headline=(*headline, *(key for key in means if key.endswith(HEADLINE))),
        means=means,
        notes={
            **({"split": split} if split is not None else {}),
            **({"columns_left_out": dull} if dull else {}),
            **({"images_without_caption": without} if without else {}),
        },
    )


def _class_folders(path: Path) -> dict[str, list[Path]]:
    """The pictures of each folder, folders in the order of their names, numbers by their value.

    Nothing if fewer than two folders hold pictures themselves: one class is no choice, and splits hold folders.
    """
    folders = [one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")]
    folders.sort(key=lambda one: (int(one.name) if one.name.isdecimal() else -1, one.name))
    pictures = {
        one.name: sorted(p for p in one.iterdir() if p.suffix[1:].lower() in PICTURES and p.is_file())
        for one in folders
    }
    return pictures if sum(map(bool, pictures.values())) > 1 else {}


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in read_text(path).split("\n") if line.strip())


def _class_names(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """From ``classnames.txt``, or the folders' names with spaces for underscores."""
    listed = path / "classnames.txt"
    if listed.is_file():
        names = _lines(listed)
        if len(names) != len(folders):
            raise ProclipError(f"{listed} has {len(names)} names, there are {len(folders)} class folders")
        return names
    if codes := [name for name in folders if name.isdecimal() or re.fullmatch(r"n\d{8}", name)]:
        raise ProclipError(
            f"{path}: {some(codes)} is no name of a class that a model could read: write classnames.txt, a name a "
            "line, in the order of the folders (numbers by their value)"
        )
    return tuple(name.replace("_", " ") for name in folders)


def class_folder(path: Path) -> Benchmark:
    """Folders of classes as a zero-shot classification benchmark.

    The name of a folder is the name of its class, with spaces for underscores, unless ``classnames.txt`` has the names,
    one a line, in the order of the folders. ``templates.txt`` has prompts, one a line, with ``{}`` or ``{c}`` for the
    name; without it there is one, "a photo of a {}.".

    Raises:
        ProclipError: no class folders, one without pictures, numbers or WordNet ids for names, another number of names
            than folders, or a template without a place for the name.
    """
    folders = _class_folders(path)
    if not folders:
        raise ProclipError(f"{path} does not have two folders of pictures or more, one for each class")
    if empty := [name for name, pictures in folders.items() if not pictures]:
        raise ProclipError(f"{path}: class folders without pictures: {some(empty)}")
    names = _class_names(path, list(folders))
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    listed = path / "templates.txt"
    if listed.is_file():
        templates = tuple(line.replace("{c}", "{}") for line in _lines(listed))
        if not templates or any(template.count("{}") != 1 for template in templates):
            raise ProclipError(f"{listed}: every line must have one {{}} (or {{c}}) where the class name goes")
    keyed = {p.relative_to(path).as_posix(): (p, label) for label, one in enumerate(folders.values()) for p in one}
    task = ClassificationTask(
        name=path.resolve().name,
        items=tuple((key, label) for key, (_, label) in keyed.items()),
        classnames=names,
        templates=templates,
        chance=1 / len(names),
    )
    return Benchmark(
        name=task.name,
        tasks={"": task},
        images=ImageFiles({key: file for key, (file, _) in keyed.items()}),
        protocol=f"zero-shot classification, {len(names)} classes, mean over {len(templates)} prompts a class",
        headline=("acc1", "mean_per_class"),
    )


def task_prefix(task: Task) -> str:
    """Prefix of a task file's figures, such as ``zero_shot/openmoji``, ``multilingual/de`` or ``pairs``."""
    for family, kind in FAMILIES.items():
        if isinstance(task, kind) and task.name.startswith(f"{family}_"):
            return f"{family}/{task.name.removeprefix(f'{family}_')}"
    return task.name


def _headline(prefix: str, task: Task) -> tuple[str, ...]:
    if isinstance(task, ClassificationTask):
        return (f"{prefix}/mean_per_class",)
    if isinstance(task, RetrievalTask):
        return tuple(f"{prefix}/{key}" for key in HEADLINE)
    return (f"{prefix}/acc1",) if isinstance(task, ProbeTask) else (f"{prefix}/mean",)


def _manifest(path: Path) -> Mapping[str, Any]:
    """What ``manifest.json`` says of the benchmark: its name, version and checksum; nothing if there is none."""
    file = path / "manifest.json"
    about = read_json(file).get("benchmark", {}) if file.is_file() else {}
    if not isinstance(about, dict):
        raise ProclipError(f"{file}: 'benchmark' must be an object with name, version and checksum")
    return about


def tasks_folder(path: Path, split: str = "test") -> Benchmark:
    """A folder of tasks, such as the mini world: ``metadata.jsonl``, ``tasks/SPLIT/*.json``, ``manifest.json``.

    ``multilingual/mean`` is over the languages other than English. The split is in the name unless it is ``test``.

    Raises:
        ProclipError: no such folder or split, a task that is not valid, or a picture that is missing.
    """
    data = ImageCaptions(path)
    if not (path / "tasks" / split).is_dir():
        known = sorted(one.name for one in (path / "tasks").glob("*") if one.is_dir())
        raise ProclipError(f"{path}: no tasks of split {split!r}; splits: {', '.join(known)}")
    tasks = {task_prefix(task): task for task in load_tasks(path / "tasks" / split).values()}
    images = SampleImages({sample.key: sample.picture for sample in data.samples})
    check_pictures(str(path), images, image_keys(tasks.values()))
    languages = tuple(p for p in tasks if p.startswith("multilingual/") and p != ENGLISH)
    means = language_means(languages)
    about = _manifest(path)
    name = str(about.get("name", path.resolve().name))
    headline = [key for p, task in tasks.items() if not p.startswith("multilingual/") for key in _headline(p, task)]
    return Benchmark(
        name=name if split == "test" else f"{name}-{split}",
        tasks=tasks,
        images=images,
        protocol=f"every task of tasks/{split}; the mean over languages leaves English out",
        headline=(*headline, *(key for key in means if key.endswith(HEADLINE))),
        means=means,
        notes={**about, "split": split},
    )
