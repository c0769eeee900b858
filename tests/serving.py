"""A small model and a small index behind a real server on a free port."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
uvicorn = pytest.importorskip("uvicorn")

from proclip.serve import Limits, Texts  # noqa: E402
from proclip.serve.app import create_app  # noqa: E402
from proclip.serve.server import bind  # noqa: E402
from proclip.serve.service import Service  # noqa: E402

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220)}


def png(colour: str | tuple[int, int, int] = "red", size: tuple[int, int] = (32, 24), kind: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    stream = BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


def data_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def unit(values: Any) -> np.ndarray:
    values = np.asarray(values, np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@dataclass
class FakeEncoder:
    """Colours are the first three dimensions of the space; a text's other words are noise from their hash."""

    name: str = "fake"
    dim: int = 8
    no_texts: str = ""
    logit_scale: float | None = 3.0
    logit_bias: float | None = None
    batches: list[tuple[str, int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    before: Callable[[str, Sequence[Any]], None] = lambda kind, items: None

    def prepare_image(self, image: Image.Image) -> Any:
        assert image.mode == "RGB"
        return np.asarray(image, np.float32).mean(axis=(0, 1)) / 255

    def encode_images(self, prepared: Sequence[Any]) -> np.ndarray:
        self._note("image", prepared)
        return unit([[*colour, 0.1, 0, 0, 0, 0] for colour in prepared])

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        self._note("text", texts)
        return Texts(
            unit([text_vector(text) for text in texts]), [len(t.split()) for t in texts], [len(t) > 200 for t in texts]
        )

    def encode_labels(self, texts: Sequence[str]) -> Texts:
        self._note("label", texts)
        return Texts(unit([text_vector(text) for text in texts]), [1] * len(texts), [False] * len(texts))

    def _note(self, kind: str, items: Sequence[Any]) -> None:
        self.threads.add(threading.current_thread().name)
        self.before(kind, items)
        self.batches.append((kind, len(items)))


def text_vector(text: str) -> np.ndarray:
    vector = np.zeros(8, np.float32)
    for word in text.lower().replace(",", " ").split():
        if word in COLOURS:
            vector[:3] += 3 * np.asarray(COLOURS[word], np.float32) / 255
        else:
            digest = hashlib.sha256(word.encode()).digest()
            vector[3:] += np.frombuffer(digest[:5], np.uint8) / 255 - 0.5
    return vector + 1e-3


@dataclass(frozen=True)
class FakeHit:
    id: str
    name: str
    score: float
    content: bytes = b""

    def thumbnail(self) -> bytes:
        assert threading.current_thread().name.startswith("decode")
        if not self.content:
            raise OSError("/secret/place/gone.png")
        return self.content


class FakeIndex:
    """One picture of each colour, under ids and names that are paths of the host."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.pictures = {name: png(colour) for name, colour in COLOURS.items()}
        self.embeds = unit([[*np.asarray(colour) / 255, 0.1, 0, 0, 0, 0] for colour in COLOURS.values()])

    def __len__(self) -> int:
        assert threading.current_thread().name.startswith("index")
        return len(self.pictures)

    def search(self, query_embeds: np.ndarray, k: int) -> list[FakeHit]:
        self.threads.add(threading.current_thread().name)
        assert len(self.threads) == 1
        assert abs(np.linalg.norm(query_embeds) - 1) < 1e-5
        scores = self.embeds @ query_embeds
        names = list(self.pictures)
        return [
            FakeHit(
                f"/secret/{names[n]}.png", f"/secret/place/{names[n]}.png", float(scores[n]), self.pictures[names[n]]
            )
            for n in np.argsort(-scores)[:k]
        ]

    def vector_of(self, id: str) -> np.ndarray | None:
        assert self.threads == {threading.current_thread().name}
        name = id.removeprefix("/secret/").removesuffix(".png")
        return self.embeds[list(self.pictures).index(name)] if name in self.pictures else None


@dataclass
class Client:
    """A running server, and how to ask it."""

    port: int
    service: Service
    encoder: FakeEncoder

    def send(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (read as JSON where it is), headers with names in lower case."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            read = response.read()
            found = {name.lower(): value for name, value in response.getheaders()}
            is_json = found.get("content-type", "").startswith("application/json")
            return response.status, json.loads(read) if is_json else read, found
        finally:
            connection.close()

    def post(self, path: str, values: Any, **headers: str) -> tuple[int, Any]:
        sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        status, answer, _ = self.send("POST", path, json.dumps(values), sent)
        return status, answer

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self.send("GET", path, headers=headers)[:2]


@contextmanager
def running(
    encoder: FakeEncoder | None = None,
    limits: Limits | None = None,
    index: Any = True,
    **options: Any,
) -> Iterator[Client]:
    """A server in a thread of its own, on a free port."""
    encoder = encoder or FakeEncoder()
    service = Service(encoder, limits or Limits(), FakeIndex() if index is True else index)
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(service, **options), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < until:
        time.sleep(0.005)
    assert server.started
    try:
        yield Client(listener.getsockname()[1], service, encoder)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()
