"""Image-text retrieval sets, in the files that their authors publish. docs/evaluation.md says where those come from.

Captions are taken as they are written, line breaks included, but where a docstring says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...data.images import ImageSource
from ...errors import ProclipError
from ..benchmark import Benchmark, Entry, some
from .reading import (
    HEADLINE,
    find_pictures,
    first_file,
    first_items,
    json_lines,
    json_value,
    read_text,
    retrieval_task,
    text_field,
    texts_field,
)

Items = list[tuple[str, tuple[str, ...]]]
SHAREGPT4V = "share-captioner_coco_lcs_sam_1246k_1107.json"
SHAREGPT4V_COUNT = 1000
"""Its benchmark is the first 1,000 captions of the file."""
COCO_PLACES = ("val2014", "images", "images/val2014")
FLICKR_PLACES = ("flickr30k-images", "flickr30k_images", "images", "Images")

_MANY = "recall@k with all captions of an image; a hit if any right one is among the k nearest"
_ONE = "recall@k, one caption an image"


def _benchmark(name: str, items: Items, images: ImageSource, protocol: str) -> Benchmark:
    return Benchmark(
        name=name, tasks={"": retrieval_task(name, items)}, images=images, protocol=protocol, headline=HEADLINE
    )


def _file_name(path: str) -> str:
    return PurePosixPath(path).name


def _list_of(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ProclipError(f"{where} must be a list of JSON objects")
    return value


def _image_and_captions(path: Path) -> Items:
    """``[{"image": path, "caption": [text, ...]}, ...]`` as BLIP and LLM2CLIP use it; file names and captions."""
    rows = _list_of(json_value(path), f"{path}")
    return [
        (text_field(row, "image", f"{path}[{i}]"), texts_field(row, "caption", f"{path}[{i}]"))
        for i, row in enumerate(rows)
    ]


def _coco_captions(path: Path) -> Items:
    """COCO's own format (``images``, ``annotations``), as CLIP_benchmark's Karpathy file has it."""
    values = json_value(path)
    if not isinstance(values, dict):
        raise ProclipError(f"{path} must hold a JSON object with 'images' and 'annotations'")
    names: dict[Any, str] = {}
    for i, image in enumerate(_list_of(values.get("images"), f"{path}: images")):
        names[image.get("id")] = text_field(image, "file_name", f"{path}: images[{i}]")
    captions: dict[Any, list[str]] = {number: [] for number in names}
    unknown = []
    for i, row in enumerate(_list_of(values.get("annotations"), f"{path}: annotations")):
        text = text_field(row, "caption", f"{path}: annotations[{i}]")
        if row.get("image_id") in captions:
            captions[row["image_id"]].append(text)
        else:
            unknown.append(str(row.get("image_id")))
    if unknown:
        raise ProclipError(f"{path}: captions do not match the images; not among them: {some(unknown)}")
    if bare := [names[number] for number, texts in captions.items() if not texts]:
        raise ProclipError(f"{path}: images without a caption: {some(bare)}")
    return [(names[number], tuple(texts)) for number, texts in captions.items()]


def _flickr_lines(path: Path) -> Items:
    """CLIP_benchmark's ``flickr30k_test_karpathy.txt``: a heading, then ``NAME.jpg,caption`` a line.

    The caption is all that follows the first ``.jpg,``, commas and quotes included.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).split("\n")[1:], 2):
        if line.strip():
            name, comma, caption = line.strip().partition(".jpg,")
            if not comma or not caption.strip():
                raise ProclipError(f"{path}, line {number}: must be NAME.jpg,caption")
            captions.setdefault(f"{name}.jpg", []).append(caption)
    return [(name, tuple(texts)) for name, texts in captions.items()]


def _short(name: str, items: Items, folder: Path, places: Sequence[str]) -> Benchmark:
    """Sets that exist in several layouts: keys are file names without folders, so that all layouts give the same."""
    images = find_pictures(folder, {_file_name(path): path for path, _ in items}, places)
    return _benchmark(name, [(_file_name(path), captions) for path, captions in items], images, _MANY)


def flickr30k(folder: Path) -> Benchmark:
    """Flickr30k, Karpathy's test split: 1,000 images with 5 captions each."""
    names = ("flickr30k_test.json", "test.json", "annotations/flickr30k_test.json", "annotations/test.json")
    path = first_file(folder, *names, "flickr30k_test_karpathy.txt")
    items = _flickr_lines(path) if path.suffix == ".txt" else _image_and_captions(path)
    return _short("flickr30k", items, folder, FLICKR_PLACES)


def coco(folder: Path) -> Benchmark:
    """COCO, Karpathy's test split: 5,000 images with 5 captions or more, all of which count."""
    published = ("coco_karpathy_test.json", "annotations/coco_karpathy_test.json")
    own_format = ("coco_test_karpathy.json", "annotations/coco_test_karpathy.json")
    path = first_file(folder, *published, *own_format)
    items = _coco_captions(path) if path.name == "coco_test_karpathy.json" else _image_and_captions(path)
    return _short("coco", items, folder, COCO_PLACES)


def sharegpt4v(folder: Path) -> Benchmark:
    """ShareGPT4V-1k (Long-CLIP): the first 1,000 captions of ShareGPT4V's captioner."""
    path = first_file(folder, SHAREGPT4V, f"annotations/{SHAREGPT4V}", f"data/{SHAREGPT4V}")
    items: Items = []
    for i, row in enumerate(first_items(path, SHAREGPT4V_COUNT)):
        where = f"{path}[{i}]"
        name = text_field(row, "image", where)
        turns = row.get("conversations")
        if not isinstance(turns, list) or len(turns) < 2:
            raise ProclipError(f"{where}: 'conversations' must hold a question and the caption that answers it")
        items.append((name, (text_field(turns[1], "value", f"{where}: conversations[1]"),)))
    images = find_pictures(folder, {name: name for name, _ in items}, ("data",))
    return _benchmark("sharegpt4v-1k", items, images, f"{_ONE}: ShareGPT4V's first 1,000, line breaks kept")


def urban1k(folder: Path) -> Benchmark:
    """Urban-1k (Long-CLIP): ``caption/I.txt`` and ``image/I.jpg``; of a caption file only the first line."""
    files = sorted((folder / "caption").glob("*.txt"), key=lambda path: (len(path.stem), path.stem))
    if not files:
        raise ProclipError(f"{folder}: the captions are missing: caption/*.txt")
    items: Items = []
    for path in files:
        line = read_text(path).split("\n")[0].rstrip("\r")
        if not line.strip():
            raise ProclipError(f"{path}: the first line must hold the caption")
        items.append((path.stem, (line,)))
    known = {path.stem for path in files}
    if bare := sorted(path.stem for path in (folder / "image").glob("*.jpg") if path.stem not in known):
        raise ProclipError(f"{folder}: pictures in image/ have no caption: {some(bare)}")
    images = find_pictures(folder, {key: f"image/{key}.jpg" for key, _ in items}, ())
    return _benchmark("urban-1k", items, images, f"{_ONE}: the first line of its file")


def docci(folder: Path) -> Benchmark:
    """DOCCI: descriptions of the split ``test``."""
    path = first_file(folder, "docci_descriptions.jsonlines", "annotations/docci_descriptions.jsonlines")
    items: Items = []
    names: dict[str, str] = {}
    for i, row in enumerate(json_lines(path)):
        where = f"{path}, entry {i}"
        if text_field(row, "split", where) == "test":
            key = text_field(row, "example_id", where)
            names[key] = text_field(row, "image_file", where)
            items.append((key, (text_field(row, "description", where),)))
    images = find_pictures(folder, names, ("images",))
    return _benchmark("docci", items, images, f"{_ONE}: DOCCI's split test, line breaks kept")


def joined_sentences(short: str, extra: str) -> str:
    """DCI's caption as FLAME evaluates it: both texts cut at line breaks and full stops, joined by ``". "``."""
    parts = (part.strip() for part in re.split(r"\n|</s>|\.", f"{short}\n{extra}"))
    return ". ".join(part for part in parts if part)


def dci(folder: Path) -> Benchmark:
    """Densely Captioned Images, all splits: short and extra caption as one text (`joined_sentences`)."""
    splits = json_value(folder / "splits.json")
    if not isinstance(splits, dict) or not all(isinstance(files, list) for files in splits.values()):
        raise ProclipError(f"{folder / 'splits.json'} must hold lists of annotation files by split")
    annotations = folder / ("annotations" if (folder / "annotations").is_dir() else "complete")
    files = [str(file) for names in splits.values() for file in names]
    if absent := [file for file in files if not (annotations / file).is_file()]:
        raise ProclipError(f"{folder}: splits.json names files that {annotations.name}/ lacks: {some(absent)}")
    items: Items = []
    names: dict[str, str] = {}
    for file in files:
        path = annotations / file
        row = json_value(path)
        name = text_field(row, "image", f"{path}")
        extra = row.get("extra_caption")
        if not isinstance(extra, str):
            raise ProclipError(f"{path}: 'extra_caption' must be a text, which may be empty")
        key = file.removesuffix(".json")
        names[key] = name
        items.append((key, (joined_sentences(text_field(row, "short_caption", f"{path}"), extra),)))
    return _benchmark(
        "dci", items, find_pictures(folder, names, ("photos",)), f"{_ONE}: short and extra caption, joined"
    )


def _entry(
    name: str, folder: str, load: Callable[[Path], Benchmark], layout: str, expected: Mapping[str, int]
) -> Entry:
    return Entry(name=name, folder=folder, load=load, layout=layout, expected=expected)


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _entry(
            "flickr30k", "flickr30k", flickr30k,
            "flickr30k_test.json (or flickr30k_test_karpathy.txt) and flickr30k-images/",
            {"images": 1000, "texts": 5000},
        ),
        _entry(
            "coco", "coco", coco,
            "coco_karpathy_test.json (or coco_test_karpathy.json) and val2014/",
            {"images": 5000, "texts": 25010},
        ),
        _entry(
            "sharegpt4v-1k", "sharegpt4v", sharegpt4v,
            f"{SHAREGPT4V} and the pictures under the paths that it names (sam/images/...)",
            {"images": 1000, "texts": 1000},
        ),
        _entry(
            "urban-1k", "Urban1k", urban1k, "caption/1.txt, image/1.jpg and so on to 1000",
            {"images": 1000, "texts": 1000},
        ),
        _entry("docci", "docci", docci, "docci_descriptions.jsonlines and images/", {"images": 5000, "texts": 5000}),
        _entry(
            "dci", "densely_captioned_images", dci, "splits.json, annotations/*.json and photos/",
            {"images": 7805, "texts": 7805},
        ),
    )
}  # fmt: skip
"""Entries of the catalogue, by name."""
PAPER = tuple(ENTRIES)
"""Those that the paper measures on."""
