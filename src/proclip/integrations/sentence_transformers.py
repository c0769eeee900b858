"""A ProCLIP folder as a ``SentenceTransformer``: texts and pictures into one space, and all that is built on it.

sentence-transformers 6 imports a module class that is not its own only with ``trust_remote_code=True``, for a local
folder too, so ``SentenceTransformer(path, trust_remote_code=True)``; `load_sentence_transformer` needs no flag. Neither
runs code from the folder: the class is this installed package's, and the LLM's own setting decides about its code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modality import infer_modality
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from ..errors import ProclipError
from ..files import read_json
from ..models.clip import checkpoint_folder
from ..models.devices import known_device
from ..models.embedder import LazyEmbedder
from ..models.hub import HubAccess
from ..models.inputs import open_picture
from ..models.proclip import ProCLIP

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INPUTS = "a text, a Pillow image, the path of an image, or a dict with 'text' and 'image'"


@final
class ProCLIPModule(InputModule):
    """The one module of such a ``SentenceTransformer``; its output is L2-normalised.

    Inputs are texts, Pillow images, paths of image files, uint8 arrays, and dicts ``{"text": ..., "image": ...}`` of
    one or both, in any mixture; the embedding of both is the normalised sum of the two embeddings. A chat message
    counts as the texts and images in its content.

    Args:
        model: image tower, adapter and embedder; the LLM is loaded when a text is first encoded.
    """

    save_in_root = True

    def __init__(self, model: ProCLIP) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model

    @property
    def modalities(self) -> list[Any]:
        """What can be encoded; ``message`` is how sentence-transformers calls a batch of several kinds."""
        return ["text", "image", ("image", "text"), "message"]

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the LLM reads of a text; setting it changes where texts are cut and is saved with the model."""
        return self.model.max_text_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.model.max_text_length = value

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The LLM's; loads the LLM."""
        embedder = self.model.embedder
        loaded: Any = embedder._loaded() if isinstance(embedder, LazyEmbedder) else embedder
        tokenizer: PreTrainedTokenizerBase = (loaded if hasattr(loaded, "tokenizer") else loaded.model).tokenizer
        return tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        raise ProclipError("the tokenizer belongs to the frozen embedder and cannot be changed")

    def get_embedding_dimension(self) -> int:
        """d, width of the shared space."""
        return self.model.adapter.embed_dim

    def get_config_dict(self) -> dict[str, Any]:
        """What ``repr`` shows."""
        embedder = self.model.embedder_config
        return {"embed_dim": self.get_embedding_dimension(), "embedder": embedder.model if embedder else None}

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Pictures to pixel values, and texts through the frozen LLM.

        Args:
            inputs: n inputs of the kinds that the class names.
            prompt: put before each text, after the embedder's own instruction.
            kwargs: ``task``, which `encode_query` and `encode_document` give and which changes nothing; no other.

        Returns:
            ``pixel_values`` [i, 3, s, s] with ``image_rows`` [i], and ``sentence_embedding`` [t, h], the LLM's
            vectors, with ``text_rows`` [t]; the rows say to which of the n inputs each belongs. A kind without inputs
            is left out.

        Raises:
            ProclipError: an input of another kind, an empty text, an option that is not known.
        """
        if unknown := [name for name, value in kwargs.items() if value and name != "task"]:
            raise ProclipError(f"a proclip model has no option {', '.join(unknown)}")
        texts: list[str] = []
        images: list[Image.Image] = []
        rows: dict[str, list[int]] = {"text": [], "image": []}
        for row, item in enumerate(inputs):
            parts = _parts_of(item, row)
            texts += [(prompt or "") + value for kind, value in parts if kind == "text"]
            images += [open_picture(value, f"input {row}") for kind, value in parts if kind == "image"]
            for kind, _ in parts:
                rows[kind].append(row)
        features: dict[str, Tensor] = {}
        if images:
            features |= {"pixel_values": self.model.pixel_values(images), "image_rows": torch.tensor(rows["image"])}
        if texts:
            embeds = self.model.embedder.encode(texts).embeds
            features |= {"sentence_embedding": embeds, "text_rows": torch.tensor(rows["text"])}
        return features

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """The towers: adds ``sentence_embedding`` [n, d] float32, L2-normalised, one row an input."""
        parts = []
        if "pixel_values" in features:
            parts.append((features["image_rows"], self.model.image_tower(features["pixel_values"])))
        if "text_rows" in features:
            parts.append((features["text_rows"], self.model.adapter(features["sentence_embedding"])))
        embeds = [F.normalize(part.float(), dim=-1) for _, part in parts]
        rows = torch.cat([row for row, _ in parts])
        total = torch.zeros(int(rows.max()) + 1, self.get_embedding_dimension(), device=embeds[0].device)
        summed = total.index_add(0, rows, torch.cat(embeds))
        return {**features, "sentence_embedding": F.normalize(summed, dim=-1)}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the model's files; sentence-transformers writes its own beside them.

        Raises:
            ProclipError: weights were asked for as a pickle.
        """
        if not safe_serialization:
            raise ProclipError("a proclip model is saved as safetensors only: leave safe_serialization as it is")
        self.model.write_files(Path(output_path))

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ProCLIPModule:
        """Load from a folder or the hub, as ``SentenceTransformer(...)`` asks.

        Raises:
            ProclipError: a backend other than torch, or what `ProCLIP.from_pretrained` raises.
        """
        if kwargs.get("backend", "torch") != "torch":
            raise ProclipError(f"backend {kwargs['backend']!r}: a proclip model runs with torch")
        for name in ("model_kwargs", "processor_kwargs", "config_kwargs"):
            if kwargs.get(name):
                raise ProclipError(f"{name}: a proclip model takes none; its config.json says how the LLM is loaded")
        name = Path(model_name_or_path, subfolder).as_posix()
        access: HubAccess = {"token": token, "cache_dir": cache_folder, "local_files_only": local_files_only}
        return cls(ProCLIP.from_pretrained(name, revision, **access))


def load_sentence_transformer(
    model: ProCLIP | str | Path, revision: str | None = None, device: str | None = None
) -> SentenceTransformer:
    """A ProCLIP model, folder or hub id as a ``SentenceTransformer``, with the prompts that were saved with it.

    Args:
        model: a model, or the folder or hub id of one.
        revision: of the hub's repository.
        device: where it computes; where a model that is given is, else ``cuda`` where there is one, if None.

    Raises:
        ProclipError: the device is not known here, or what `ProCLIP.from_pretrained` raises.
    """
    settings: dict[str, Any] = {}
    card: str | None = None
    where = str(model.device) if isinstance(model, ProCLIP) and device is None else known_device(device)
    if not isinstance(model, ProCLIP):
        folder = checkpoint_folder(str(model), revision, ["config_sentence_transformers.json", "README.md"])
        path = folder / "config_sentence_transformers.json"
        settings = read_json(path) if path.is_file() else {}
        card = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else None
        model = ProCLIP.from_pretrained(model, revision, where)
    loaded = SentenceTransformer(
        modules=[ProCLIPModule(model)],
        device=where,
        prompts=settings.get("prompts"),
        default_prompt_name=settings.get("default_prompt_name"),
        similarity_fn_name=settings.get("similarity_fn_name", "cosine"),
        truncate_dim=settings.get("truncate_dim"),
    )
    vars(loaded)["_model_card_text"] = card  # what its own loading sets, so that saving keeps the card
    return loaded


def _parts_of(item: Any, row: int) -> list[tuple[str, Any]]:
    """The texts and pictures of one input, as pairs of ``text`` or ``image`` and a value."""
    try:
        kind = infer_modality(item, supported_modalities=["text", "image"])
    except (ValueError, TypeError) as error:
        raise ProclipError(f"input {row} is not {INPUTS}: {error}") from None
    if kind == "message":
        return _message_parts(item if isinstance(item, list) else [item], row)
    if isinstance(item, Mapping):
        unknown = sorted(set(item) - {"text", "image"})
        if unknown:
            raise ProclipError(f"input {row} has {', '.join(unknown)}: this model encodes 'text' and 'image'")
        return [(name, _single(item[name], name, row)) for name in ("text", "image") if name in item]
    if kind not in ("text", "image"):
        raise ProclipError(f"input {row} looks like {kind}: this model encodes text and image")
    return [(str(kind), _single(item, str(kind), row))]


def _message_parts(messages: Sequence[Mapping[str, Any]], row: int) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = []
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in ("text", "image") or kind not in part:
                raise ProclipError(f"input {row}: a message's content is texts and images, not {part!r}")
            parts.append((kind, _single(part[kind], kind, row)))
    if not parts:
        raise ProclipError(f"input {row}: the message is empty")
    return parts


def _single(value: Any, kind: str, row: int) -> Any:
    if isinstance(value, (list, tuple)):
        raise ProclipError(f"input {row}: one {kind} an input, not {len(value)}")
    if kind == "text" and not isinstance(value, str):
        raise ProclipError(f"input {row}: 'text' must be a string, not {type(value).__name__}")
    return value
