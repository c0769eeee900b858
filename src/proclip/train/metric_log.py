"""Where metrics go: always ``metrics.jsonl`` in the run folder, TensorBoard and Weights & Biases if asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..config import LogConfig
from ..distributed import is_main
from ..errors import ProclipError
from ..files import write_atomically


class MetricLogger:
    """One JSON object a line: ``stage``, ``step`` (steps done), ``epoch`` (passes done), then the metrics.

    Only the main process writes. Use it as a context manager around all stages of a run.

    Args:
        run_dir: the run folder.
        config: which writers beside the JSONL.

    Raises:
        ProclipError: a writer's package is not installed; the message names the extra.
    """

    def __init__(self, run_dir: Path, config: LogConfig) -> None:
        self.path = run_dir / "metrics.jsonl"
        self._writers: list[_TensorBoard | _Wandb] = []
        if is_main():
            run_dir.mkdir(parents=True, exist_ok=True)
            self._writers += [_TensorBoard(run_dir)] if config.tensorboard else []
            self._writers += [_Wandb(run_dir)] if config.wandb else []

    def start_stage(self, stage: str, step: int) -> None:
        """Begin or resume a stage at `step`: lines of it after that step are dropped, for they will come again."""
        if not is_main():
            return
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _is_kept(line, stage, step)]
            if kept != lines:
                write_atomically(self.path, "".join(f"{line}\n" for line in kept))
        for writer in self._writers:
            writer.start_stage(stage, step)

    def log(self, stage: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step; on disk when this returns."""
        if not is_main():
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "step": step, "epoch": epoch, **metrics}) + "\n")
        for writer in self._writers:
            writer.log(stage, step, metrics)

    def close(self) -> None:
        """Close the other writers."""
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _is_kept(line: str, stage: str, step: int) -> bool:
    try:
        record = json.loads(line)
        return bool(record["stage"] != stage or record["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False  # cut in the middle when the run was killed


def _require(module: str, setting: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ProclipError(
            f'log.{setting} is on, but its package is not installed: pip install "proclip-align[{extra}]"'
        ) from None


class _TensorBoard:
    """Event files under ``tensorboard/<stage>``."""

    def __init__(self, run_dir: Path) -> None:
        self._module = _require("torch.utils.tensorboard", "tensorboard", "train")
        self._folder = run_dir / "tensorboard"
        self._writer: Any = None

    def start_stage(self, stage: str, step: int) -> None:
        self.close()
        self._writer = self._module.SummaryWriter(str(self._folder / stage), purge_step=step + 1)

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Wandb:
    """One W&B run for the run folder, entered again when the run is; each stage counts its own steps."""

    def __init__(self, run_dir: Path) -> None:
        self._module = _require("wandb", "wandb", "wandb")
        run_id = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
        self._run = self._module.init(project="proclip", name=run_dir.name, dir=str(run_dir), id=run_id, resume="allow")

    def start_stage(self, stage: str, step: int) -> None:
        self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in metrics.items()}})

    def close(self) -> None:
        self._run.finish()
