"""Tiny data sets in the files, fields and quirks of those that authors publish."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

LANGUAGES = [
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it",
    "ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
]  # fmt: skip


def _smallest() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "JPEG")
    return buffer.getvalue()


SMALLEST = _smallest()


def picture(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (number * 37 % 256, 90, 10)).save(path)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")


def coco_name(number: int) -> str:
    return f"COCO_val2014_{number:012d}.jpg"


COCO = {391895: 5, 60623: 6, 483108: 5, 42: 7}
"""Ids, which are not contiguous, and how many captions each has: ragged."""


def coco_captions(number: int) -> list[str]:
    return [
        f"Picture {number}, caption {i}. \n" if i == 1 else f"A picture of {number}, {i}" for i in range(COCO[number])
    ]


def make_coco(root: Path, annotation: str = "coco_karpathy_test.json", pictures: str = "val2014") -> None:
    rows = [{"image": f"val2014/{coco_name(n)}", "caption": coco_captions(n)} for n in COCO]
    write(root / "coco" / annotation, rows)
    for number in COCO:
        picture(root / "coco" / pictures / coco_name(number), number)


def make_coco_of_clip_benchmark(root: Path) -> None:
    annotations = [
        {"image_id": n, "id": 100 * i + k, "caption": text}
        for k, n in enumerate(COCO)
        for i, text in enumerate(coco_captions(n))
    ]
    images = [{"id": n, "file_name": coco_name(n)} for n in COCO]
    annotations.sort(key=lambda row: int(row["id"]))  # captions of one image do not stand together
    write(root / "coco" / "coco_test_karpathy.json", {"images": images, "annotations": annotations})
    for number in COCO:
        picture(root / "coco" / "val2014" / coco_name(number), number)


FLICKR = ("1007129816.jpg", "1009434119.jpg", "101362133.jpg")


def flickr_captions(name: str) -> list[str]:
    return [f'A man, {name[:4]}, wears a "hat" ({i}).' for i in range(5)]


def make_flickr(root: Path, annotation: str = "test.json") -> None:
    rows = [{"image": f"flickr30k-images/{name}", "caption": flickr_captions(name)} for name in FLICKR]
    write(root / "flickr30k" / annotation, rows)
    for number, name in enumerate(FLICKR):
        picture(root / "flickr30k" / "flickr30k-images" / name, number)


def make_flickr_of_clip_benchmark(root: Path) -> None:
    lines = [f"{name},{text}" for name in FLICKR for text in flickr_captions(name)]
    write(root / "flickr30k" / "flickr30k_test_karpathy.txt", "\n".join(["image,caption", *lines, ""]))
    for number, name in enumerate(FLICKR):
        picture(root / "flickr30k" / "Images" / name, number)


def share_row(number: int) -> dict[str, Any]:
    question = {"from": "human", "value": "What do you see happening in this image?\n<image>"}
    answer = {"from": "gpt", "value": f'In the image {number}, there are [two, {{three}}] "things".\nBelow, more.'}
    return {"id": f"sa_{number}", "image": f"sam/images/sa_{number}.jpg", "conversations": [question, answer]}


def make_sharegpt4v(root: Path, rows: int = 1003) -> None:
    name = "share-captioner_coco_lcs_sam_1246k_1107.json"
    write(root / "sharegpt4v" / name, [share_row(n) for n in range(rows)])
    for number in range(min(rows, 1000)):
        path = root / "sharegpt4v" / "sam" / "images" / f"sa_{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SMALLEST)


def make_urban(root: Path, numbers: Sequence[int] = (1, 2, 10)) -> None:
    for n in numbers:
        write(root / "Urban1k" / "caption" / f"{n}.txt", f"The street {n} has a bus.\r\nA second line.\n")
        picture(root / "Urban1k" / "image" / f"{n}.jpg", n)


def make_docci(root: Path) -> None:
    rows = [
        {
            "example_id": f"{split}_{n:05d}", "split": split, "image_file": f"{split}_{n:05d}.jpg",
            "description": f"An indoor view {n}.\u2028It goes on.\nAnd on."[: None if n else 18],
        }
        for split, n in [("train", 0), ("test", 0), ("qual_test", 3), ("test", 2), ("test", 7)]
    ]  # fmt: skip
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write(root / "docci" / "docci_descriptions.jsonlines", text)
    for row in rows:
        if row["split"] == "test":
            picture(root / "docci" / "images" / str(row["image_file"]))


DCI = {
    "train": ["sa_1.json", "sa_20.json"],
    "valid": ["sa_3.json"],
    "test": ["sa_4.json"],
}


def make_dci(root: Path) -> None:
    folder = root / "densely_captioned_images"
    write(folder / "splits.json", DCI)
    extras = {"sa_1": "It is old.\n\nIts door is  shut... Very.", "sa_20": "", "sa_3": "No stop", "sa_4": "v1.5 a"}
    for files in DCI.values():
        for file in files:
            stem = file.removesuffix(".json")
            row = {
                "image": f"{stem}.jpg", "short_caption": f"A house {stem}.", "extra_caption": extras[stem],
                "mask_data": {}, "mask_keys": [], "summaries": {}, "negatives": {},
            }  # fmt: skip
            write(folder / "annotations" / file, row)
            picture(folder / "photos" / f"{stem}.jpg")


def xm_rows() -> list[dict[str, Any]]:
    """Three images; some languages have three captions for the second."""
    rows = []
    for i, key in enumerate(("000411001ff7dd4f", "00e8f6a1ac36c2b0", "aa00ff")):
        row: dict[str, Any] = {"image/key": key, "image/locale": ("quz", "zh", "fil")[i]}
        for code in LANGUAGES:
            texts = [f"{code} {key} {n}" for n in range(3 if i == 1 and code in ("de", "te") else 2)]
            row[code] = {
                "caption": texts, "caption/tokenized": texts, "caption/tokenized/lowercase": texts,
            }  # fmt: skip
        rows.append(row)
    return rows


def make_xm3600(root: Path, rows: list[dict[str, Any]] | None = None) -> None:
    rows = xm_rows() if rows is None else rows
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write(root / "xm3600" / "captions.jsonl", text)
    for row in rows:
        picture(root / "xm3600" / "images" / f"{row['image/key']}.jpg")
