"""How much one request, and all of them together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import ProclipError

DECODED_PIXELS = 2 * 89_478_485
"""Most that Pillow decodes."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused. ``proclip serve --set NAME=VALUE`` changes one.

    Raises:
        ProclipError: one is not above zero, or two contradict each other.
    """

    body_bytes: int = 16 * 2**20
    """Of a request; more is 413."""
    pixels: int = 40_000_000
    """Of a picture, width times height as its header says: looked at before anything is decoded."""
    aspect: float = 100.0
    """A picture's longer side over its shorter one."""
    text_chars: int = 20_000
    """Of a text. How much of it a model reads is another matter (docs/serve.md)."""
    inputs: int = 256
    """Texts and pictures of a request."""
    labels: int = 1000
    """Classes of a request."""
    label_chars: int = 500
    """Of a class name, and of a template."""
    prompts: int = 2000
    """Classes times templates of a request."""
    k: int = 100
    """Pictures that a search returns."""
    spans: int = 24
    """Parts of a text whose effect is told; longer texts are told in longer parts."""
    requests: int = 256
    """In flight; one more is 429."""
    held_bytes: int = 256 * 2**20
    """Bodies in memory, all requests together; more is 429."""
    queue: int = 2048
    """Texts that wait or are computed; the same again for labels, and for pictures. More is 429."""
    batch: int = 64
    """Inputs that go through the model at once."""
    batch_chars: int = 16_000
    """Characters of them, if they are texts: long ones go in smaller batches."""
    wait: float = 0.004
    """Seconds for which the first input of a batch waits for others while the model has nothing to do."""
    timeout: float = 60.0
    """Seconds after which a request ends: with 429 if it still waited, with 504 if it was being computed."""
    body_timeout: float = 20.0
    """Seconds within which a request's body must have come; later is 408."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0 and field.name != "wait":
                raise ProclipError(f"{field.name} must be above 0, not {getattr(self, field.name)}")
        if self.wait < 0:
            raise ProclipError(f"wait must be 0 or more seconds, not {self.wait}")
        if self.pixels > DECODED_PIXELS:
            raise ProclipError(f"pixels is {self.pixels}, and Pillow decodes {DECODED_PIXELS} at most")
        largest = max(self.inputs, self.prompts, self.spans + 1)
        if self.queue < largest:
            raise ProclipError(f"queue is {self.queue}, a request may have {largest} inputs: it could never be served")
        if self.held_bytes < self.body_bytes:
            raise ProclipError(f"held_bytes is {self.held_bytes}, less than body_bytes, {self.body_bytes}")
