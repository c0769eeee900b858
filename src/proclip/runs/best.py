"""The model of a stage's best step, saved beside that of its last."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from ..distributed import is_main
from ..models.proclip import ProCLIP
from ..train.checkpoint import checkpoint_path, load_stage
from ..train.loop import FitResult, checkpoints_of
from ..train.stages import Stage
from .console import say

FOLDER = "model-best"


def save_best(fitted: FitResult, name: str, stage: Stage, model: ProCLIP, folder: Path, made: dict[str, Any]) -> None:
    """Save the model as it was after the best step by ``log.keep_best``, and say which step that is.

    Args:
        fitted: what `fit` returned; nothing is saved without a best step, or where it is the last.
        name: of the stage.
        stage: as the last step left it, not finished; it stays so.
        model: that it trains.
        folder: of the run.
        made: provenance of the model.
    """
    best = fitted.best
    if best is None or not is_main():
        return
    line = f"{name}: best {best.key} after step {best.step} of {fitted.steps}: {best.value:.4f}"
    if best.step == fitted.steps:
        say(f"{line}, the model of the last step")
        return
    stage_then, model_then = copy.deepcopy((stage, model))  # together: the one holds parts of the other
    load_stage(checkpoint_path(checkpoints_of(folder, name), best.step), stage_then)
    stage_then.finish()
    model_then.provenance = made | {"step": best.step, "chosen by": {best.key: best.value}}
    draft = folder / f"{FOLDER}.part"
    for old in (draft, folder / FOLDER):
        shutil.rmtree(old, ignore_errors=True)
    model_then.cpu().save_pretrained(draft)
    draft.replace(folder / FOLDER)
    say(f"{line}: {folder / FOLDER}")
