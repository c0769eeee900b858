"""The schema of a run: frozen dataclasses with the paper's values as defaults; each checks its own ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .data import DataConfig
from .embedder import EmbedderConfig
from .evaluation import EvaluateConfig
from .image_tuning import ImageTuningConfig
from .optim import OptimConfig
from .ranges import require


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The trained MLP from the LLM's space to CLIP's (LLM2CLIP family: N residual blocks, LayerNorm, Linear)."""

    num_blocks: int = 4
    """N, residual blocks."""
    expansion: int = 2
    """r, hidden width of a block over its input width."""
    dropout: float = 0.0
    """Dropout inside the blocks."""
    input_norm: Literal["l2", "standardize", "none"] = "l2"
    """``l2`` (the paper; for contrastively trained embedders), ``standardize``: each dimension by the
    training captions' mean and deviation, kept with the adapter (for the raw states of a causal LM), or ``none``
    (LLM2CLIP's SigLIP2 models, which embed captions while they train)."""

    def __post_init__(self) -> None:
        require(self.num_blocks >= 0, "adapter.num_blocks", "0 or more", self.num_blocks)
        require(self.expansion >= 1, "adapter.expansion", "1 or more", self.expansion)
        require(0 <= self.dropout < 1, "adapter.dropout", "in [0, 1)", self.dropout)


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
        require(self.reference_batch >= 2, "loss.reference_batch", "at least 2", self.reference_batch)
        require(self.instance_weight >= 0, "loss.instance_weight", "0 or more", self.instance_weight)
        require(self.structure_weight >= 0, "loss.structure_weight", "0 or more", self.structure_weight)


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Stage 1, representation inheritance: CLIP's text tower taught to the adapter, from store columns only."""

    split: str = "align"
    """Rows of metadata.jsonl whose ``splits`` have this value, or with ``not NAME`` all but those of that split."""
    captions: tuple[str, ...] = ("short",)
    """Caption columns that the LLM reads; each (sample, column) is one text of a batch."""
    teacher_captions: Mapping[str, str] = field(default_factory=dict)
    """Which column the teacher reads where it is another, as in ``{name_de = "name_en"}``: multilingual inheritance."""
    skip_truncated: bool = False
    """Leave out texts that the teacher cannot read whole: what it gives for their beginning is no target for all of
    them. ``proclip align`` turns it on."""
    epochs: int = 4
    """Passes over the texts."""
    batch_size: int = 128
    """Texts a step (on each process)."""
    loss: DistillLossConfig = field(default_factory=lambda: DistillLossConfig(reference_batch=128))
    """Instance and structure losses."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""

    def __post_init__(self) -> None:
        require(len(self.captions) > 0, "distill.captions", "at least one caption column", self.captions)
        require(self.epochs >= 1, "distill.epochs", "1 or more", self.epochs)
        require(self.batch_size >= 2, "distill.batch_size", "at least 2", self.batch_size)


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
        require(0 < self.min_scale <= 1, "augment.min_scale", "in (0, 1]", self.min_scale)
        require(0 <= self.rotation <= 180, "augment.rotation", "in [0, 180] degrees", self.rotation)
        require(0 <= self.brightness < 1, "augment.brightness", "in [0, 1)", self.brightness)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Stage 2, contrastive tuning with self-distillation: image tower and adapter, held back by an EMA teacher."""

    split: str = "align"
    """Rows of metadata.jsonl whose ``split`` has this value."""
    captions: tuple[str, ...] | Mapping[str, float] = ("short", "long")
    """Caption columns; one is drawn for each image at each step: with equal chances, or with those of a table,
    ``{raw = 0.2, short = 0.4, long = 0.4}`` (relative to their sum)."""
    epochs: int = 4
    """Passes over the images."""
    batch_size: int = 512
    """Pairs a step (on each process)."""
    micro_batch_size: int | None = None
    """Pairs that are in memory at a time: the batch is walked twice in such parts, for the loss and gradient of the
    whole at about a third more time (cached gradients, docs/method.md). None: the whole batch at once."""
    distillation_weight: float = 4e-4
    """lambda of the paper; 0 is contrastive tuning alone and builds no teacher."""
    contrastive: Literal["infonce", "sigmoid"] = "infonce"
    """L_info: the paper's symmetric InfoNCE, or SigLIP's sigmoid loss with a learned bias."""
    mask_duplicates: bool = True
    """Pairs that share an image or a caption are no negatives of each other."""
    teacher: Literal["ema", "frozen", "cached"] = "ema"
    """Whose image embeddings L_reg holds the student near: a moving average of the student (the paper), the original
    image tower on the same augmented pixels, or the original tower's embeddings of the plain pictures, computed once
    before the stage and stored: no teacher in memory, no second forward pass, but a target that knows nothing of the
    augmentation."""
    ema_decay: float = 0.999
    """a of the paper, of the teacher ``ema``: teacher <- a teacher + (1 - a) student after every step."""
    teacher_stride: int = 1
    """L_reg is taken over every so many-th picture of a batch, which is in random order, and a teacher in memory sees
    these alone; lambda means the same. 1 is the paper; 2 halves what the teacher costs."""
    image: ImageTuningConfig = field(default_factory=ImageTuningConfig)
    """What of the image tower is trained."""
    loss: DistillLossConfig = field(default_factory=DistillLossConfig)
    """The regulariser's instance and structure losses."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the images."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser."""

    def __post_init__(self) -> None:
        require(len(self.captions) > 0, "tune.captions", "at least one caption column", self.captions)
        for column, chance in self.captions.items() if isinstance(self.captions, Mapping) else ():
            require(chance > 0, f"tune.captions.{column}", "a chance above 0", chance)
        require(self.epochs >= 1, "tune.epochs", "1 or more", self.epochs)
        require(self.batch_size >= 2, "tune.batch_size", "at least 2", self.batch_size)
        require(self.distillation_weight >= 0, "tune.distillation_weight", "0 or more", self.distillation_weight)
        require(0 <= self.ema_decay <= 1, "tune.ema_decay", "in [0, 1]", self.ema_decay)
        of_use = self.teacher == "ema" or (self.distillation_weight > 0 and self.image.mode != "locked")
        why = "left alone where there is nothing to hold back (tune.image.mode 'locked' or distillation_weight 0)"
        require(of_use, "tune.teacher", why, self.teacher)
        plain = self.optim.parallel == "ddp" or (self.image.mode != "lora" and not self.image.compile)
        why = "'ddp' with tune.image.mode = 'lora' and with tune.image.compile"
        require(plain, "tune.optim.parallel", why, self.optim.parallel)
        _require_parts("tune", self.batch_size, self.micro_batch_size)
        self._check_stride()

    def _check_stride(self) -> None:
        stride, batch = self.teacher_stride, self.micro_batch_size or self.batch_size
        require(stride >= 1, "tune.teacher_stride", "1 or more", stride)
        if stride == 1:
            return
        parts = f" and {batch} (micro_batch_size)" if self.micro_batch_size else ""
        fits = batch % stride == 0 and self.batch_size % stride == 0 and self.batch_size >= 2 * stride
        what = f"a divisor of {self.batch_size} (tune.batch_size){parts} that leaves two pictures of a batch"
        require(fits, "tune.teacher_stride", what, stride)
        require(
            self.teacher != "cached", "tune.teacher_stride", "1 for the teacher 'cached', which costs nothing", stride
        )
        paper = self.loss.reduction == "paper"
        require(not paper, "tune.teacher_stride", "1 where tune.loss.reduction is 'paper': sums over the batch", stride)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Contrastive pretraining of a whole small CLIP from scratch: how the mini world's teacher is made."""

    split: str = "pretrain"
    """Rows of metadata.jsonl."""
    init: str | None = None
    """CLIP checkpoint whose pretraining goes on; sizes, vocabulary and preprocessing are then its own, not the
    fields below."""
    captions: tuple[str, ...] = ("short",)
    """Caption columns; one is drawn for each image at each step."""
    epochs: int = 60
    """Passes over the images."""
    batch_size: int = 256
    """Pairs a step (on each process)."""
    micro_batch_size: int | None = None
    """Pairs that are in memory at a time, see `TuneConfig`; None: the whole batch at once."""
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
        require(
            self.image_size % self.patch_size == 0, "pretrain.image_size", "a multiple of patch_size", self.image_size
        )
        require(
            self.image_width % 64 == 0, "pretrain.image_width", "a multiple of 64 (a head's width)", self.image_width
        )
        require(self.text_width % 64 == 0, "pretrain.text_width", "a multiple of 64 (a head's width)", self.text_width)
        require(self.epochs >= 1, "pretrain.epochs", "1 or more", self.epochs)
        require(self.batch_size >= 2, "pretrain.batch_size", "at least 2", self.batch_size)
        _require_parts("pretrain", self.batch_size, self.micro_batch_size)


def _require_parts(stage: str, batch_size: int, micro_batch_size: int | None) -> None:
    fits = micro_batch_size is None or 1 <= micro_batch_size < batch_size
    require(fits, f"{stage}.micro_batch_size", f"in [1, {batch_size}), {stage}.batch_size", micro_batch_size)


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Progress, metrics and checkpoints."""

    every_steps: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every_steps: int = 200
    """Steps between two checkpoints; one is also written at the end of every stage."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    keep_best: str | None = field(default=None, metadata={"hashed": False})
    """Figure of ``[evaluate]``, such as ``zero_shot/openmoji/mean_per_class``, by which the best checkpoint of a stage
    stays too; the model of the last stage's is saved beside the last one."""
    best_is: Literal["highest", "lowest"] = field(default="highest", metadata={"hashed": False})
    """Which value of that figure is the best."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra ``train``)."""
    wandb: bool = False
    """Also log to Weights & Biases (extra ``wandb``)."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "log.every_steps", "1 or more", self.every_steps)
        require(
            self.checkpoint_every_steps >= 1, "log.checkpoint_every_steps", "1 or more", self.checkpoint_every_steps
        )
        require(self.keep_checkpoints >= 1, "log.keep_checkpoints", "1 or more", self.keep_checkpoints)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: stage 1 (`distill`), then stage 2 (`tune`), either left out as a baseline asks; or `pretrain` alone."""

    name: str
    """Name of the method, as tables show it."""
    seed: int = 0
    """Of initial weights, order, augmentation and caption choice."""
    init: str | None = None
    """A proclip model whose adapter is the start, as in stage 1 trained once for several stages 2."""
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
    evaluate: EvaluateConfig | None = field(default=None, metadata={"hashed": False})
    """What is measured after every stage; it changes no model."""
    log: LogConfig = field(default_factory=LogConfig)
    """Progress, metrics, checkpoints."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", "in [0, 2^63)", self.seed)
        plain = self.name not in ("", ".", "..") and not set(self.name) & set("/\\")
        require(plain, "name", "a name that can be a folder's", self.name)
        stages = [s for s in ("distill", "tune", "pretrain") if getattr(self, s) is not None]
        require(bool(stages), "the recipe's stages", "at least one of [distill], [tune], [pretrain]", stages)
        require(self.pretrain is None or len(stages) == 1, "[pretrain]", "the only stage of its recipe", stages)
        measured = self.evaluate is not None and self.evaluate.every_epochs > 0 and self.pretrain is None
        why = "left alone without [evaluate] and its every_epochs, which measure within a stage"
        require(self.log.keep_best is None or measured, "log.keep_best", why, self.log.keep_best)
