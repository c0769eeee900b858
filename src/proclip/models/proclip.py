"""The model: CLIP's image tower, a frozen LLM-based embedder and the adapter between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EmbedderConfig, from_dict, to_dict
from ..errors import ProclipError
from ..files import write_atomically, write_folder, write_json
from .adapter import Adapter
from .card import model_card
from .clip import checkpoint_folder
from .devices import known_device
from .embedder import LazyEmbedder, TextEmbedder
from .embedder_facts import embedder_facts
from .hub import OURS, HubAccess, hub_origin, lasting_name
from .image_text import ImageTextModel
from .model_config import FORMAT_VERSION, TowerConfig, read_model_config
from .preprocess import ImagePreprocess
from .pretrained import VisionModelTower, check_preprocess
from .saving import (
    EMBEDDER_FOLDER,
    copy_embedder,
    is_inside,
    pinned_embedder,
    pinned_revision,
    placed_embedder,
    write_tensors,
)
from .towers import ImageTower, build_image_tower
from .vectors import Floats, check_llm_embeds, check_vectors

MAX_LOGIT_SCALE = math.log(100)
FILES = ["*config*.json", "modules.json", "model.safetensors", "README.md"]
"""What is downloaded of a model on the hub; the LLM inside one (``embedder/``) only when a text is first encoded."""
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "proclip.integrations.sentence_transformers.ProCLIPModule"}]
"""``modules.json``: the class that sentence-transformers makes of the folder."""
SENTENCE_TRANSFORMERS = {
    "model_type": "SentenceTransformer",
    "prompts": {"query": "", "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
}
"""``config_sentence_transformers.json``. The embedder's own instruction stands before every text, whatever is here."""


class ProCLIP(ImageTextModel, nn.Module):
    """Image tower, adapter and temperature; the LLM is loaded when a text is first encoded.

    Args:
        image_tower: [b, 3, s, s] -> image features [b, d].
        adapter: LLM embeddings [b, h] -> text features [b, d].
        logit_scale: log of the inverse temperature, in [0, ln 100]; without limit where there is a bias.
        preprocess: of the image tower.
        embedder: the LLM-based embedder, or how to load it.
        embedder_identity: what the embedder with which the adapter was trained said of itself; another one is refused.
        clip_name: the checkpoint that the image tower comes from.
        logit_bias: of SigLIP's sigmoid loss, where stage 2 trains with it; the probability that a picture and a text
            belong together is then ``sigmoid(exp(logit_scale) similarity + logit_bias)``.
        clip_revision: of that checkpoint on the hub.
        provenance: how the model was made, JSON values, kept in ``config.json`` and told by the card.
    """

    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None

    def __init__(
        self,
        image_tower: ImageTower,
        adapter: Adapter,
        logit_scale: float,
        preprocess: ImagePreprocess,
        embedder: EmbedderConfig | TextEmbedder,
        embedder_identity: Mapping[str, Any] | None = None,
        clip_name: str | None = None,
        logit_bias: float | None = None,
        clip_revision: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if image_tower.embed_dim != adapter.embed_dim:
            raise ProclipError(
                f"the adapter gives vectors of width {adapter.embed_dim}, the image tower of {image_tower.embed_dim}"
            )
        self.image_tower, self.adapter, self.preprocess = image_tower, adapter, preprocess
        largest = MAX_LOGIT_SCALE if logit_bias is None else math.inf
        self.logit_scale = nn.Parameter(torch.tensor(min(logit_scale, largest)))
        self.logit_bias = nn.Parameter(torch.tensor(logit_bias)) if logit_bias is not None else None
        self._embedder = None if isinstance(embedder, EmbedderConfig) else embedder
        self.embedder_config = embedder if isinstance(embedder, EmbedderConfig) else None
        self.embedder_identity = dict(embedder_identity) if embedder_identity is not None else None
        self.clip_name, self.clip_revision = clip_name, clip_revision
        self.provenance = dict(provenance) if provenance is not None else None
        self.loaded_from: str | None = None
        self._folder: Path | None = None
        self._hub: tuple[str, str, HubAccess] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaded LLM where it can be loaded again: a copy in another process loads its own."""
        return {**self.__dict__, "_embedder": None if self.embedder_config is not None else self._embedder}

    @property
    def embedder(self) -> TextEmbedder:
        """The LLM-based embedder; its weights are loaded when a text is first encoded.

        Raises:
            ProclipError: it is not the one with which the adapter was trained; the message names what differs.
        """
        if self._embedder is None:
            config = self._located_embedder()
            try:
                self._embedder = LazyEmbedder(config, str(self.device), self.embedder_identity)
            except ProclipError as error:
                if Path(config.model).is_dir() or config.model in OURS:
                    raise
                elsewhere = "where it lies elsewhere, say so: ProCLIP.from_pretrained(..., embedder=PATH)"
                raise type(error)(f"{error}; {elsewhere}, proclip export onnx --embedder PATH") from None
        return self._embedder

    def _located_embedder(self) -> EmbedderConfig:
        """The embedder's config; a model that is the folder's own (``embedder/NAME``) by its full path."""
        config = self.embedder_config
        assert config is not None
        if not is_inside(config.model) or self._folder is None:
            return config
        if self._hub is not None:  # only now: a user of images alone never downloads the LLM
            name, commit, access = self._hub
            checkpoint_folder(name, commit, [f"{EMBEDDER_FOLDER}/*"], **access)
        return dataclasses.replace(config, model=str(self._folder / config.model))

    @property
    def max_text_length(self) -> int | None:
        """Tokens after which a text is cut, if the LLM reads as many; None where the embedder was given as an object.

        Setting it makes the model another one than it was trained as; the new length is saved with it.
        """
        return self.embedder_config.max_length if self.embedder_config is not None else None

    @max_text_length.setter
    def max_text_length(self, value: int) -> None:
        if self.embedder_config is None:
            raise ProclipError("a model made around an embedder object cuts texts where that object does")
        if value == self.embedder_config.max_length:
            return
        self.embedder_config = dataclasses.replace(self.embedder_config, max_length=value)
        if self.embedder_identity is not None:
            self.embedder_identity["max_length"] = value
        self._embedder = None

    @property
    def towers(self) -> list[nn.Module]:
        """Image tower and adapter, but for the statistics of its input norm, which stay as precise as they are."""
        return [self.image_tower, self.adapter.blocks, self.adapter.norm, self.adapter.project]

    def embed_texts(self, texts: Sequence[str], classes: bool = False) -> Tensor:
        """One batch of texts through the LLM and the adapter; class names with the embedder's prompt for them."""
        embedder = self.embedder.for_classes() if classes else self.embedder
        return self._project(embedder.encode(texts).embeds)

    def project_text(self, llm_embeds: Tensor | Floats) -> Tensor:
        """Embeddings that the LLM gave earlier, [n, h], to text embeds, [n, d] float32 on the CPU, L2-normalised.

        Raises:
            ProclipError: they are no tensor or array of that shape, or a value is not finite.
        """
        check_llm_embeds(llm_embeds, self.adapter.llm_dim)
        embeds = self._project(torch.as_tensor(llm_embeds))
        check_vectors(embeds, [f"vector {place}" for place in range(len(embeds))])
        return embeds

    @torch.no_grad()
    def _project(self, llm_embeds: Tensor) -> Tensor:
        self.adapter.eval()
        return F.normalize(self.adapter(llm_embeds.to(self.device)).float(), dim=-1).cpu()

    def save_pretrained(self, folder: str | Path, card: str = "", *, include_embedder: bool | None = None) -> None:
        """Write weights, config, model card, and what sentence-transformers needs to load the folder.

        A new or empty folder is there whole or not at all; in one that holds files each is replaced whole, the weights
        first and ``config.json`` last.

        Args:
            folder: made if needed.
            card: Markdown put at the end of the model card, as figures are.
            include_embedder: copy the LLM's files into ``embedder/``, so that the folder needs nothing else; None keeps
                it as the model was loaded: inside, or referred to by id and revision.

        Raises:
            ProclipError: the model was made around an embedder object, or the LLM to copy cannot be found or is not the
                one that the adapter was trained with.
        """
        self._save(Path(folder), card, include_embedder, None)

    def _save(self, folder: Path, card: str, include_embedder: bool | None, name: str | None) -> None:
        """`save_pretrained`, with the model's name on the hub for the card."""

        def fill(draft: Path) -> None:
            write_json(draft / "modules.json", MODULES)
            write_json(draft / "config_sentence_transformers.json", SENTENCE_TRANSFORMERS)
            self.write_files(draft, card, include_embedder, name)

        write_folder(folder, fill)

    def write_files(
        self, folder: Path, card: str = "", include_embedder: bool | None = None, name: str | None = None
    ) -> None:
        """Write weights, config and card, as `save_pretrained` does, into a folder that exists."""
        config = self.saved_config()
        if include_embedder or (include_embedder is None and is_inside(config["embedder"]["model"])):
            embedder, identity = copy_embedder(self._located_embedder(), self.embedder_identity, folder)
            config |= {"embedder": to_dict(embedder), "embedder_identity": identity}
        elif is_inside(config["embedder"]["model"]):
            config["embedder"] = to_dict(self._located_embedder())
        counts = {part: sum(p.numel() for p in getattr(self, part).parameters()) for part in ("image_tower", "adapter")}
        write_tensors(folder / "model.safetensors", self.state_dict())
        write_json(folder / "preprocessor_config.json", self.preprocess.to_config())
        facts = embedder_facts(from_dict(EmbedderConfig, config["embedder"], where="embedder"), folder)
        write_atomically(folder / "README.md", model_card(config, facts, counts, card, name))
        write_json(folder / "config.json", config)

    def saved_config(self) -> dict[str, Any]:
        """What ``config.json`` says: architecture, embedder, origin.

        Hub revisions are pinned to the commits in use, and folders stand in it by their absolute path.

        Raises:
            ProclipError: the model was made around an embedder object.
        """
        if self.embedder_config is None:
            raise ProclipError("a model made around an embedder object has no embedder config to save")
        own = self._folder is not None and is_inside(self.embedder_config.model)
        values = {
            "model_type": "proclip",
            "architectures": ["ProCLIPModel"],
            "clip": lasting_name(self.clip_name) if self.clip_name is not None else None,
            "clip_revision": pinned_revision(self.clip_name, self.clip_revision),
            "format_version": FORMAT_VERSION,
            "embed_dim": self.adapter.embed_dim,
            "llm_dim": self.adapter.llm_dim,
            "adapter": to_dict(self.adapter.config),
            "embedder": to_dict(self.embedder_config if own else pinned_embedder(self.embedder_config)),
            "embedder_identity": self.embedder_identity,
            "image_tower": {"family": self.image_tower.family, "config": self.image_tower.config},
        }
        optional = {"loaded_from": self.loaded_from, "provenance": self.provenance}
        return values | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        device: str = "cpu",
        embedder: str | Path | None = None,
        **access: Unpack[HubAccess],
    ) -> ProCLIP:
        """Load a model that `save_pretrained` wrote.

        Args:
            name: folder or hub id.
            revision: of the hub's repository.
            device: where to put the weights.
            embedder: folder or hub id of the LLM where it lies now, if that is not where ``config.json`` says. Another
                LLM than the adapter was trained with is refused when a text is first encoded.
            access: how the hub is asked for this model: ``token``, ``cache_dir``, ``local_files_only``. An LLM of
                another repository is asked for with what the environment says (``HF_TOKEN``, ``HF_HUB_OFFLINE``).

        Raises:
            ProclipError: not a model of ours, a version this code does not know, a field that is missing or wrong,
                weights that do not fit, or a device that is not here.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        device = known_device(device)
        folder = checkpoint_folder(str(name), revision, FILES, **access)
        config, weights = read_model_config(folder), folder / "model.safetensors"
        try:
            tensors = load_file(weights)
        except (FileNotFoundError, SafetensorError) as error:
            raise ProclipError(f"{weights} cannot be read: {error}") from None
        tower, preprocess = _image_side(folder, config.image_tower, config.embed_dim)
        model = cls(
            tower,
            Adapter(config.llm_dim, config.embed_dim, config.adapter),
            0.0,
            preprocess,
            config.embedder,
            config.embedder_identity,
            clip_name=config.clip,
            logit_bias=0.0 if "logit_bias" in tensors else None,
            clip_revision=config.clip_revision,
            provenance=config.provenance,
        )
        model._folder = folder
        if origin := hub_origin(folder):
            model.loaded_from = "@".join(origin)
            model._hub = (*origin, {**access, "cache_dir": folder.parents[2]})
        if embedder is not None and model.embedder_config is not None:
            model.embedder_config, model.embedder_identity = placed_embedder(
                model.embedder_config, model.embedder_identity, str(embedder)
            )
        load_weights(model, tensors, str(weights))
        return model.to(device).eval()

    def push_to_hub(
        self, repo_id: str, card: str = "", private: bool = False, include_embedder: bool | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub.

        Returns:
            the address of the commit.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi()
        with TemporaryDirectory() as folder:
            self._save(Path(folder) / "model", card, include_embedder, repo_id)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=str(Path(folder) / "model")))


def _image_side(folder: Path, config: TowerConfig, embed_dim: int) -> tuple[ImageTower, ImagePreprocess]:
    """The untrained tower and the preprocessing that a model's folder describes, which must fit each other."""
    try:
        tower = build_image_tower(config.family, config.config, embed_dim)
    except ProclipError as error:
        raise type(error)(f"{folder / 'config.json'}: {error}") from None
    preprocess = ImagePreprocess.from_folder(folder)
    if isinstance(tower, VisionModelTower):
        check_preprocess(folder, preprocess, tower.vision_model.config)
    return tower, preprocess


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict, strictly.

    Raises:
        ProclipError: names or shapes differ; the message names the first few and `source`.
    """
    if wrong := misfits(module.state_dict(), tensors):
        raise ProclipError(f"{source} does not fit the model: {'; '.join(wrong[:5])}")
    module.load_state_dict(dict(tensors))


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Where names or shapes of a state dict are not those wanted, in words; empty where it fits."""
    wrong = [f"{n} is missing" for n in wanted if n not in given]
    wrong += [f"{n} is not known" for n in given if n not in wanted]
    return wrong + [
        f"{n} has shape {tuple(t.shape)}, wanted {tuple(wanted[n].shape)}"
        for n, t in given.items()
        if n in wanted and wanted[n].shape != t.shape
    ]
