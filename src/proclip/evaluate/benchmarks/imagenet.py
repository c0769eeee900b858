"""ImageNet and its variants as folders of classes, and the names of those classes.

ImageNet, -A, -O, -R and -Sketch name a class folder by its wnid (``n01440764``), ImageNet-V2 by its number (0 to 999,
in ImageNet's order, which is that of the sorted wnids). Only the classes that have a folder compete.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...data.images import ImageFiles
from ...data.tar_members import PICTURES
from ...errors import ProclipError
from ..benchmark import some
from .prompts import CLASSNAMES, IMAGENET_TEMPLATES, TEMPLATES, read_templates, text_lines
from .webdataset import Items

SYNSETS = "LOC_synset_mapping.txt"
"""File of ImageNet's own download on Kaggle: a line a class, ``n01440764 tench, Tinca tinca``."""
CLASSES = 1000
_WNID = re.compile(r"n\d{8}")
_BESIDE = (".", "wds_imagenet1k", "imagenet1k", "imagenet")
"""Where the files of names are looked for in the folder above, after the set's own folder."""


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Pictures in folders of classes."""

    images: ImageFiles
    """By ``PREFIX FOLDER/FILE``."""
    items: Items
    """Their keys and labels."""
    folders: tuple[str, ...]
    """Name of each label's folder."""

    @property
    def numbered(self) -> bool:
        """Whether the folders are named by number, as ImageNet-V2's are."""
        return self.folders[0].isdecimal()


def class_folders(folder: Path, prefix: str = "") -> ClassFolders:
    """Read the class folders of ImageNet or a variant; in a numbered folder's case a label is the folder's number.

    Raises:
        ProclipError: no folders, folders that are named in another way, or folders without pictures.
    """
    inside = folder.iterdir() if folder.is_dir() else ()
    names = sorted(path.name for path in inside if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ProclipError(f"{folder} has no class folders")
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
        label_of = {name: int(name) for name in names}
    elif odd := [name for name in names if not _WNID.fullmatch(name)]:
        raise ProclipError(f"{folder}: class folders must be named by wnid (n01440764) or by number, not {some(odd)}")
    else:
        label_of = {name: label for label, name in enumerate(names)}
    paths = {
        f"{prefix}{name}/{path.name}": path
        for name in names
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower().removeprefix(".") in PICTURES
    }
    items = tuple((key, label_of[path.parent.name]) for key, path in paths.items())
    filled = {label for _, label in items}
    if empty := [name for name in names if label_of[name] not in filled]:
        raise ProclipError(f"{folder}: {len(empty)} of {len(names)} class folders have no pictures: {some(empty)}")
    return ClassFolders(images=ImageFiles(paths), items=items, folders=tuple(names))


def class_names(folder: Path, found: ClassFolders) -> tuple[tuple[str, ...], str]:
    """The name of each label, and where they are from.

    1. ``classnames.txt`` in the set's folder with one line for each class folder, in their sorted order.
    2. A ``classnames.txt`` of 1000 lines in ImageNet's order, in the set's folder or beside it (``wds_imagenet1k``
       brings CLIP's), or open_clip's copy of CLIP's names; wnids are put in order as `_wnids` says.
    3. The first synonym of each line of ``LOC_synset_mapping.txt``.

    Raises:
        ProclipError: none of them can be had (the message says what is missing), or a folder has no name there.
    """
    own = folder / CLASSNAMES
    if own.is_file():
        lines = text_lines(own)
        if found.numbered:
            return _numbered(lines, found, own), CLASSNAMES
        if len(lines) == len(found.folders):
            return tuple(lines), CLASSNAMES
        if len(lines) != CLASSES:
            raise ProclipError(
                f"{own} has {len(lines)} names; wanted one for each of {len(found.folders)} class folders, or all of "
                f"ImageNet's {CLASSES}"
            )
    synsets = _synsets(folder)
    names, source = _thousand_names(folder)
    if names is None and synsets is not None:
        by_wnid = {wnid: synonyms.split(",")[0].strip() for wnid, synonyms in synsets.items()}
        names, source = [by_wnid[wnid] for wnid in sorted(by_wnid)], f"first synonyms of {SYNSETS}"
    if names is None:
        raise ProclipError(
            f"{folder}: the names of ImageNet's classes are missing. Put a {CLASSNAMES} of {CLASSES} lines (as "
            f"wds_imagenet1k has it) or ImageNet's {SYNSETS} there or in the folder above, or install open_clip: "
            "pip install 'proclip-align[open-clip]'"
        )
    if found.numbered:
        return _numbered(names, found, folder), source
    wnids = _wnids(folder, found, synsets)
    name_of = dict(zip(wnids, names, strict=True))
    if unknown := [wnid for wnid in found.folders if wnid not in name_of]:
        raise ProclipError(f"{folder}: {len(unknown)} class folders are not among ImageNet's wnids: {some(unknown)}")
    return tuple(name_of[wnid] for wnid in found.folders), source


def imagenet_templates(folder: Path) -> tuple[str, ...]:
    """The templates of the set's folder or of one beside it, or CLIP's 80."""
    path = _nearest(folder, TEMPLATES)
    return read_templates(path) if path else IMAGENET_TEMPLATES


def _numbered(names: list[str], found: ClassFolders, where: Path) -> tuple[str, ...]:
    if beyond := [name for name in found.folders if int(name) >= len(names)]:
        raise ProclipError(f"{where}: {len(beyond)} folders have no name among {len(names)}: {some(beyond)}")
    return tuple(names)


def _nearest(folder: Path, name: str) -> Path | None:
    return next((place / name for place in _places(folder) if (place / name).is_file()), None)


def _places(folder: Path) -> list[Path]:
    return [folder, *(folder.parent / place for place in _BESIDE)]


def _synsets(folder: Path) -> Mapping[str, str] | None:
    """Wnid to synonyms, of ImageNet's own file."""
    path = _nearest(folder, SYNSETS)
    if path is None:
        return None
    lines = text_lines(path)
    if odd := [line for line in lines if not re.fullmatch(r"n\d{8} \S.*", line)]:
        raise ProclipError(f"{path}: a line must be a wnid and names, not {some(odd)}")
    if len(lines) != CLASSES:
        raise ProclipError(f"{path} must have {CLASSES} lines, not {len(lines)}")
    return {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines}


def _thousand_names(folder: Path) -> tuple[list[str] | None, str]:
    """CLIP's names in ImageNet's order, and where they are from."""
    for path in (place / CLASSNAMES for place in _places(folder)):
        if path.is_file() and len(names := text_lines(path)) == CLASSES:
            return names, f"{CLASSNAMES} of {CLASSES} names"
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision that does not fit torch
        return None, ""
    return list(IMAGENET_CLASSNAMES), "open_clip's IMAGENET_CLASSNAMES"


def _wnids(folder: Path, found: ClassFolders, synsets: Mapping[str, str] | None) -> list[str]:
    """ImageNet's 1000 wnids, sorted: of the set itself, ImageNet's file, class folders of ImageNet, or timm."""
    if len(found.folders) == CLASSES:
        return list(found.folders)
    if synsets is not None:
        return sorted(synsets)
    for place in ("imagenet1k", "imagenet", "imagenet_sketch", "sketch"):
        for split in ("val", "train", "."):
            whole = folder.parent / place / split
            wnids = sorted(p.name for p in whole.iterdir() if _WNID.fullmatch(p.name)) if whole.is_dir() else []
            if len(wnids) == CLASSES:
                return wnids
    try:
        from timm.data import ImageNetInfo
    except (ImportError, RuntimeError):
        raise ProclipError(
            f"{folder}: ImageNet's {CLASSES} wnids are missing, which say whose name each class folder has. Put "
            f"ImageNet's {SYNSETS} there or in the folder above, or ImageNet's class folders into "
            f"{folder.parent / 'imagenet1k' / 'val'}, or install timm: pip install 'proclip-align[open-clip]'"
        ) from None
    return sorted(ImageNetInfo("imagenet-1k").label_names())
