"""Class names and prompt templates: as files, and where a set brings none."""

from __future__ import annotations

from pathlib import Path

from ...errors import ProclipError
from ..benchmark import some

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"

DEFAULT_TEMPLATES = ("a photo of a {}.",)
"""For sets that bring no templates, CLIP's plain prompt."""


def _imagenet_templates() -> tuple[str, ...]:
    kinds = ["bad", "good", "low resolution", "cropped", "bright", "dark", "close-up", "black and white", "pixelated"]
    looks = ["hard to see", "clean", "dirty", "nice", "weird", "cool", "small", "large"]
    works = ["sculpture", "rendering", "tattoo", "drawing", "painting", "doodle", "sketch", "rendition"]
    ways = ["embroidered", "plastic", "origami", "toy", "cartoon", "plushie"]
    both = [
        *(f"a {kind} photo of {{}}" for kind in (*kinds, "jpeg corrupted", "blurry")),
        *(f"a {work} of {{}}" for work in works),
        *("graffiti of {}", "art of {}", "itap of {}", "a photo of {}", "{} in a video game"),
    ]
    named = [text.format(f"{article} {{}}") for text in both for article in ("a", "the")]
    named += [f"a photo of {article} {look} {{}}" for look in looks for article in ("a", "the")]
    named += [f"{article} {way} {{}}" for way in ways for article in ("a", "the")]
    named += ["a photo of many {}", "a photo of my {}", "a photo of one {}", "itap of my {}"]
    return tuple(f"{text}." for text in named)


IMAGENET_TEMPLATES = _imagenet_templates()
"""CLIP's 80 templates of ImageNet, in an order of their own: the mean over them has none."""


def text_lines(path: Path) -> list[str]:
    """The lines of a text file, without surrounding blanks; empty ones are left out.

    Raises:
        ProclipError: the file is missing, is not UTF-8, or has no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ProclipError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise ProclipError(f"{path} is not UTF-8: {error}") from None
    lines = [line.strip() for line in text.split("\n") if line.strip()]  # not splitlines: U+2028 ends no name
    if not lines:
        raise ProclipError(f"{path} is empty")
    return lines


def read_templates(path: Path) -> tuple[str, ...]:
    """Templates of a file, one a line, with ``{c}`` or ``{}`` for the class name; ``{}`` as returned.

    Raises:
        ProclipError: as `text_lines`, or a line has no place for the class name.
    """
    templates = [line.replace("{c}", "{}") for line in text_lines(path)]
    if without := [template for template in templates if "{}" not in template]:
        raise ProclipError(f"{path}: a template must hold {{c}} where the class name goes: {some(without)}")
    return tuple(templates)
