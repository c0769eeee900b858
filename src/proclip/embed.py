"""Texts to an embedding store: every caption of a dataset once, or texts as an evaluation asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .data.store import EmbeddingStore, StoreWriter, text_digest, text_key
from .data.store_format import MANIFEST
from .errors import ProclipError
from .models.embedder import TextEmbedder, check_texts, identity_difference

TEXTS_A_CHUNK = 512
"""Texts encoded between two reports of progress; a run that is killed loses the shard it was filling."""
Progress = Callable[[int, int], None]
"""Called with texts done and all texts."""


@dataclass(frozen=True)
class EmbedCounts:
    """What a call of `embed_captions` did."""

    rows: int
    """Captions added."""
    texts: int
    """Distinct texts encoded for them."""
    kept: int
    """Captions that were in the store already."""
    truncated: int
    """Of these texts, how many were longer than the embedder reads."""


def embed_captions(
    rows: Iterable[tuple[str, str]], embedder: TextEmbedder, writer: StoreWriter, progress: Progress | None = None
) -> EmbedCounts:
    """Embed captions that the store does not hold yet; equal texts are encoded once.

    Args:
        rows: pairs of key and text.
        embedder: the LLM, or CLIP's text tower.
        writer: of the store.
        progress: called after every chunk.

    Raises:
        ProclipError: a text is empty; a key stands twice with different texts, or has another text than the one
            in the store; the store is for another embedder.
    """
    if differ := identity_difference(writer.identity, embedder.identity):
        raise ProclipError(f"the embeddings at {writer.folder} are for another embedder: {differ}")
    keys_of, kept = _new_captions(rows, writer)
    texts = list(keys_of)
    added = done = truncated = 0
    for chunk in _chunks(texts):
        encoded = embedder.encode(chunk)
        repeats = torch.tensor([len(keys_of[text]) for text in chunk])
        keys = [key for text in chunk for key in keys_of[text]]
        texts_of_keys = [text for text in chunk for _ in keys_of[text]]
        embeds = encoded.embeds.repeat_interleave(repeats, dim=0)
        writer.add(keys, embeds, texts=texts_of_keys, truncated=encoded.truncated)
        added, done, truncated = added + len(keys), done + len(chunk), truncated + encoded.truncated
        if progress is not None:
            progress(done, len(texts))
    return EmbedCounts(added, len(texts), kept, truncated)


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + TEXTS_A_CHUNK] for start in range(0, len(texts), TEXTS_A_CHUNK))


def _new_captions(rows: Iterable[tuple[str, str]], writer: StoreWriter) -> tuple[dict[str, list[str]], int]:
    """Keys of each distinct text that the store does not hold, and how many captions it does."""
    keys_of: dict[str, list[str]] = {}
    seen: dict[str, int] = {}
    kept = 0
    for key, text in rows:
        if not text.strip():
            raise ProclipError(f"caption {key!r} is empty: leave it out, or give it words")
        digest = text_digest(text)
        if key in seen:
            if seen[key] != digest:
                raise ProclipError(f"caption {key!r} stands twice, with different texts")
            continue
        seen[key] = digest
        if key not in writer.done_keys:
            keys_of.setdefault(text, []).append(key)
            continue
        if writer.done_keys[key] not in (0, digest):
            raise ProclipError(
                f"the text of caption {key!r} has changed since it was embedded: "
                f"delete {writer.folder} and embed again, or give the caption another key"
            )
        kept += 1
    return keys_of, kept


class TextCache:
    """Vectors of free texts by their content: read from a store, and encoded and added where they are not there yet.

    The embedder is asked only for texts that are missing. Several processes may share the folder.

    Args:
        path: folder of the store, for one embedder and prompt; float32, so that a figure does not depend on the cache.
        embedder: encodes what is missing; a `LazyEmbedder` is loaded only then.

    Raises:
        ProclipError: the store at `path` is another embedder's; the message lists the fields that differ.
    """

    def __init__(self, path: str | Path, embedder: TextEmbedder) -> None:
        self.path, self.embedder = Path(path), embedder
        self._store = self._open()

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Texts to vectors.

        Args:
            texts: n texts, repeated or not.
            progress: called after every chunk of texts that had to be encoded.

        Returns:
            [n, h] float32, in the order of the texts.

        Raises:
            ProclipError: a text is empty.
        """
        check_texts(texts)
        keys = [text_key(text) for text in texts]
        missing = {
            key: text for key, text in zip(keys, texts, strict=True) if self._store is None or key not in self._store
        }
        done = 0
        for chunk in _chunks(list(missing)):
            self._add(list(chunk), [missing[key] for key in chunk])
            done += len(chunk)
            if progress is not None:
                progress(done, len(missing))
        if missing:
            self._store = self._open()
        if self._store is None:
            return torch.empty(0, self.embedder.dim)
        return self._store.rows(keys)

    def _open(self) -> EmbeddingStore | None:
        return (
            EmbeddingStore.open(self.path, expect=self.embedder.identity) if (self.path / MANIFEST).exists() else None
        )

    def _add(self, keys: list[str], texts: list[str]) -> None:
        encoded = self.embedder.encode(texts)
        # The store's lock is held only to write, so that processes that share the folder do not wait for an LLM.
        with StoreWriter(self.path, self.embedder.identity, self.embedder.dim) as writer:
            new = [n for n, key in enumerate(keys) if key not in writer.done_keys]
            if new:
                writer.add(
                    [keys[n] for n in new],
                    encoded.embeds[new],
                    texts=[texts[n] for n in new],
                    truncated=encoded.truncated,
                )
