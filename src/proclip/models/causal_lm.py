"""Any decoder of transformers as an embedder, its states pooled by us."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from ..config import EmbedderConfig
from ..errors import ProclipError, one_line
from .batched_embedder import BatchedEmbedder, Prepared
from .chat_rows import chat_rows
from .checkpoint_files import naming_faults
from .embedder_source import SMOLLM2_FILE, EmbedderSource
from .embedder_weights import input_device, merge_adapters, require_packages, weight_options
from .llm2vec import attend_both_ways, check_frame
from .packing import WIDTH, pack_rows, plan
from .pooling import last_token_pool, mean_pool
from .self_check import CHECK_TEXTS, Settings, difference, tolerance
from .token_rows import TokenRow, pad_rows, plain_rows
from .unpacked_gguf import is_smollm2, load_unpacked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean_pool, "last_token": last_token_pool}


def load_causal_lm(
    config: EmbedderConfig, source: EmbedderSource, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model without its language-modelling head, adapters merged, and its tokenizer.

    Raises:
        ProclipError: a package that the files need is missing, they do not load or lack weights, or what they hold
            reads no texts alone.
    """
    weights = weight_options(config, device)
    load = partial(_from_files, config, weights)
    if source.gguf_file is not None:
        require_packages(["gguf", "accelerate"], "a GGUF file", "llm")
    if is_smollm2(source):
        model, tokenizer = load_unpacked(source.folder / SMOLLM2_FILE, weights["dtype"], load)
    else:
        model, tokenizer = load(source.folder, source.gguf_file)
    model.config.use_cache = False
    model = model if "device_map" in weights else model.to(device)  # type: ignore[arg-type]
    _check_decoder(model, config)
    return merge_adapters(model, source.adapters), tokenizer


def _from_files(
    config: EmbedderConfig, weights: dict[str, Any], folder: Path, gguf_file: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Of a folder's safetensors, or of the GGUF file in it."""
    import transformers

    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if gguf_file is None:
        weights = {**weights, "use_safetensors": True}
    else:
        options["gguf_file"] = gguf_file
        if hasattr(transformers, "GgufConfig"):
            # Versions that have it keep weights packed and look for kernels on the hub unless told otherwise.
            weights = {**weights, "quantization_config": transformers.GgufConfig(dequantize=True)}
    with naming_faults(f"embedder.model {config.model!r}: its tokenizer does not load", folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        tokenizer("a")
    with naming_faults(f"embedder.model {config.model!r} does not load", folder):
        model, found = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **options, **weights)
    if absent := sorted(found["missing_keys"]):
        raise ProclipError(f"embedder.model {config.model!r} lacks {len(absent)} weights, such as {absent[0]}")
    return model, tokenizer


@torch.inference_mode()
def _check_decoder(model: PreTrainedModel, config: EmbedderConfig) -> None:
    """Refuse a model that does not make states of text alone, by one token: a CLIP, an image tower, a T5.

    Raises:
        ProclipError: naming its class, and what would be right.
    """
    try:
        found = tuple(model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=input_device(model)))[0].shape)
        wanted = (1, 1, int(model.config.get_text_config().hidden_size))
        fault = "" if found == wanted else f"a token gives {found}, {wanted} is wanted"
    except Exception as error:  # each model's code raises something else where an input is missing
        fault = f"{type(error).__name__}: {one_line(error, 100)}"
    if fault:
        raise ProclipError(
            f"embedder.model {config.model!r} is no decoder that embeds texts but a {type(model).__name__} ({fault}): "
            "give a causal language model, or one that sentence-transformers declares (with modules.json)"
        )


def _context(model: PreTrainedModel) -> int | None:
    """Most tokens that the model's config allows a text; None where it says nothing."""
    text = model.config.get_text_config()
    named = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "n_ctx"))
    context = next((value for value in named if isinstance(value, int) and value > 0), None)
    for name, module in model.named_modules():
        if context and name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx:
            context -= module.padding_idx + 1  # RoBERTa's kind count positions from there
    return context


@final
class CausalLMEmbedder(BatchedEmbedder[TokenRow]):
    """A decoder as an embedder: with its own special tokens and causal mask, or as LLM2Vec makes one of it.

    The instruction is put before each text; backend ``causal-lm`` pools it too (but for `skip_tokens`), ``llm2vec``
    does not.

    Args:
        model: the model without its language-modelling head; its blocks above the layer are dropped.
        tokenizer: the model's.
        config: backend, pooling, layer, padding side, prompts, length, precision.
        identity: what a store records.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: EmbedderConfig,
        identity: dict[str, Any],
    ) -> None:
        super().__init__(config, identity, int(model.config.get_text_config().hidden_size), input_device(model))
        self.model, self.tokenizer = model, tokenizer
        self.padding_side = "left" if config.backend == "llm2vec" else config.padding_side
        self.max_length = min(config.max_length, _context(model) or config.max_length)
        model.train(False)
        self._states: list[Tensor] = []
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        if config.layer >= 0:
            _stop_after(model, config.layer, self._states.append)
        if config.backend == "llm2vec":
            check_frame(tokenizer, config)
            attend_both_ways(model, config)
        self.read_prompt()

    def read_prompt(self) -> None:
        """Check that the instruction leaves room for a text.

        Raises:
            ProclipError: it does not.
        """
        instruction, limit = self.config.instruction, self.max_length
        used = len(self.tokenizer(instruction, verbose=False)["input_ids"]) if instruction else 0
        if used >= limit:
            whose = "embedder.max_length is" if limit == self.config.max_length else "the model's own context is"
            raise ProclipError(f"embedder.instruction has {used} tokens, {whose} {limit}")

    def prepare(self, texts: Sequence[str]) -> Prepared[TokenRow]:
        """Token ids of each text, cut to the longest length allowed."""
        read = chat_rows if self.config.backend == "llm2vec" else plain_rows
        found = read(texts, self.tokenizer, replace(self.config, max_length=self.max_length))
        return Prepared(found.rows, [len(row.ids) for row in found.rows], found.cut)

    def other_padding(self) -> CausalLMEmbedder:
        """The same embedder with its batches padded on the other side."""
        view = copy.copy(self)
        view.padding_side = "left" if self.padding_side == "right" else "right"
        return view

    @property
    def settings(self) -> Settings:
        """Where to look when the self-check finds something wrong."""
        config = self.config
        if config.backend == "llm2vec":
            return Settings("embedder.chat (the text's own tokens are pooled)", "embedder.backend (llm2vec pads left)")
        pooling = f"embedder.pooling ({config.pooling}), embedder.layer ({config.layer})"
        return Settings(pooling, f"embedder.padding_side ({self.padding_side})")

    @property
    def fill(self) -> int:
        """The token at padding, which masks hide: that of the tokenizer, else its end, and 0 where it has neither."""
        return next((t for t in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if t is not None), 0)

    @torch.inference_mode()
    def forward(self, rows: Sequence[TokenRow]) -> Tensor:
        """One batch, padded, to vectors, [b, h]."""
        arrays = pad_rows(rows, self.fill, self.padding_side)
        return self.vectors(*(torch.from_numpy(array).to(self.device) for array in arrays))

    @cached_property
    def packs(self) -> bool:
        """Whether short texts go side by side: on a CPU, with a model of transformers' own that keeps them apart."""
        known = type(self.model).__module__.startswith("transformers.") and self._takes_positions
        if self.device.type != "cpu" or self.config.backend == "llm2vec" or not known:
            return False
        rows = self.prepare(CHECK_TEXTS).rows
        beside = self._packed([rows], width=sum(len(row.ids) for row in rows))  # however long the prompt
        alone = torch.cat([self.forward([row]) for row in rows])
        return difference(beside.float().cpu(), alone.float().cpu()) <= tolerance(self.config)

    def in_batches(self, prepared: Prepared[TokenRow], batch_tokens: int) -> Iterator[tuple[list[int], Tensor]]:
        """Places of texts and their vectors; short texts side by side where that costs less."""
        if not self.packs:
            yield from super().in_batches(prepared, batch_tokens)
            return
        padded, packed = plan(prepared.lengths, batch_tokens)
        for places in padded:
            yield places, self.forward([prepared.rows[place] for place in places])
        for lines in packed:
            rows = [[prepared.rows[place] for place in line] for line in lines]
            yield [place for line in lines for place in line], self._packed(rows)

    @torch.inference_mode()
    def _packed(self, lines: Sequence[Sequence[TokenRow]], width: int = WIDTH) -> Tensor:
        arrays = pack_rows(lines, self.fill, width)
        input_ids, positions, places = (torch.from_numpy(array).to(self.device) for array in arrays)
        hidden = self._hidden(input_ids=input_ids, position_ids=positions)
        pooled = torch.from_numpy(pad_rows([row for line in lines for row in line], self.fill, "right")[2])
        places, pooled = places.to(hidden.device), pooled.to(hidden.device)
        return POOLING[self.config.pooling](hidden.flatten(0, 1)[places], pooled)

    def vectors(self, input_ids: Tensor, attention_mask: Tensor, pooling_mask: Tensor) -> Tensor:
        """Token ids and masks as `pad_rows` gives them, [b, t] int64, to vectors, [b, h]."""
        positions = {}
        if self.padding_side == "left" and self._takes_positions:
            # A text's first token has position 0 however much padding stands before it.
            positions["position_ids"] = (attention_mask.cumsum(1) - 1).clamp(min=0)
        hidden = self._hidden(input_ids=input_ids, attention_mask=attention_mask, **positions)
        return POOLING[self.config.pooling](hidden, pooling_mask.to(hidden.device))

    def _hidden(self, **inputs: Tensor) -> Tensor:
        """The states that are pooled, [b, t, h]."""
        last: Tensor = self.model(**inputs).last_hidden_state
        return self._states.pop() if self.config.layer >= 0 else last


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
