"""Texts to an embedding store: every caption of a dataset, each text once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .data.store import StoreWriter, text_digest
from .data.text_cache import TEXTS_A_CHUNK, Progress
from .errors import ProclipError
from .models.embedder import TextEmbedder, identity_difference


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
    for start in range(0, len(texts), TEXTS_A_CHUNK):
        chunk = texts[start : start + TEXTS_A_CHUNK]
        encoded = embedder.encode(chunk)
        repeats = torch.tensor([len(keys_of[text]) for text in chunk])
        keys = [key for text in chunk for key in keys_of[text]]
        texts_of_keys = [text for text in chunk for _ in keys_of[text]]
        embeds = encoded.embeds.repeat_interleave(repeats, dim=0)
        cut = encoded.cut.repeat_interleave(repeats) if encoded.cut is not None else None
        writer.add(keys, embeds, texts=texts_of_keys, cut=cut)
        added, done, truncated = added + len(keys), done + len(chunk), truncated + encoded.truncated
        if progress is not None:
            progress(done, len(texts))
    return EmbedCounts(added, len(texts), kept, truncated)


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
