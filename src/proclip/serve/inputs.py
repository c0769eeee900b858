"""The ``input`` of a request: texts, and pictures as data URLs, in the forms that clients send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .faults import Fault, bad
from .limits import Limits

FORMS = 'a text, a list of texts, or a list of {"text": "..."} and {"image": "data:image/png;base64,..."}'


@dataclass(frozen=True)
class Input:
    """A text or a picture, and where in the request it stood."""

    param: str
    text: str | None = None
    image: str | None = None


def read_inputs(value: Any, limits: Limits) -> list[Input]:
    """What ``input`` holds, checked.

    Raises:
        Fault: 400; it names the place, as in ``input.3.image``.
    """
    if isinstance(value, (str, dict)):
        return [_one(value, "input", limits)]
    if not isinstance(value, list):
        raise bad("input", f"{FORMS} is wanted")
    if not value:
        raise bad("input", "the list is empty")
    if isinstance(value[0], (int, float, list)):
        raise bad("input", "token numbers are of another model's tokenizer and mean nothing here: send the text itself")
    if len(value) > limits.inputs:
        raise bad("input", f"{len(value)} inputs, at most {limits.inputs} are taken: send them in several requests")
    return [_one(item, f"input.{place}", limits) for place, item in enumerate(value)]


def _one(item: Any, param: str, limits: Limits) -> Input:
    if isinstance(item, str):
        return Input(param, text=check_text(item, param, limits.text_chars))
    if not isinstance(item, dict):
        raise bad(param, 'a text, {"text": "..."} or {"image": "data:..."} is wanted')
    if len(item) != 1 or (key := next(iter(item))) not in ("text", "image"):
        raise bad(param, 'exactly one of "text" and "image" is wanted')
    if not isinstance(item[key], str):
        raise bad(f"{param}.{key}", "a string is wanted")
    if key == "text":
        return Input(param, text=check_text(item[key], f"{param}.text", limits.text_chars))
    return Input(f"{param}.image", image=item[key])


def check_text(text: str, param: str, most: int) -> str:
    """The text itself, if a model can read it.

    Raises:
        Fault: 400, it is empty, too long, not Unicode, or a picture that was sent as a text.
    """
    if len(text) > most:
        raise bad(param, f"the text has {len(text)} characters, at most {most} are taken")
    if not text.strip():
        raise bad(param, "the text is empty")
    if text[:11].lower() == "data:image/":
        raise bad(param, 'a picture is sent as {"image": "data:image/..."}, not as a text')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise bad(param, "the text holds half of a surrogate pair: it is not Unicode") from None
    return text


def check_texts(texts: Sequence[str], param: str, most: int) -> None:
    """The same for a list: of class names, of templates."""
    for place, text in enumerate(texts):
        check_text(text, f"{param}.{place}", most)


def check_model(asked: str | None, served: str) -> None:
    """Refuse a request for another model than the one that is served: 404."""
    if asked is not None and asked != served:
        raise Fault(404, f"model {asked[:80]!r} is not served here, {served!r} is", "model")
