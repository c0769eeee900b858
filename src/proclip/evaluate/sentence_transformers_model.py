"""Models of sentence-transformers that encode pictures and texts, as models under evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from PIL.Image import Image
from torch import Tensor

from ..config import EmbedderConfig
from ..errors import ProclipError
from ..models.embedder import Encoded
from ..models.embedder_source import identity_of, locate
from ..models.sentence_transformers_embedder import load_sentence_transformer
from ..models.tower_identity import weights_digest
from .dual_encoder import DualEncoder, label_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXT_BATCH = 64


def open_sentence_transformer(name: str, device: str, languages: tuple[str, ...] | None = None) -> DualEncoder:
    """A model of sentence-transformers: texts as it encodes queries, pictures as it encodes documents.

    Args:
        name: folder or hub id.
        device: where it computes.
        languages: codes of the languages that it was trained on.

    Raises:
        ProclipError: the package is missing, the model does not load, runs code of its own, or encodes texts alone.
    """
    config = EmbedderConfig(model=name, backend="sentence-transformers", dtype="float32")
    source = locate(config)
    model = load_sentence_transformer(config, source, device).eval()
    if absent := [kind for kind in ("image", "text") if not model.supports(kind)]:
        raise ProclipError(
            f"{name!r} does not encode {' and '.join(absent)}s: a model under evaluation encodes pictures and texts; "
            "this one can be the text side of a model that proclip trains (embedder.backend = 'sentence-transformers')"
        )
    identity = {"files": identity_of(config, source)["files"], "weights": weights_digest(model)}
    return DualEncoder(
        name=label_of(name),
        images=_Images(model, identity),
        texts=_Texts(model, identity),
        project_text=lambda vectors: vectors,
        about={"path": name},
        languages=languages,
    )


def _prompt_of(model: SentenceTransformer, names: Sequence[str]) -> str:
    """The declared prompt that ``encode_query`` and ``encode_document`` put before an input."""
    return next((model.prompts[name] or "" for name in names if name in model.prompts), "")


@final
class _Images:
    """Pictures through ``encode_document``."""

    def __init__(self, model: SentenceTransformer, identity: Mapping[str, Any]) -> None:
        self.model = model
        prompt = _prompt_of(model, ("document", "passage", "corpus"))
        self.identity: Mapping[str, Any] = {"kind": "sentence-transformers-images", **identity, "prompt": prompt}

    def prepare(self, image: Image) -> Image:
        """The picture itself: the library prepares whole batches."""
        return image

    def encode(self, prepared: Sequence[Image]) -> Tensor:
        """Pictures to image features, [b, d] float32 on the CPU."""
        features: Tensor = self.model.encode_document(
            list(prepared), batch_size=len(prepared), convert_to_tensor=True, show_progress_bar=False
        )
        return features.float().cpu()


@final
class _Texts:
    """Texts through ``encode_query``."""

    def __init__(self, model: SentenceTransformer, identity: Mapping[str, Any]) -> None:
        self.model, self.prompt = model, _prompt_of(model, ("query",))
        self.identity = {"kind": "sentence-transformers-texts", **identity, "prompt": self.prompt}

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.model.get_embedding_dimension() or len(self.encode(["a photo"]).embeds[0])

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts to vectors; the library makes batches of like length."""
        embeds: Tensor = self.model.encode_query(
            list(texts), batch_size=TEXT_BATCH, convert_to_tensor=True, show_progress_bar=False
        )
        return Encoded(embeds.float().cpu(), self._cut(texts))

    def for_classes(self) -> _Texts:
        """Itself: such a model declares no prompt for class names."""
        return self

    def _cut(self, texts: Sequence[str]) -> Tensor | None:
        """Which texts are longer than the model reads; not known where texts are put into a chat template."""
        tokenizer, limit = self.model.tokenizer, self.model.max_seq_length
        if tokenizer is None or limit is None or "message" in self.model.modalities:
            return None
        ids = tokenizer([self.prompt + text for text in texts], truncation=False, verbose=False)["input_ids"]
        return torch.tensor([len(row) > limit for row in ids])
