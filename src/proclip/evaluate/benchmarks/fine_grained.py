"""Fine detail: MMVP-VLM, SugarCrepe, and sets of Winoground's form, as their authors publish them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...data.hub import load_hub_dataset
from ...data.images import DatasetImages, ImageFiles, ImageSource
from ...errors import ProclipError
from ...files import read_json
from ..benchmark import Benchmark, Entry, check_pictures, some
from ..tasks import HardNegativeItem, HardNegativesTask, PairItem, PairsTask, WinogroundTask

MMVP_IMAGES = ("MMVP_VLM_Images", "MLLM_VLM Images", "MLLM_VLM_Images")
"""Names of the image folder: the data card's, the script's, and both in one."""
MMVP_PREFIX = "a photo of "
MMVP_PAIRS, MMVP_BLOCK = 135, 15
"""Pairs in all, and pairs of a pattern, which lie one after another."""
MMVP_CHANCE = 1 / 4

SUGARCREPE_COUNTS = {
    "add_att": 692,
    "add_obj": 2062,
    "replace_att": 788,
    "replace_obj": 1652,
    "replace_rel": 1406,
    "swap_att": 666,
    "swap_obj": 245,
}
"""Items of each file of SugarCrepe's repository (the paper prints 246 for swap_obj)."""
SUGARCREPE_CHANCE = 1 / 2

WINOGROUND_ITEMS = 400


def mmvp(folder: Path) -> Benchmark:
    """MMVP-VLM: ``Questions.csv`` (id, type, statement; rows in pairs) and ``IMAGES/TYPE/ID.jpg``.

    Raises:
        ProclipError: a file or pictures are missing, a row is not as it should be, or two rows are not a pair.
    """
    path = folder / "Questions.csv"
    rows = _question_rows(path)
    images_dir = next((folder / name for name in MMVP_IMAGES if (folder / name).is_dir()), None)
    if images_dir is None:
        raise ProclipError(f"{folder} has no folder of pictures; it is called {' or '.join(MMVP_IMAGES)}")
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    if odd := [f"{a[0]} and {b[0]}" for a, b in pairs if a[1] != b[1] or a[0] % 2 != 1 or b[0] != a[0] + 1]:
        raise ProclipError(
            f"{path}: rows must come in pairs of one type, an odd id and the next; {len(odd)} of {len(pairs)} pairs "
            f"do not: {some(odd)}"
        )
    items = tuple(
        PairItem(
            pattern=first[1],
            keys=(f"{first[1]}/{first[0]}", f"{second[1]}/{second[0]}"),
            captions=(MMVP_PREFIX + first[2], MMVP_PREFIX + second[2]),
        )
        for first, second in pairs
    )
    images = ImageFiles({f"{kind}/{number}": images_dir / kind / f"{number}.jpg" for number, kind, _ in rows})
    check_pictures(str(images_dir), images, list(images.paths))
    outside = _outside_their_block([item.pattern for item in items])
    notes: dict[str, object] = {"pairs": len(items), "images_folder": images_dir.name}
    if outside:
        notes["pairs_outside_their_block"] = outside
    return Benchmark(
        name="mmvp_vlm",
        tasks={"": PairsTask(name="mmvp_vlm", items=items, chance=MMVP_CHANCE, compare="images")},
        images=images,
        protocol="each statement, prefixed 'a photo of', chooses between the two images of its pair (the published "
        "script); a pair counts when both choose their own; share of pairs by pattern (the type column) and mean of "
        "patterns. Papers also describe it as each image choosing between the two statements",
        headline=("mean",),
        complete=len(items) == MMVP_PAIRS and not outside,
        notes=notes,
    )


def _question_rows(path: Path) -> list[tuple[int, str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise ProclipError(f"{path} is missing") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ProclipError(f"{path} is not a CSV file in UTF-8: {error}") from None
    found, wrong = [], []
    for number, row in enumerate(rows[1:], 2):
        cells = [cell.strip() for cell in row]
        if len(cells) == 3 and all(cells) and cells[0].isdecimal():
            found.append((int(cells[0]), cells[1], cells[2]))
        else:
            wrong.append(f"row {number}: {','.join(row)[:60]}")
    if wrong:
        raise ProclipError(
            f"{path}: a row must be a number, a type and a statement; {len(wrong)} are not: {some(wrong)}"
        )
    if repeated := [str(one) for one, count in Counter(row[0] for row in found).items() if count > 1]:
        raise ProclipError(f"{path}: ids that are there more than once: {some(repeated)}")
    if not found or len(found) % 2:
        raise ProclipError(f"{path} must have rows in pairs, not {len(found)} below its header")
    return found


def _outside_their_block(patterns: Sequence[str]) -> int:
    """Pairs of the whole set whose type is not that of their block of 15, by which the published script counts."""
    if len(patterns) != MMVP_PAIRS:
        return 0
    blocks = [patterns[start : start + MMVP_BLOCK] for start in range(0, MMVP_PAIRS, MMVP_BLOCK)]
    return sum(len(block) - Counter(block).most_common(1)[0][1] for block in blocks)


def sugarcrepe(folder: Path) -> Benchmark:
    """SugarCrepe: seven files of id to filename, caption and negative_caption, and COCO's ``val2017`` pictures.

    The files lie in the folder or in its ``data/``, the pictures in ``val2017/`` there, or in ``coco/val2017/`` beside.

    Raises:
        ProclipError: a file or pictures are missing, or an entry is not as it should be.
    """
    found = [
        place for place in (folder, folder / "data") if any((place / f"{k}.json").is_file() for k in SUGARCREPE_COUNTS)
    ]
    texts = found[0] if found else folder
    if absent := [f"{kind}.json" for kind in SUGARCREPE_COUNTS if not (texts / f"{kind}.json").is_file()]:
        raise ProclipError(f"{texts} lacks {len(absent)} of SugarCrepe's 7 files: {', '.join(absent)}")
    places = [folder / "val2017", texts / "val2017", folder.parent / "coco" / "val2017", folder.parent / "val2017"]
    pictures = next((place for place in places if place.is_dir()), None)
    if pictures is None:
        raise ProclipError(f"{folder}: COCO's val2017 pictures are at none of {', '.join(map(str, places))}")
    items = [item for kind in SUGARCREPE_COUNTS for item in _sugarcrepe_items(kind, texts / f"{kind}.json")]
    images = ImageFiles({item.key: pictures / item.key for item in items})
    check_pictures(str(pictures), images, list(images.paths))
    counts = dict(Counter(item.kind for item in items))
    means = {
        change: tuple(kind for kind in SUGARCREPE_COUNTS if kind.startswith(f"{change}_"))
        for change in ("add", "replace", "swap")
    }
    return Benchmark(
        name="sugarcrepe",
        tasks={"": HardNegativesTask(name="sugarcrepe", items=tuple(items), chance=SUGARCREPE_CHANCE)},
        images=images,
        protocol="share of images that score their caption strictly above its hard negative, by kind; mean over the 7 "
        "kinds, and over the kinds of add, replace and swap",
        headline=("add", "replace", "swap"),
        means=means,
        complete=counts == SUGARCREPE_COUNTS,
        notes={"items": counts},
    )


def _sugarcrepe_items(kind: str, path: Path) -> list[HardNegativeItem]:
    entries = read_json(path)
    if not entries:
        raise ProclipError(f"{path} has no entries")
    fields = ("filename", "caption", "negative_caption")
    _all(path, entries, lambda e: isinstance(e, dict) and all(_is_text(e.get(f)) for f in fields), f"texts {fields}")
    _all(path, entries, lambda e: e["caption"] != e["negative_caption"], "a negative_caption other than the caption")
    return [
        HardNegativeItem(kind=kind, key=entry["filename"], caption=entry["caption"], negative=entry["negative_caption"])
        for entry in entries.values()
    ]


def winoground(folder: Path) -> Benchmark:
    """A set of Winoground's form: two images and two captions of the same words an example.

    Either ``examples.jsonl`` (id, image_0, image_1, caption_0, caption_1, and tag) with ``images/``, in which the
    names may go without their ``.png``, both in the folder or in its ``data/``; or parquet files with the pictures as
    columns, as the hub's ``facebook/winoground`` has them (split ``test``). Figures are also given by
    ``collapsed_tag``, or by ``tag`` where there is none.

    Raises:
        ProclipError: no examples, a field or pictures are missing, or an image or a caption stands twice in an example.
    """
    place = next((p for p in (folder, folder / "data") if (p / "examples.jsonl").is_file()), None)
    if place is not None:
        return _winoground_files(folder.name, place)
    if not list(folder.rglob("*.parquet")):
        raise ProclipError(f"{folder} has neither examples.jsonl with images/ nor parquet files of the hub")
    return winoground_dataset(str(folder), folder.name)


def winoground_dataset(identifier: str, name: str, split: str = "test") -> Benchmark:
    """The same from a data set of the hub, or a folder of its parquet files, with columns of pictures.

    Raises:
        ProclipError: as `winoground`, or the data set cannot be had.
    """
    dataset = load_hub_dataset(identifier, split)
    columns = ("image_0", "image_1")
    if absent := [c for c in (*columns, "caption_0", "caption_1") if c not in dataset.column_names]:
        raise ProclipError(f"{identifier} lacks the columns {', '.join(absent)}")
    rows = {str(row): entry for row, entry in enumerate(dataset.remove_columns(list(columns)))}
    rows = {row: {**entry, **{c: f"{c}/{row}" for c in columns}} for row, entry in rows.items()}
    return _winoground(name, identifier, rows, lambda keys: DatasetImages(dataset, columns))


def _winoground_files(name: str, place: Path) -> Benchmark:
    path = place / "examples.jsonl"
    rows: dict[str, dict[str, Any]] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
            if line.strip():
                entry = json.loads(line)
                rows[f"line {number}"] = entry if isinstance(entry, dict) else {}
    except ValueError as error:
        raise ProclipError(f"{path} is not JSON lines in UTF-8: {error}") from None

    def pictures(keys: Sequence[str]) -> ImageSource:
        if not (place / "images").is_dir() and (place / "images.zip").is_file():
            raise ProclipError(
                f"{place / 'images.zip'} must be unpacked, so that its pictures lie in {place / 'images'}"
            )
        return ImageFiles({key: place / "images" / (key if Path(key).suffix else f"{key}.png") for key in keys})

    return _winoground(name, str(path), rows, pictures)


def _winoground(
    name: str, where: str, rows: dict[str, dict[str, Any]], pictures: Callable[[Sequence[str]], ImageSource]
) -> Benchmark:
    if not rows:
        raise ProclipError(f"{where} has no examples")
    fields = ("image_0", "image_1", "caption_0", "caption_1")
    _all(where, rows, lambda e: all(_is_text(e.get(f)) for f in fields), f"texts {fields}")
    _all(where, rows, lambda e: e["image_0"] != e["image_1"], "two different images")
    _all(where, rows, lambda e: e["caption_0"] != e["caption_1"], "two different captions")
    items = tuple(
        PairItem(
            pattern=str(entry.get("collapsed_tag") or entry.get("tag") or "untagged"),
            keys=(entry["image_0"], entry["image_1"]),
            captions=(entry["caption_0"], entry["caption_1"]),
        )
        for entry in rows.values()
    )
    keys = list(dict.fromkeys(key for item in items for key in item.keys))
    images = pictures(keys)
    check_pictures(where, images, keys)
    return Benchmark(
        name=name,
        tasks={"": WinogroundTask(name=name, items=items)},
        images=images,
        protocol="text: both images score their own caption strictly above the other; image: both captions score "
        "their own image above the other; group: both",
        headline=("text", "image", "group"),
        complete=name != "winoground" or len(items) == WINOGROUND_ITEMS,
        notes={"examples": len(items)},
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _all(where: Path | str, entries: dict[str, Any], good: Callable[[Any], bool], wanted: str) -> None:
    if wrong := [one for one, entry in entries.items() if not good(entry)]:
        raise ProclipError(f"{where}: {len(wrong)} of {len(entries)} entries lack {wanted}: {some(wrong)}")


ENTRIES: dict[str, Entry] = {
    "mmvp_vlm": Entry(
        name="mmvp_vlm",
        folder="MMVP_VLM",
        load=mmvp,
        layout="Questions.csv and MMVP_VLM_Images/TYPE/ID.jpg",
        expected={"images": 2 * MMVP_PAIRS, "texts": 2 * MMVP_PAIRS},
    ),
    "sugarcrepe": Entry(
        name="sugarcrepe",
        folder="sugarcrepe",
        load=sugarcrepe,
        layout="add_att.json, ... (7 files) and val2017/, or coco/val2017/ beside",
        expected={"texts": 2 * sum(SUGARCREPE_COUNTS.values())},
    ),
    "winoground": Entry(
        name="winoground",
        folder="winoground",
        load=winoground,
        layout="examples.jsonl and images/, or the hub's data/test-*.parquet",
        expected={"images": 2 * WINOGROUND_ITEMS, "texts": 2 * WINOGROUND_ITEMS},
    ),
}
"""Fine-grained benchmarks."""
