"""The forgetting report: what a model gained and lost against the original CLIP, figure by figure, as it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from .. import distributed
from ..config import Recipe, config_hash
from ..evaluate.open_model import of_proclip, open_model
from ..evaluate.run import run_benchmark
from ..files import write_atomically, write_json
from ..models.proclip import ProCLIP
from ..results import Comparison, ModelResults, compare
from ..train.loop import Hook
from .console import print_whole
from .evaluate import evaluate_model, load_benchmarks
from .recipes import environment

FOLDER = "evaluation"
STYLES = {"better": "green", "worse": "red", "": "dim"}


class StageEvaluation:
    """Measures a model in training, and the original CLIP once.

    Args:
        recipe: of the run, with ``[evaluate]``, whose data are checked here, before anything is trained.
        folder: of the run; results go to ``evaluation/``.
        device: where the models compute.

    Raises:
        ProclipError: a benchmark is not there, or its data are not as they should be.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: str) -> None:
        config = recipe.evaluate
        assert config is not None
        self.config, self.clip, self.device = config, recipe.clip, device
        self.about = {"path": str(folder), "config_hash": config_hash(recipe), "seed": recipe.seed}
        self.folder, self.cache = folder / FOLDER, Path(config.cache)
        own = [Path(name) for name in config.folders]
        self.benchmarks = load_benchmarks(config.suite, Path(config.data_root), own, config.split, config.tasks)
        self.last: ModelResults | None = None
        """Of the stage that was reported last."""

    def hooks(self, model: ProCLIP, steps_per_epoch: int) -> list[Hook]:
        """What `fit` calls within a stage: logs each benchmark's headline figures as ``eval/BENCHMARK/KEY``."""
        if self.config.every_epochs == 0:
            return []

        def run(step: int) -> dict[str, float]:
            opened = of_proclip(model, f"step {step}", {}, kept=False)
            found = [run_benchmark(benchmark, opened, self.cache) for benchmark in self.benchmarks]
            opened.close()
            return {f"eval/{b.name}/{key}": b.figures[key].value for b in found for key in b.headline}

        return [Hook(every_steps=self.config.every_epochs * steps_per_epoch, run=run)]

    def report(self, model: ProCLIP, stage: str) -> None:
        """Measure, write ``STAGE.json`` and ``STAGE-forgetting.{json,md}``, and print the comparison."""
        original = open_model(self.clip, self.device)
        path = self.folder / "clip.json"
        before = evaluate_model(original, self.benchmarks, path, self.cache, original)
        opened = of_proclip(model, stage, self.about)
        after = evaluate_model(opened, self.benchmarks, self.folder / f"{stage}.json", self.cache, original)
        opened.close()
        if distributed.is_main():
            rows = compare(after, before).rows
            write_forgetting(rows, after, before, self.folder / f"{stage}-forgetting")
            print_forgetting(rows, f"after {stage}, against {self.clip}")
        self.last = after


def write_forgetting(rows: Sequence[Comparison], model: ModelResults, original: ModelResults, path: Path) -> None:
    """Write the comparison as JSON and as Markdown, ``path`` with the suffix of each."""
    values = {
        "model": dict(model.model),
        "original": dict(original.model),
        "figures": {row.key: {"original": row.second, "model": row.first, **row.paired._asdict()} for row in rows},
        "environment": environment(),
    }
    lines = ["| figure | original | now | change | 95 % interval |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        low, high = row.paired.low, row.paired.high
        change = f"{row.paired.difference:+.3f}"
        cells = [f"{row.second:.3f}", f"{row.first:.3f}", f"**{change}**" if row.paired.significant else change]
        lines.append(f"| {row.key} | " + " | ".join(cells) + f" | {low:+.3f} to {high:+.3f} |")
    write_json(path.with_name(f"{path.name}.json"), values)
    write_atomically(path.with_name(f"{path.name}.md"), "\n".join(lines) + "\n")


def print_forgetting(rows: Sequence[Comparison], title: str) -> None:
    """Print the comparison; what is surely gained is green, what is surely forgotten red."""
    table = Table("figure", "original", "now", "change", "95 % interval", "", title=title)
    for row in rows:
        cells = [f"{row.second:.3f}", f"{row.first:.3f}", f"{row.paired.difference:+.3f}"]
        interval = f"{row.paired.low:+.3f} to {row.paired.high:+.3f}"
        table.add_row(row.key, *cells, interval, row.first_is, style=STYLES[row.first_is])
    print_whole(table)
