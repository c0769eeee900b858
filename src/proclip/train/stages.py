"""The stages of training: each class is one objective of the paper, and nothing of how it is optimised.

Letters: b batch of this process, n global batch (all processes), h width of the LLM's embeddings, d shared width.
All losses are over the global batch: embeddings are gathered with gradient, and every process takes the part of its
own rows, so that one process and several give the same loss and the same gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DistillConfig, DistillLossConfig, OptimConfig, PretrainConfig, TuneConfig
from ..data.batches import DistillBatch, PairIds, PretrainBatch, TuneBatch
from ..distributed import gather, own_rows
from ..errors import ProclipError
from ..losses import DistillationTerms, contrastive_loss, distillation_loss, sigmoid_loss
from ..models.arithmetic import has_bfloat16
from ..models.image_tuning import ImageTuner
from ..models.proclip import MAX_LOGIT_SCALE
from ..models.towers import ImageTower

Groups = dict[str, list[tuple[str, nn.Parameter]]]
"""Trainable parameters with their names in the stage's state dict, by group: adapter, image_tower, ..."""

Embeds = dict[str, Tensor]
"""L2-normalised float32 embeddings [b, d] of this process's samples, by name."""


class Stage(nn.Module, ABC):
    """What `fit` needs to know of an objective. The state dict holds all that a resumed run needs, teachers too."""

    @abstractmethod
    def groups(self) -> Groups:
        """The parameters to train, by group."""

    def layers_above(self) -> dict[str, int]:
        """For layer decay: of each parameter of an image tower, by name, how many layers lie above it."""
        return {}

    @abstractmethod
    def encode(self, batch: Any) -> Embeds:
        """What is trained, on this process's samples: embeds [b, d] by name, L2-normalised, with gradient."""

    def targets(self, batch: Any) -> Embeds:
        """What they are held near, [b, d] by name, without gradient."""
        return {}

    @abstractmethod
    def objective(self, embeds: Embeds, targets: Embeds, batch: Any) -> dict[str, Tensor]:
        """Scalars whose mean over processes is the global batch's: ``loss`` is differentiated, the others are logged.

        No tower runs here. Of a batch of pairs only what `PairIds` has may be read.
        """

    def loss(self, batch: Any, encode: Callable[[Any], Embeds] | None = None) -> dict[str, Tensor]:
        """`objective` of a batch that fits into memory as a whole; `encode` where another is to run the towers."""
        return self.objective((encode or self.encode)(batch), self.targets(batch), batch)

    @abstractmethod
    def after_step(self) -> None:
        """What follows every step of the optimiser."""

    def finish(self) -> None:
        """When all is trained: make the model what is to be saved, in place."""


@final
class TextDistillation(Stage):
    """Stage 1, representation inheritance: the adapter learns the space of CLIP's text tower, from texts alone.

    L_dis = L_ins + L_struct (Eq. 3 of the paper) between ``t* = adapter(t')``, the student, and ``e``, the CLIP text
    tower's embedding of the same text, the teacher. Both were L2-normalised; t' and e were computed once, offline.

    Args:
        adapter: llm_embeds [b, h] -> text features [b, d].
        config: of stage 1.
    """

    def __init__(self, adapter: nn.Module, config: DistillConfig) -> None:
        super().__init__()
        self.adapter, self.config = adapter, config

    def groups(self) -> Groups:
        """The adapter."""
        return {"adapter": _trainable("adapter", self.adapter)}

    def encode(self, batch: DistillBatch) -> Embeds:
        """t*, ``text``: the adapter on the LLM's embeddings."""
        with _autocast(self.config.optim, batch.llm_embeds):
            text_features = self.adapter(batch.llm_embeds.float())
        return {"text": _normalize(text_features)}

    def targets(self, batch: DistillBatch) -> Embeds:
        """e, ``text``: what CLIP's text tower gave, from the store."""
        return {"text": batch.teacher_embeds.float()}

    def objective(self, embeds: Embeds, targets: Embeds, batch: DistillBatch) -> dict[str, Tensor]:
        """L_dis, Eq. 3; ``instance`` and ``structure`` are its unweighted means (Eq. 1, Eq. 2)."""
        rows = own_rows(len(embeds["text"]))
        terms = _distillation(gather(embeds["text"]), gather(targets["text"]), self.config.loss, rows)
        return {"loss": terms.loss, "instance": terms.instance, "structure": terms.structure}

    def after_step(self) -> None:
        """Nothing."""


@final
class ImageTextTuning(Stage):
    """Stage 2, contrastive tuning with self-distillation: image tower and adapter learn each other's space.

    L_tune = L_info + lambda L_reg (Eq. 6): L_info is the symmetric InfoNCE of images and captions (Eq. 4), L_reg
    holds the image embeddings near those that an EMA teacher, a slow copy of the image tower, gives for the same
    pixels (Eq. 5). With lambda 0, or the image tower locked (LiT), there is no teacher.

    Ours, not the paper's, in the config: L_info as SigLIP's sigmoid loss; which part of the image tower is trained
    (``image``, see `ImageTuner`); a teacher that stands still, ``frozen``, or whose embeddings of the plain pictures
    come with the batch, ``cached``, a target that does not follow the augmentation; and L_reg over every so many-th
    picture alone, ``teacher_stride``.

    Args:
        image_tower: pixel_values [b, 3, s, s] -> image features [b, d]; made ready for training in place.
        adapter: llm_embeds [b, h] -> text features [b, d].
        logit_scale: log of the inverse temperature; kept in [0, ln 100] under InfoNCE, CLIP's rule. The sigmoid loss
            learns it together with the bias, without limits, as SigLIP's does (whose models end near ln 115).
        config: of stage 2.
        logit_bias: of the sigmoid loss, and for it alone: a constant on all logits cancels in a softmax.

    Raises:
        ProclipError: the sigmoid loss without a bias or InfoNCE with one, micro batches of a tower whose batch
            normalisation would see them, or what `ImageTuner` refuses.
    """

    def __init__(
        self,
        image_tower: nn.Module,
        adapter: nn.Module,
        logit_scale: nn.Parameter,
        config: TuneConfig,
        logit_bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        if (logit_bias is not None) != (config.contrastive == "sigmoid"):
            raise ProclipError(
                f"tune.contrastive is {config.contrastive!r}: the sigmoid loss, and it alone, has a bias"
            )
        self.image_tower, self.adapter, self.logit_scale, self.config = image_tower, adapter, logit_scale, config
        self.logit_bias = logit_bias
        self.locked = config.image.mode == "locked"
        if config.micro_batch_size is not None and not self.locked:
            _refuse_batch_norm(image_tower, "tune.micro_batch_size")
        self.regularised = config.distillation_weight > 0 and not self.locked
        online = config.teacher if self.regularised and config.teacher != "cached" else None
        self._tuner = ImageTuner(image_tower, config.image, online)
        self.teacher = self._tuner.teacher

    def train(self, mode: bool = True) -> ImageTextTuning:
        """Training mode of what is trained; the teacher and a locked image tower stay in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        if self.locked:
            self.image_tower.eval()
        return self

    def groups(self) -> Groups:
        """The adapter, what is trained of the image tower, and the temperature with the sigmoid loss's bias."""
        groups: Groups = {"adapter": _trainable("adapter", self.adapter)}
        if not self.locked:
            groups["image_tower"] = _trainable("image_tower", self.image_tower)
        scalars = {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias}
        return {**groups, "logit_scale": [(name, p) for name, p in scalars.items() if p is not None]}

    def layers_above(self) -> dict[str, int]:
        """Of the image tower; nothing where it is locked."""
        return {} if self.locked else _layers_above(self.image_tower)

    def encode(self, batch: TuneBatch) -> Embeds:
        """v, ``image``, and t*, ``text``."""
        with _autocast(self.config.optim, batch.pixel_values):
            with torch.no_grad() if self.locked else nullcontext():
                image_features = self._tuner.run_tower(batch.pixel_values)
            text_features = self.adapter(batch.llm_embeds)
        return {"image": _normalize(image_features), "text": _normalize(text_features)}

    @torch.no_grad()
    def targets(self, batch: TuneBatch) -> Embeds:
        """v*, ``image``: the teacher on the very pixels that the student saw, or what was cached of the plain pictures.

        Of every ``teacher_stride``-th picture. Nothing without L_reg.
        """
        if not self.regularised:
            return {}
        if self.config.teacher == "cached":
            if batch.teacher_embeds is None:
                raise ProclipError("tune.teacher = 'cached': the batch has no teacher_embeds")
            return {"image": batch.teacher_embeds}
        run_teacher = self._tuner.run_teacher
        assert run_teacher is not None
        with _autocast(self.config.optim, batch.pixel_values):
            image_features = run_teacher(batch.pixel_values[:: self.config.teacher_stride])
        return {"image": _normalize(image_features)}

    def objective(self, embeds: Embeds, targets: Embeds, batch: TuneBatch | PairIds) -> dict[str, Tensor]:
        """L_tune, Eq. 6; ``contrastive`` is L_info, ``instance`` and ``structure`` the unweighted means in L_reg."""
        image_embeds, text_embeds = gather(embeds["image"]), gather(embeds["text"])  # [n, d]
        rows = own_rows(len(embeds["image"]))
        ids = {"image_ids": gather(batch.image_ids), "text_ids": gather(batch.text_ids)}
        masked = ids if self.config.mask_duplicates else {}
        logged: dict[str, Tensor] = {"logit_scale": self.logit_scale}
        if self.logit_bias is None:
            info = contrastive_loss(image_embeds, text_embeds, self.logit_scale, rows=rows, **masked)
        else:
            info = sigmoid_loss(image_embeds, text_embeds, self.logit_scale, self.logit_bias, rows=rows, **masked)
            logged["logit_bias"] = self.logit_bias
        logged = {"contrastive": info, **logged}
        if not self.regularised:
            return {"loss": info, **logged}
        stride = self.config.teacher_stride
        held = image_embeds if stride == 1 else gather(embeds["image"][::stride])
        reg = _distillation(held, gather(targets["image"]), self.config.loss, own_rows(len(targets["image"])))
        loss = info + self.config.distillation_weight * reg.loss
        return {"loss": loss, **logged, "instance": reg.instance, "structure": reg.structure}

    def after_step(self) -> None:
        """Clamp InfoNCE's temperature; ``teacher <- a teacher + (1 - a) student`` where it is an EMA."""
        self._tuner.check_gradients()
        if self.logit_bias is None:
            _clamp(self.logit_scale)
        if self.teacher is not None and self.config.teacher == "ema":
            self._tuner.update_teacher(self.config.ema_decay)

    def finish(self) -> None:
        """When all is trained: LoRA's changes become plain weights of the image tower, in place; the teacher goes."""
        self.teacher = None
        self._tuner.merge()


@final
class ContrastivePretraining(Stage):
    """Contrastive pretraining of a whole CLIP: the symmetric InfoNCE of images and captions (Eq. 4) alone.

    Args:
        image_tower: pixel_values [b, 3, s, s] -> image features [b, d].
        text_tower: input_ids, attention_mask [b, t] -> text features [b, d].
        logit_scale: log of the inverse temperature, kept in [0, ln 100].
        config: of pretraining.
    """

    def __init__(
        self, image_tower: nn.Module, text_tower: nn.Module, logit_scale: nn.Parameter, config: PretrainConfig
    ) -> None:
        super().__init__()
        self.image_tower, self.text_tower, self.logit_scale, self.config = image_tower, text_tower, logit_scale, config
        if config.micro_batch_size is not None:
            _refuse_batch_norm(image_tower, "pretrain.micro_batch_size")

    def groups(self) -> Groups:
        """Both towers and the temperature."""
        towers = {"image_tower": self.image_tower, "text_tower": self.text_tower}
        groups = {name: _trainable(name, tower) for name, tower in towers.items()}
        return {**groups, "logit_scale": [("logit_scale", self.logit_scale)]}

    def layers_above(self) -> dict[str, int]:
        """Of the image tower; the text tower learns at one rate."""
        return _layers_above(self.image_tower)

    def encode(self, batch: PretrainBatch) -> Embeds:
        """``image`` and ``text``."""
        with _autocast(self.config.optim, batch.pixel_values):
            image_features = self.image_tower(batch.pixel_values)
            text_features = self.text_tower(batch.input_ids, batch.attention_mask)
        return {"image": _normalize(image_features), "text": _normalize(text_features)}

    def objective(self, embeds: Embeds, targets: Embeds, batch: PretrainBatch | PairIds) -> dict[str, Tensor]:
        """InfoNCE, Eq. 4."""
        loss = contrastive_loss(
            gather(embeds["image"]), gather(embeds["text"]), self.logit_scale,
            image_ids=gather(batch.image_ids), text_ids=gather(batch.text_ids), rows=own_rows(len(embeds["image"])),
        )  # fmt: skip
        return {"loss": loss, "logit_scale": self.logit_scale}

    def after_step(self) -> None:
        """Clamp the temperature."""
        _clamp(self.logit_scale)


def _trainable(group: str, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(f"{group}.{name}", p) for name, p in module.named_parameters() if p.requires_grad]


def _layers_above(tower: nn.Module) -> dict[str, int]:
    known = tower.layers_above() if isinstance(tower, ImageTower) else {}
    return {f"image_tower.{name}": count for name, count in known.items()}


def _refuse_batch_norm(tower: nn.Module, field: str) -> None:
    """Its statistics are of the samples that are encoded together: parts of a batch do not give what the whole does."""
    if found := next((n for n, m in tower.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)), None):
        raise ProclipError(f"{field}: the image tower has batch normalisation ({found}), which needs the whole batch")


def _normalize(features: Tensor) -> Tensor:
    """Features of any precision to float32 embeds: losses are never in half precision."""
    return F.normalize(features.float(), dim=-1)


def _distillation(student: Tensor, teacher: Tensor, config: DistillLossConfig, rows: slice | None) -> DistillationTerms:
    return distillation_loss(
        student, teacher, instance_weight=config.instance_weight, structure_weight=config.structure_weight,
        structure=config.structure, reduction=config.reduction, reference_batch=config.reference_batch,
        rows=rows,
    )  # fmt: skip


@torch.no_grad()
def _clamp(logit_scale: nn.Parameter) -> None:
    logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)


def _autocast(optim: OptimConfig, like: Tensor) -> torch.autocast:
    """Autocast of the towers, on the device of `like`, as ``optim.autocast`` says; none where bfloat16 is slow."""
    dtype = torch.float16 if optim.autocast == "float16" else torch.bfloat16
    on = optim.autocast == "float16" or (optim.autocast == "bfloat16" and has_bfloat16(like.device.type))
    return torch.autocast(like.device.type, dtype=dtype, enabled=on)
