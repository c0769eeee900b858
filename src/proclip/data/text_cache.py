"""Vectors of free texts by their content: each text is encoded once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import torch

from ..models.embedder import Encoded, TextEmbedder
from ..models.token_rows import check_texts
from ..models.vectors import check_vectors
from .shared_store import SharedStore
from .store import text_key

TEXTS_A_CHUNK = 512
"""Texts encoded between two reports of progress."""
Progress = Callable[[int, int], None]
"""Called with texts done and all texts."""


@final
class TextCache:
    """Vectors of texts: read where they are known, encoded and added where they are not.

    The embedder is asked only for texts that are missing. Processes of one run share the work; other processes may
    use the folder at the same time.

    Args:
        folder: of the store, for one embedder and prompt; None: in memory.
        embedder: encodes what is missing; a `LazyEmbedder` is loaded only then.

    Raises:
        ProclipError: the store in `folder` is another embedder's (the message lists the fields that differ), or one of
            its files is damaged.
    """

    def __init__(self, folder: Path | None, embedder: TextEmbedder) -> None:
        self.embedder = embedder
        self._vectors = SharedStore(folder, embedder.identity)
        self._vectors.verify()

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Encoded:
        """Texts to vectors, in the order of the texts, and which of them were cut, now or when they were added.

        Args:
            texts: n texts, repeated or not; the same on every process.
            progress: called after every chunk of texts that this process had to encode.

        Raises:
            ProclipError: a text is empty; the embedder gives vectors of a wrong shape or a value that is not finite.
        """
        check_texts(texts)
        if not texts:
            return Encoded(torch.empty(0, self.embedder.dim), torch.empty(0, dtype=torch.bool))
        text_of = {text_key(text): text for text in texts}
        with self._vectors.filling(list(text_of), TEXTS_A_CHUNK) as chunks:
            done, total = 0, sum(map(len, chunks))
            for keys in chunks:
                chunk = [text_of[key] for key in keys]
                encoded = self.embedder.encode(chunk)
                check_vectors(encoded.embeds, chunk)
                self._vectors.add(keys, encoded, chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        return self._vectors.rows([text_key(text) for text in texts])
