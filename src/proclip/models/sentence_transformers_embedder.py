"""Embedding models that sentence-transformers loads: pooling, prompts, padding and length as each declares them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from ..config import EmbedderConfig
from ..errors import ProclipError
from ..files import read_json
from .batched_embedder import BatchedEmbedder, Prepared
from .checkpoint_files import declared_modules, naming_faults
from .embedder_facts import prompt_of
from .embedder_source import EmbedderSource
from .embedder_weights import merge_adapters, require_packages, weight_options
from .self_check import Settings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_sentence_transformer(config: EmbedderConfig, source: EmbedderSource, device: str) -> SentenceTransformer:
    """The model as it declares itself, adapters merged.

    Raises:
        ProclipError: the package is missing, the model needs code of its own that is not trusted, or its files do not
            load.
    """
    require_packages(["sentence_transformers"], "embedder.backend 'sentence-transformers'", "llm")
    from sentence_transformers import SentenceTransformer

    if not config.trust_remote_code:
        _refuse_code(config, source)
    for module in declared_modules(source.folder):
        settings = source.folder / module.path / "config.json"
        if module.kind.endswith((".Pooling", ".Dense")) and not settings.is_file():
            raise ProclipError(f"embedder.model {config.model!r}: modules.json names {settings}, which is missing")
    weights = {**weight_options(config, device), "use_safetensors": True}
    with naming_faults(f"embedder.model {config.model!r} does not load", source.folder):
        model = SentenceTransformer(
            str(source.folder),
            device=None if "device_map" in weights else device,
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
            model_kwargs=weights,
        )
    if source.adapters:
        first: Any = model[0]
        first.model = merge_adapters(first.model, source.adapters)
    return model


def _refuse_code(config: EmbedderConfig, source: EmbedderSource) -> None:
    """Refuse a model that comes with code, before any library looks at it (old ones run code of a local folder)."""
    from transformers import CONFIG_MAPPING

    kinds = [module.kind for module in declared_modules(source.folder)]
    own = [f"modules.json: {kind}" for kind in kinds if not kind.startswith("sentence_transformers.")]
    settings = source.folder / "config.json"
    if settings.is_file():
        values = read_json(settings)
        if values.get("auto_map") and values.get("model_type") not in CONFIG_MAPPING:
            own.append(f"config.json: model_type {values.get('model_type')!r}")
    if own:
        raise ProclipError(
            f"embedder.model {config.model!r} runs code that comes with it ({', '.join(own)}): read that code, then "
            "set embedder.trust_remote_code = true and pin embedder.revision"
        )


def _width_of_states(model: SentenceTransformer) -> int | None:
    """Of its transformer, whatever follows it; None where it has none."""
    transformer = getattr(model[0], "auto_model", None)
    config = transformer.config.get_text_config() if transformer is not None else None
    return getattr(config, "hidden_size", None)


@final
class SentenceTransformersEmbedder(BatchedEmbedder[str]):
    """An embedding model that sentence-transformers loads.

    Args:
        model: the loaded model.
        config: prompts (the model's default one if the config names none), length, precision.
        identity: what a store records.
    """

    def __init__(self, model: SentenceTransformer, config: EmbedderConfig, identity: dict[str, Any]) -> None:
        width = model.get_embedding_dimension()
        if width is None:
            raise ProclipError(f"embedder.model {config.model!r} does not say how wide its vectors are (modules.json)")
        super().__init__(config, identity, width, model.device, _width_of_states(model))
        self.model = model
        own = model.max_seq_length
        if not isinstance(own, int | None):
            raise ProclipError(f"embedder.model {config.model!r}: max_seq_length is {own!r}, a whole number is wanted")
        self.max_length = min(config.max_length, own) if own else config.max_length
        model.max_seq_length = self.max_length
        self.padding_side: str = model.tokenizer.padding_side
        self.read_prompt()

    def read_prompt(self) -> None:
        """Take the prompt that the config gives or names, else the model's default one.

        Raises:
            ProclipError: the model has no prompt of that name; the message lists those it has.
        """
        declared, name = self.model.prompts or {}, self.config.prompt_name
        if name is not None and name not in declared:
            names = ", ".join(sorted(declared)) or "none"
            raise ProclipError(f"embedder.prompt_name: {self.config.model!r} has no prompt {name!r}; it has: {names}")
        self.prompt = prompt_of(self.config, declared, self.model.default_prompt_name)

    def prepare(self, texts: Sequence[str]) -> Prepared[str]:
        """The texts themselves; the library puts the prompt before them and cuts them."""
        prompted = [self.prompt + text for text in texts]
        ids = self.model.tokenizer(prompted, truncation=False, verbose=False)["input_ids"]
        lengths = [min(len(row), self.max_length) for row in ids]
        return Prepared(list(texts), lengths, [len(row) > self.max_length for row in ids])

    def other_padding(self) -> SentenceTransformersEmbedder | None:
        """The same embedder with its batches padded on the other side.

        None for a model with learnt positions (BERT's kind), which count from the first column, padding or not.
        """
        if any("position_embeddings" in name for name, _ in self.model.named_parameters()):
            return None
        view = copy.copy(self)
        view.padding_side = "left" if self.padding_side == "right" else "right"
        return view

    @property
    def settings(self) -> Settings:
        """Where to look when the self-check finds something wrong."""
        modes = [getattr(module, "pooling_mode", None) for module in self.model]
        pooling = ", ".join(str(mode) for mode in modes if mode) or "in code of its own"
        return Settings(
            f"the pooling that the model's files declare ({pooling})",
            f"the padding side that its tokenizer declares ({self.padding_side})",
        )

    @torch.inference_mode()
    def forward(self, rows: Sequence[str]) -> Tensor:
        """One batch, padded, to vectors, [b, h]."""
        tokenizer = self.model.tokenizer
        declared, tokenizer.padding_side = tokenizer.padding_side, self.padding_side
        try:
            embeds: Tensor = self.model.encode(
                list(rows),
                prompt=self.prompt,
                batch_size=len(rows),
                show_progress_bar=False,
                convert_to_tensor=True,
            )
        finally:
            tokenizer.padding_side = declared
        return embeds
