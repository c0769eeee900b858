"""A ProCLIP model as an mteb encoder: its text, image and image-text tasks (MIEB) on our models.

``mteb.evaluate(load_mteb_model("PATH"), tasks)``. mteb's own wrapper of a ``SentenceTransformer`` takes every local
model for one of text alone and refuses the image tasks; this says what the model can do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction

from ..errors import ProclipError
from ..models.devices import known_device
from ..models.proclip import ProCLIP
from .sentence_transformers import load_sentence_transformer

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, PromptType
    from numpy.typing import NDArray
    from torch.utils.data import DataLoader

KINDS = ("text", "image")


class ProCLIPEncoder(AbsEncoder):  # type: ignore[misc, unused-ignore]
    """What mteb calls; texts, images, and pairs of both (the normalised sum of their embeddings).

    Args:
        model: a model, or the folder or hub id of one.
        revision: of the hub's repository.
        device: where it computes; where a model that is given is, else ``cuda`` where there is one, if None.
    """

    def __init__(self, model: ProCLIP | str | Path, revision: str | None = None, device: str | None = None) -> None:
        loaded = model if isinstance(model, ProCLIP) else ProCLIP.from_pretrained(model, revision, known_device(device))
        name = "proclip/model" if isinstance(model, ProCLIP) else _mteb_name(str(model))
        self.model = load_sentence_transformer(loaded, device=device)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name,
                "revision": loaded.loaded_from.rsplit("@", 1)[-1] if loaded.loaded_from else revision,
                "n_parameters": sum(p.numel() for p in loaded.parameters()),
                "max_tokens": loaded.max_text_length,
                "embed_dim": loaded.adapter.embed_dim,
                "framework": ["PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
                "modalities": list(KINDS),
                "use_instructions": False,
            }
        )

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """Every input of a task, [n, d] float32, L2-normalised.

        Args:
            inputs: batches with the columns ``text``, ``image`` or both; where both are, one of a row may be empty.
            task_metadata: of the task; the same for all here, as are the split, subset and prompt type.
            hf_split: of the data set.
            hf_subset: of the data set.
            prompt_type: query or document.
            batch_size: inputs a step.
            kwargs: what else mteb gives its encoders, such as ``show_progress_bar``.

        Raises:
            ProclipError: a row has neither text nor image.
        """
        rows = [item for batch in inputs for item in _items(batch)]
        embeds: NDArray[np.float32] = self.model.encode(rows, batch_size=batch_size, show_progress_bar=False)
        return embeds


def load_mteb_model(
    model: ProCLIP | str | Path, revision: str | None = None, device: str | None = None
) -> ProCLIPEncoder:
    """What ``mteb.evaluate`` takes.

    Raises:
        ProclipError: what `ProCLIP.from_pretrained` raises.
    """
    return ProCLIPEncoder(model, revision, device)


def _mteb_name(name: str) -> str:
    """``owner/model``, by which results are kept: a hub id is one, of a folder it is the end of its path."""
    parts = [part for part in Path(name).parts if part not in ("/", ".", "..")]
    return "/".join(["proclip", *parts][-2:])


def _items(batch: Any) -> list[dict[str, Any]]:
    columns = [kind for kind in KINDS if kind in batch]
    rows = [
        {kind: value for kind, value in zip(columns, values, strict=True) if value is not None and value != ""}
        for values in zip(*(batch[kind] for kind in columns), strict=True)
    ]
    if not all(rows):
        raise ProclipError(f"an input of the task has no {' and no '.join(columns or KINDS)}")
    return rows
