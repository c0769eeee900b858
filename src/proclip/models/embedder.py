"""The frozen LLM-based embedder: texts to vectors, with an identity that says all that shapes them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

import torch
from torch import Tensor, nn

from ..config import EmbedderConfig
from ..errors import ProclipError
from .embedder_source import identity_of, load_causal_lm, load_sentence_transformer, locate
from .pooling import last_token_pool, mean_pool

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean_pool, "last_token": last_token_pool}

# The self-check allows this much difference between a text alone and in a batch, as a share of the difference
# between two texts. SmolLM2 stays seven times below it at every layer tried; wrong pooling lands near 1.
TOLERANCE = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.15}
CHECK_TEXTS = (
    "two",
    "a red car beside a tall tree",
    "A drawing on a white background. It shows a small house with a blue door, three windows and a round roof.",
)


@dataclass(frozen=True)
class Encoded:
    """Vectors of some texts, in the order of the texts."""

    embeds: Tensor
    """[n, h] float32 on the CPU."""
    truncated: int
    """How many texts were longer than the encoder reads and lost their end."""


class TextEmbedder(Protocol):
    """What gives texts vectors: a frozen LLM, or CLIP's text tower as the teacher."""

    @property
    def dim(self) -> int:
        """Width of the vectors."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that shapes the vectors, as JSON values; equal identities give equal vectors."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts to vectors, in the order of the texts."""


def identity_difference(want: Mapping[str, Any], have: Mapping[str, Any]) -> str:
    """The fields in which two identities differ, as a text for an error; empty if they are equal."""
    plain_want, plain_have = json.loads(json.dumps(dict(want))), json.loads(json.dumps(dict(have)))
    fields = [key for key in {**plain_want, **plain_have} if plain_want.get(key) != plain_have.get(key)]
    return "; ".join(f"{key}: want {plain_want.get(key)!r}, have {plain_have.get(key)!r}" for key in fields)


def check_texts(texts: Sequence[str]) -> None:
    """Refuse texts that have nothing to embed.

    Raises:
        ProclipError: a text is empty or white space; the message gives its place.
    """
    for place, text in enumerate(texts):
        if not text.strip():
            raise ProclipError(f"text {place} of {len(texts)} is empty: leave it out, or give it words")


def embedder_identity(config: EmbedderConfig) -> dict[str, Any]:
    """The identity of the embedder that `load_embedder` would load, without loading it.

    The model's files stand in it by a hash, so that a folder may be moved and a changed file is noticed.

    Raises:
        ProclipError: the model cannot be found.
    """
    return identity_of(config, locate(config))


@final
class LazyEmbedder:
    """An embedder whose identity is known at once and whose weights are loaded when they are first needed.

    Args:
        config: of the embedder.
        device: where it computes.
        expect: identity that it must have, None if any will do.

    Raises:
        ProclipError: the model cannot be found, or has another identity; the message names what differs.
    """

    def __init__(self, config: EmbedderConfig, device: str = "cpu", expect: Mapping[str, Any] | None = None) -> None:
        self.config, self.device, self.identity = config, device, embedder_identity(config)
        if expect is not None and (differ := identity_difference(expect, self.identity)):
            raise ProclipError(f"the embedder is not the one the adapter was trained with: {differ}")
        self._embedder: TextEmbedder | None = None

    def _loaded(self) -> TextEmbedder:
        if self._embedder is None:
            self._embedder = load_embedder(self.config, self.device)
        return self._embedder

    @property
    def dim(self) -> int:
        """Width of the vectors; loads the weights."""
        return self._loaded().dim

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Texts to vectors, in the order of the texts; loads the weights."""
        return self._loaded().encode(texts)


def load_embedder(config: EmbedderConfig, device: str = "cpu") -> TextEmbedder:
    """Load the frozen embedder.

    Args:
        config: model, backend, pooling, layer, instruction, length, precision.
        device: where it computes; vectors come back to the CPU.

    Raises:
        ProclipError: the model or a package it needs is missing, or a setting does not fit the model.
    """
    source = locate(config)
    identity = identity_of(config, source)
    if config.backend == "sentence-transformers":
        return SentenceTransformersEmbedder(load_sentence_transformer(config, source, device), config, identity)
    return CausalLMEmbedder(*load_causal_lm(config, source, device), config, identity)


@final
class CausalLMEmbedder:
    """Any decoder as an embedder: its own special tokens and causal mask, pooling and layer as the config says.

    The instruction is put before each text and is pooled with it.

    Args:
        model: the model without its language-modelling head.
        tokenizer: the model's.
        config: pooling, layer, padding side, instruction, length, precision.
        identity: what a store records.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: EmbedderConfig,
        identity: dict[str, Any],
    ) -> None:
        self.model, self.tokenizer, self.config, self.identity = model, tokenizer, config, identity
        model.train(False)
        self.dim = int(model.config.get_text_config().hidden_size)
        self._states: list[Tensor] = []
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._checked = False
        if config.layer >= 0:
            _stop_after(model, config.layer, self._states.append)
        used = len(tokenizer(config.instruction)["input_ids"]) if config.instruction else 0
        if used >= config.max_length:
            raise ProclipError(f"embedder.instruction has {used} tokens, embedder.max_length is {config.max_length}")

    def encode(self, texts: Sequence[str], batch_tokens: int | None = None) -> Encoded:
        """Texts to vectors, in batches of texts of like length.

        Args:
            texts: n texts.
            batch_tokens: most tokens in a batch, padding included; 1,024 on a CPU and 16,384 elsewhere if not given.

        Raises:
            ProclipError: a text is empty, or batching changes the vectors (checked at the first call).
        """
        check_texts(texts)
        if not texts:
            return Encoded(torch.empty(0, self.dim), 0)
        if not self._checked:
            _check_batching(lambda rows: self._forward(self._tokenize(rows)[0]), self.config)
            self._checked = True
        ids, truncated = self._tokenize(texts)
        lengths = [len(row) for row in ids]
        budget = batch_tokens or _budget(self.model.device)
        embeds = _in_batches(lengths, lambda rows: self._forward([ids[r] for r in rows]), self.dim, budget)
        return Encoded(embeds, truncated)

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each text, cut to the longest length allowed, and how many texts were cut."""
        limit = self.config.max_length
        prompted = [self.config.instruction + text for text in texts]
        ids: list[list[int]] = self.tokenizer(prompted, truncation=True, max_length=limit)["input_ids"]
        for text, row in zip(texts, ids, strict=True):
            if len(row) <= self.config.skip_tokens:
                raise ProclipError(
                    f"the tokenizer of {self.config.model!r} gives {len(row)} tokens for {text!r}, "
                    f"embedder.skip_tokens leaves out {self.config.skip_tokens}"
                )
        # Only a text that fills the limit can have lost its end: those few are counted without the cut.
        full = [text for text, row in zip(prompted, ids, strict=True) if len(row) == limit]
        uncut = self.tokenizer(full, truncation=False, verbose=False)["input_ids"] if full else []
        return ids, sum(len(row) > limit for row in uncut)

    def _pad(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, [b, t] int64. The mask hides padding, so any token can stand there."""
        longest = max(len(row) for row in ids)
        # eos where there is no pad token, and 0 where there is neither
        fill = next((t for t in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if t is not None), 0)
        input_ids = torch.full((len(ids), longest), fill)
        mask = torch.zeros(len(ids), longest, dtype=torch.int64)
        for place, row in enumerate(ids):
            span = slice(longest - len(row), None) if self.config.padding_side == "left" else slice(0, len(row))
            input_ids[place, span], mask[place, span] = torch.tensor(row), 1
        return input_ids, mask

    @torch.inference_mode()
    def _forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        device = self.model.device
        input_ids, mask = (tensor.to(device) for tensor in self._pad(ids))
        positions = {}
        if self.config.padding_side == "left" and self._takes_positions:
            # A text's first token has position 0 however much padding stands before it.
            positions["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=mask, **positions).last_hidden_state
        if self.config.layer >= 0:
            hidden = self._states.pop()
        pooled = mask * (mask.cumsum(1) > self.config.skip_tokens)
        return POOLING[self.config.pooling](hidden, pooled)


@final
class SentenceTransformersEmbedder:
    """An embedding model that sentence-transformers loads: pooling, prompt and padding as the model declares them.

    Args:
        model: the loaded model.
        config: instruction (the model's default prompt if empty), length, precision.
        identity: what a store records.
    """

    def __init__(self, model: SentenceTransformer, config: EmbedderConfig, identity: dict[str, Any]) -> None:
        self.model, self.config, self.identity = model, config, identity
        self.dim = int(model.get_embedding_dimension() or 0)
        own = model.max_seq_length
        self.max_length = min(config.max_length, own) if own else config.max_length
        model.max_seq_length = self.max_length
        self.prompt: str = config.instruction or (model.prompts or {}).get(model.default_prompt_name or "") or ""
        self._checked = False

    def encode(self, texts: Sequence[str], batch_tokens: int | None = None) -> Encoded:
        """Texts to vectors, in batches of texts of like length.

        Args:
            texts: n texts.
            batch_tokens: most tokens in a batch, padding included; 1,024 on a CPU and 16,384 elsewhere if not given.

        Raises:
            ProclipError: a text is empty, or batching changes the vectors (checked at the first call).
        """
        check_texts(texts)
        if not texts:
            return Encoded(torch.empty(0, self.dim), 0)
        if not self._checked:
            _check_batching(self._forward, self.config)
            self._checked = True
        prompted = [self.prompt + text for text in texts]
        ids = self.model.tokenizer(prompted, truncation=False, verbose=False)["input_ids"]
        lengths = [min(len(row), self.max_length) for row in ids]
        budget = batch_tokens or _budget(self.model.device)
        embeds = _in_batches(lengths, lambda rows: self._forward([texts[r] for r in rows]), self.dim, budget)
        return Encoded(embeds, sum(len(row) > self.max_length for row in ids))

    @torch.inference_mode()
    def _forward(self, texts: Sequence[str]) -> Tensor:
        embeds: Tensor = self.model.encode(
            list(texts),
            prompt=self.prompt or None,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        return embeds.float()


def _budget(device: torch.device) -> int:
    """Tokens a batch: on a CPU what its caches hold (a quarter faster than 4,096 there), else what fills a GPU."""
    return 1024 if device.type == "cpu" else 16384


def _in_batches(
    lengths: Sequence[int], forward: Callable[[Sequence[int]], Tensor], dim: int, batch_tokens: int
) -> Tensor:
    """Run `forward` on places of texts of like length; its rows, [n, dim] float32 on the CPU, in the first order."""
    embeds = torch.empty(len(lengths), dim)
    for rows in _batches(lengths, batch_tokens):
        embeds[rows] = forward(rows).cpu()
    return embeds


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of texts, longest first (what does not fit in memory fails at once); a batch has one text or more."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda r: -lengths[r]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _check_batching(forward: Callable[[Sequence[str]], Tensor], config: EmbedderConfig) -> None:
    """Compare texts embedded in one padded batch with the same texts alone: wrong padding must not pass silently.

    Medians over the dimensions, since a few dimensions of a causal LM's states are thousands of times larger than
    the rest and would hide them.
    """
    together = forward(CHECK_TEXTS).float().cpu()
    alone = torch.cat([forward([text]) for text in CHECK_TEXTS]).float().cpu()
    if not bool(torch.isfinite(alone).all() and torch.isfinite(together).all()):
        raise ProclipError(
            f"{config.model!r} gives values that are not finite: look at embedder.dtype ({config.dtype})"
        )
    error = (together - alone).abs().median(1).values.max()
    spread = min((alone[i] - alone[j]).abs().median() for i, j in ((0, 1), (0, 2), (1, 2)))
    share = float(error / spread.clamp(min=1e-12))
    if share > TOLERANCE[config.dtype]:
        raise ProclipError(
            f"{config.model!r} embeds a text otherwise in a batch than alone: the difference is {share:.2g} of that "
            f"between two texts, at most {TOLERANCE[config.dtype]} is expected. Padding is not masked as it should be: "
            f"look at embedder.padding_side ({config.padding_side}), embedder.pooling ({config.pooling}), "
            f"embedder.backend ({config.backend}) and embedder.dtype ({config.dtype})"
        )


def _stop_after(model: PreTrainedModel, layer: int, keep: Callable[[Tensor], None]) -> None:
    """Drop the blocks above `layer` and hand the state there to `keep` at each pass, before the final norm."""
    depth = int(model.config.get_text_config().num_hidden_layers)
    if layer > depth:
        raise ProclipError(f"embedder.layer is {layer}, the model has {depth}: give 0 to {depth}, or -1 for the last")
    stacks = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ]
    if len(stacks) != 1:
        raise ProclipError(f"embedder.layer: the blocks of a {type(model).__name__} cannot be told apart; use -1")
    parent, name, blocks = stacks[0]
    kept = list(blocks)[: max(layer, 1)]  # block 1 stays for layer 0: what goes into it is the token embeddings
    setattr(parent, name, nn.ModuleList(kept))
    if layer == 0:

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        kept[0].register_forward_pre_hook(before, with_kwargs=True)
    else:
        kept[-1].register_forward_hook(lambda _, __, out: keep(out[0] if isinstance(out, tuple) else out))
