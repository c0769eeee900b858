"""``proclip serve``: a model, perhaps an index of pictures, over HTTP."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Image
from rich.console import Console

from ..config import from_dict, merge_settings
from ..errors import NotHere, ProclipError, one_line
from ..evaluate.dual_encoder import ImageEncoder, label_of
from ..evaluate.open_model import open_model
from ..evaluate.tower_images import TowerImages
from ..models.devices import known_device
from ..models.embedder import Encoded, TextEmbedder
from ..models.embedder_weights import require_packages
from ..models.loading import model_folder, model_kind
from ..models.proclip import ProCLIP
from ..serve import Limits, Texts

if TYPE_CHECKING:
    from ..search import Index

KEY_VARIABLE = "PROCLIP_API_KEY"
SHORTEST_KEY = 16
"""Characters of a key; a shorter one could be guessed."""


@final
class ServedModel:
    """A model as the server takes it: any kind that ``proclip eval`` opens.

    Args:
        name: what clients call it.
        images: the picture side.
        texts: the text side, or why there is none.
        project_text: vectors of the text side into the shared space.
        logit_scale: log of the inverse temperature, if the model has one.
        logit_bias: of a model trained with the sigmoid loss.
    """

    def __init__(
        self,
        name: str,
        images: ImageEncoder,
        texts: TextEmbedder | str,
        project_text: Any,
        logit_scale: float | None,
        logit_bias: float | None,
    ) -> None:
        self.name, self.logit_scale, self.logit_bias = name, logit_scale, logit_bias
        self.images, self._project = images, project_text
        self._texts = None if isinstance(texts, str) else texts
        self.no_texts = texts if isinstance(texts, str) else ""
        from PIL import Image as Pillow

        white = self.prepare_image(Pillow.new("RGB", (64, 64), "white"))
        self.dim = int(self.encode_images([white]).shape[1])

    def prepare_image(self, image: Image) -> Any:
        """One RGB picture to what `encode_images` takes of it."""
        return self.images.prepare(image)

    def encode_images(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Prepared pictures to [n, d], L2-normalised."""
        return np.asarray(F.normalize(self.images.encode(prepared), dim=-1), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Captions and queries."""
        assert self._texts is not None
        return self._projected(self._texts.encode(texts))

    def encode_labels(self, texts: Sequence[str]) -> Texts:
        """Class names in their templates."""
        assert self._texts is not None
        return self._projected(self._texts.for_classes().encode(texts))

    @torch.inference_mode()
    def _projected(self, encoded: Encoded) -> Texts:
        embeds = F.normalize(self._project(encoded.embeds).float(), dim=-1).cpu()
        count = len(embeds)
        cut = encoded.cut.tolist() if encoded.cut is not None else [False] * count
        tokens = encoded.tokens.tolist() if encoded.tokens is not None else [0] * count
        return Texts(np.asarray(embeds, np.float32), tokens, cut)


@dataclass(frozen=True)
class ServedHit:
    """A picture that was found, without the path of its file."""

    id: str
    name: str
    score: float
    thumbnail: Callable[[], bytes]


@final
class ServedIndex:
    """An index of ``proclip index`` as the server takes it."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __len__(self) -> int:
        """How many pictures."""
        return len(self._index)

    def search(self, query_embeds: NDArray[np.float32], k: int) -> list[ServedHit]:
        """The k nearest to a vector, best first."""
        hits = self._index.search_vector(query_embeds, k)
        return [ServedHit(str(hit.id), hit.path.name, hit.score, hit.thumbnail) for hit in hits]

    def vector_of(self, id: str) -> NDArray[np.float32] | None:
        """Of a hit; None where it has left the index."""
        return self._index.vector_of(int(id))


def served_index(index: Index, model: ServedModel) -> ServedIndex:
    """An index of pictures that the model has encoded.

    Raises:
        ProclipError: it was made with another model.
    """
    facts = index.stats
    if dict(facts["identity"] or {}) != dict(model.images.identity):
        raise ProclipError(
            f"the index {index.path} was made with another model than is served, "
            f"{facts['model'] or 'one without a name'}: serve that one, or make an index with this one"
        )
    return ServedIndex(index)


def open_served(name: str, device: str, called: str | None = None) -> ServedModel:
    """Open a model of any kind, and load all of it; one of ours whose LLM is not here serves pictures alone.

    Args:
        name: as of ``proclip eval``.
        device: where it computes.
        called: by clients; the folder's or the hub id's name if None.

    Raises:
        ProclipError: there is no such model, or it cannot be opened.
    """
    called = called or _name(name)
    try:
        model = open_model(name, device)
    except NotHere as error:
        if model_kind(path := model_folder(name)) != "proclip":
            raise
        ours = ProCLIP.from_pretrained(path, device=device)
        images = TowerImages(ours.image_tower, ours.preprocess)
        return ServedModel(called, images, one_line(error), None, None, None)
    served = ServedModel(called, model.images, model.texts, model.project_text, model.logit_scale, model.logit_bias)
    served.encode_texts(["a first text loads the weights"])
    return served


def _name(model: str) -> str:
    """A run's ``model`` folder is called as the run is."""
    folder = Path(model).resolve()
    return folder.parent.name if folder.is_dir() and folder.name == "model" else label_of(model)


def serve_command(arguments: Namespace) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ProclipError: a package, the model, the index, the key or the port is not as it must be; the message says which.
    """
    require_packages(["fastapi", "uvicorn", "prometheus_client"], "proclip serve", "serve")
    from ..search import Index
    from ..serve.app import create_app
    from ..serve.server import bind, bracketed, names_of, run
    from ..serve.service import Service

    limits = from_dict(Limits, merge_settings({}, arguments.settings))
    key = read_key(arguments.api_key_file, os.environ)
    device, names = known_device(arguments.device), names_of(arguments.host)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with ExitStack() as held:
        listener = held.enter_context(bind(arguments.host, arguments.port))
        opened = held.enter_context(Index.open(arguments.index)) if arguments.index is not None else None
        console.print(f"loading {arguments.model} ...")
        encoder = open_served(arguments.model, device, arguments.name)
        index = served_index(opened, encoder) if opened is not None else None
        app = create_app(Service(encoder, limits, index), key, names)

        def ready() -> None:
            port = listener.getsockname()[1]
            pictures = f", {len(index):,} pictures" if index is not None else ", no index of pictures"
            address = f"http://{bracketed(arguments.host)}:{port}/"
            console.print(f"{encoder.name}, {encoder.dim} dimensions{pictures}: {address}")
            if encoder.no_texts:
                console.print(f"pictures only: {encoder.no_texts}")
            if names is None and key is None:
                console.print(f"[yellow]anyone who reaches this machine can use it: set {KEY_VARIABLE}[/yellow]")

        run(app, listener, ready)
    console.print("ended")


def read_key(path: Path | None, environment: Any) -> str | None:
    """The API key, from a file or the environment; None where there is none.

    Raises:
        ProclipError: the file cannot be read, or the key is too short or not one word of ASCII. It is never shown.
    """
    source = str(path) if path is not None else KEY_VARIABLE
    if path is not None:
        try:
            key = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
            raise ProclipError(f"--api-key-file {path} cannot be read: {reason}") from None
    elif (found := environment.get(KEY_VARIABLE)) is None:
        return None
    else:
        key = found
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ProclipError(f"{source}: a key is one word of {SHORTEST_KEY} or more ASCII letters, digits and marks")
    return key
