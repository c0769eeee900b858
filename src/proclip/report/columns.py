"""The tables that a report knows: of the mini world, of the paper, and of whatever else was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from ..results import ModelResults
from .names import KINDS, LANGUAGES, METRICS, benchmark_label, part_label

DAGGER = "†"
"""Beside the heading of a figure whose data are not complete."""


def per_cent(share: float, sign: bool = False) -> str:
    """A share in per cent with one digit, halves away from 0: 0.0125 is 1.3, however its last binary digit fell.

    Args:
        share: 0 to 1, or a difference of such.
        sign: write a plus too, and a true minus.
    """
    exact = Decimal(repr(round(100 * share, 9)))
    text = f"{exact.quantize(Decimal('0.1'), ROUND_HALF_UP):{'+' if sign else ''}}"
    return text.replace("-", "−") if sign else text


@dataclass(frozen=True, kw_only=True)
class Column:
    """One figure of a table, or the mean of several."""

    keys: tuple[str, ...]
    """``BENCHMARK/KEY``; several: their mean, which only a model has that has all of them."""
    group: str
    """First line of the heading."""
    label: str
    """Second line of the heading."""
    complete: bool = True
    """Whether every model's data have the counts that their authors give; else its heading has a dagger."""

    @property
    def heading(self) -> str:
        """Second line of the heading as it is shown."""
        return self.label if self.complete else f"{self.label}{DAGGER}"

    @property
    def title(self) -> str:
        """Heading in one line."""
        text = " ".join(dict.fromkeys(part for part in (self.group, self.label) if part))
        return text if self.complete else f"{text}{DAGGER}"

    @property
    def is_score(self) -> bool:
        """Whether it is a share, of which more is better: neither a rank nor CKA."""
        return not any(key.endswith(("median_rank", "cka")) for key in self.keys)

    def shown(self, value: float) -> str:
        """A figure as text: per cent with one digit, CKA with three, a rank as it is."""
        if self.is_score:
            return per_cent(value)
        return f"{value:.3f}" if self.keys[0].endswith("cka") else f"{value:g}"


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A table before figures."""

    name: str
    """Short name, for files and labels."""
    title: str
    """Heading."""
    about: str
    """What its figures are, in a sentence."""
    columns: tuple[Column, ...]
    """Columns."""
    by_model: bool = True
    """Whether a row is a model; else a row is a figure, for what has too many of them."""


def _column(key: str, group: str, label: str) -> Column:
    return Column(keys=(key,), group=group, label=label)


PER_CLASS = frozenset({"fgvc_aircraft", "pets", "caltech101", "flowers"})
"""Sets whose accuracy the paper takes as the mean over classes."""
CLASSIFICATION = (
    "food101", "cifar10", "cifar100", "sun397", "cars", "fgvc_aircraft", "dtd", "pets", "caltech101", "flowers",
    "imagenet1k",
)  # fmt: skip
ROBUSTNESS = ("imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "imagenet_sketch")
SHORT_RETRIEVAL = ("flickr30k", "coco")
LONG_RETRIEVAL = ("sharegpt4v-1k", "urban-1k", "docci", "dci")
DIRECTIONS = {"i2t_r@1": "I→T", "t2i_r@1": "T→I"}
DEEPER = tuple(f"{way}_{what}" for way in ("i2t", "t2i") for what in ("r@5", "r@10", "median_rank"))


def zero_shot_key(name: str) -> str:
    """The figure of a classification set that the paper takes."""
    return f"{name}/{'mean_per_class' if name in PER_CLASS else 'acc1'}"


def _with_mean(columns: Sequence[Column]) -> tuple[Column, ...]:
    return (*columns, Column(keys=tuple(key for c in columns for key in c.keys), group="", label="Mean"))


def _retrieval() -> tuple[Column, ...]:
    sets = (*SHORT_RETRIEVAL, *LONG_RETRIEVAL)
    each = [_column(f"{s}/{key}", benchmark_label(s), way) for s in sets for key, way in DIRECTIONS.items()]
    means = [Column(keys=tuple(f"{s}/{key}" for s in sets), group="Mean", label=way) for key, way in DIRECTIONS.items()]
    return (*each, *means)


MINI = TableSpec(
    name="mini-world",
    title="The mini world",
    about="Per cent right on concepts that were never trained on. Zero-shot is the mean over classes; retrieval is "
    "recall at 1 (I→T: an image’s text; T→I: a text’s image); languages are T→I over all but English. CKA "
    "compares the image encoder with the original one: 1 is unmoved, and it is no score.",
    columns=(
        _column("mini-world/zero_shot/openmoji/mean_per_class", "Zero-shot", "OpenMoji"),
        _column("mini-world/zero_shot/twemoji/mean_per_class", "Zero-shot", "Twemoji"),
        _column("mini-world/retrieval_short/i2t_r@1", "Short texts", "I→T"),
        _column("mini-world/retrieval_short/t2i_r@1", "Short texts", "T→I"),
        _column("mini-world/retrieval_long/i2t_r@1", "Long texts", "I→T"),
        _column("mini-world/retrieval_long/t2i_r@1", "Long texts", "T→I"),
        _column("mini-world/multilingual/mean/t2i_r@1", "Languages", "mean"),
        _column("mini-world/pairs/mean", "Pairs", "mean"),
        _column("mini-world/hard_negatives/mean", "Hard neg.", "mean"),
        _column("mini-world/linear_probe/openmoji/acc1", "Linear", "probe"),
        _column("mini-world/cka", "CKA", "to CLIP"),
    ),
)
PAPER = (
    TableSpec(
        name="zero-shot",
        title="Zero-shot classification",
        about="Per cent right; Aircraft, Pets, Caltech101 and Flowers as the mean over classes, the others top 1.",
        columns=_with_mean([_column(zero_shot_key(name), "", benchmark_label(name)) for name in CLASSIFICATION]),
    ),
    TableSpec(
        name="robustness",
        title="Robustness",
        about="Zero-shot top 1 on other pictures of ImageNet’s classes, per cent; A, O and R over their 200 classes.",
        columns=_with_mean([_column(f"{name}/acc1", "", benchmark_label(name)) for name in ROBUSTNESS]),
    ),
    TableSpec(
        name="retrieval",
        title="Retrieval",
        about="Recall at 1, per cent: short texts (Flickr30k, COCO), long texts (the others).",
        columns=_retrieval(),
    ),
    TableSpec(
        name="linear-probe",
        title="Linear probe",
        about="Per cent right of logistic regression on frozen image features.",
        columns=_with_mean(
            [_column(f"probe-{zero_shot_key(name)}", "", benchmark_label(name)) for name in CLASSIFICATION]
        ),
    ),
)


def is_complete(model: ModelResults, column: Column) -> bool:
    """Whether none of a column's benchmarks is marked as not complete in a model's results."""
    found = (model.benchmarks.get(key.partition("/")[0]) for key in column.keys)
    return not any(result is not None and result.data.get("complete") is False for result in found)


def marked(columns: Sequence[Column], results: Sequence[ModelResults]) -> tuple[Column, ...]:
    """The columns, each saying whether it is complete: not if a model that has its figure was measured on less."""
    return tuple(
        replace(c, complete=all(is_complete(m, c) for m in results if all(m.figure(key) for key in c.keys)))
        for c in columns
    )


def _marked_specs(specs: Iterable[TableSpec], results: Sequence[ModelResults]) -> list[TableSpec]:
    return [replace(spec, columns=marked(spec.columns, results)) for spec in specs]


def _keys(results: Sequence[ModelResults], benchmark: str) -> list[str]:
    found = (model.benchmarks[benchmark].figures for model in results if benchmark in model.benchmarks)
    return list(dict.fromkeys(key for figures in found for key in figures))


def _multilingual(results: Sequence[ModelResults], benchmark: str, keys: Sequence[str]) -> Iterator[TableSpec]:
    """A table for each direction; languages in the order of their codes, means last."""
    for metric, way in DIRECTIONS.items():
        parts: dict[str, dict[str, str]] = {}
        for key in keys:
            prefix, _, last = key.rpartition("/")
            head, _, code = prefix.rpartition("/")
            if last == metric and (code in LANGUAGES or code.startswith("mean")):
                parts.setdefault(head, {})[code] = f"{benchmark}/{key}"
        for head, found in parts.items():
            codes = sorted(found, key=lambda code: (code.startswith("mean"), code))
            if sum(code in LANGUAGES for code in codes) < 2:
                continue
            yield TableSpec(
                name="-".join(p for p in (benchmark, head.replace("/", "-"), metric[:3]) if p),
                title=f"{benchmark_label(benchmark)}, language by language, {way}",
                about="Recall at 1, per cent, by the language of the texts.",
                columns=tuple(_column(found[code], way, part_label(code)) for code in codes),
                by_model=False,
            )


def _protocols(results: Sequence[ModelResults], benchmarks: Sequence[str]) -> str:
    """How benchmarks are measured, as their result files say: a sentence for each protocol, with names if several."""
    found: dict[str, dict[str, None]] = {}
    for name in benchmarks:
        for model in results:
            if result := model.benchmarks.get(name):
                found.setdefault(result.protocol.strip().rstrip("."), {})[benchmark_label(name)] = None
    if len(found) == 1:
        (only,) = found
        return f"{only[:1].upper()}{only[1:]}."
    return " ".join(f"{', '.join(names)}: {protocol}." for protocol, names in found.items())


def _parts(results: Sequence[ModelResults], benchmark: str, keys: Sequence[str]) -> Iterator[TableSpec]:
    """Tables of what is scored by visual pattern or by kind of false caption."""
    task = next(model.benchmarks[benchmark].task for model in results if benchmark in model.benchmarks)
    known = list(KINDS)
    for kind in ("pairs", "hard_negatives", "winoground"):
        prefix = f"{kind}/" if task == "world" else ""
        own = [k for k in keys if k.startswith(prefix) and "/" not in k.removeprefix(prefix)]
        if not own or task not in ("world", kind):
            continue
        own.sort(key=lambda k: (k == f"{prefix}mean", known.index(k) if k in known else len(known)))
        what = "pattern" if kind == "pairs" else "kind of change" if kind == "hard_negatives" else "score"
        yield TableSpec(
            name=f"{benchmark}-{kind.replace('_', '-')}" if prefix else benchmark,
            title=f"{benchmark_label(benchmark)}, {part_label(kind).lower()}" if prefix else benchmark_label(benchmark),
            about=f"Per cent right by {what}." if prefix else f"Per cent right. {_protocols(results, [benchmark])}",
            columns=tuple(_column(f"{benchmark}/{k}", "", part_label(k.removeprefix(prefix))) for k in own),
            by_model=len(own) <= 12,
        )


def _rest(results: Sequence[ModelResults], shown: set[str]) -> Iterator[TableSpec]:
    """The headline figures of every benchmark of which no other table shows any."""
    columns: dict[str, Column] = {}
    names: dict[str, None] = {}
    for model in results:
        for name, result in model.benchmarks.items():
            if name in shown:
                continue
            names[name] = None
            for key in result.headline:
                prefix, _, last = key.rpartition("/")
                columns.setdefault(
                    f"{name}/{key}", _column(f"{name}/{key}", _task_title(name, prefix), part_label(last))
                )
    if columns:
        yield TableSpec(
            name="other",
            title="Other benchmarks",
            about=f"Per cent. {_protocols(results, list(names))}",
            columns=tuple(columns.values()),
            by_model=len(columns) <= 12,
        )


def _task_title(benchmark: str, prefix: str) -> str:
    parts = [benchmark_label(benchmark), *(part_label(part) for part in prefix.split("/") if part)]
    return ", ".join(dict.fromkeys(parts))


def _deeper(results: Sequence[ModelResults]) -> Iterator[TableSpec]:
    """What the other tables leave out: recall beyond the first place and median ranks, and k-NN accuracy."""
    ranks: dict[str, Column] = {}
    neighbours: dict[str, Column] = {}
    for name in dict.fromkeys(name for model in results for name in model.benchmarks):
        for key in _keys(results, name):
            prefix, _, last = key.rpartition("/")
            code, title = prefix.rpartition("/")[2], _task_title(name, prefix)
            if last in DEEPER and code not in LANGUAGES:
                ranks[f"{name}/{key}"] = _column(f"{name}/{key}", title, METRICS[last])
            elif last == "knn_acc1":
                neighbours[f"{name}/{key}"] = _column(f"{name}/{key}", "", title.removesuffix(", probe"))
    if ranks:
        yield TableSpec(
            name="ranks",
            title="Retrieval beyond the first place",
            about="Recall at 5 and at 10, per cent; and the median rank of the first right answer, of which 1 is best.",
            columns=tuple(ranks.values()),
            by_model=len(ranks) <= 6,
        )
    if neighbours:
        yield TableSpec(
            name="k-nn",
            title="Nearest neighbours",
            about="Per cent right of a vote of the nearest training images, on frozen image features.",
            columns=tuple(neighbours.values()),
            by_model=len(neighbours) <= 12,
        )


def language_tables(results: Sequence[ModelResults]) -> list[TableSpec]:
    """Tables of benchmarks in several languages, of which any model has a figure."""
    names = dict.fromkeys(name for model in results for name in model.benchmarks)
    found = (spec for name in names for spec in _multilingual(results, name, _keys(results, name)))
    return _marked_specs(found, results)


def part_tables(results: Sequence[ModelResults]) -> list[TableSpec]:
    """Tables of benchmarks by pattern or kind, of which any model has a figure."""
    names = dict.fromkeys(name for model in results for name in model.benchmarks)
    return _marked_specs((spec for name in names for spec in _parts(results, name, _keys(results, name))), results)


def table_specs(results: Sequence[ModelResults]) -> list[TableSpec]:
    """Every table of which any model has a figure, with the columns of which any model has the figure."""
    return [*_main_tables(results), *_marked_specs(_deeper(results), results)]


def _main_tables(results: Sequence[ModelResults]) -> list[TableSpec]:
    found = [MINI, *PAPER, *language_tables(results), *part_tables(results)]
    kept = []
    for spec in found:
        columns = tuple(c for c in spec.columns if any(all(m.figure(k) for k in c.keys) for m in results))
        if columns:
            kept.append(replace(spec, columns=columns))
    shown = {key.partition("/")[0] for spec in kept for column in spec.columns for key in column.keys}
    return _marked_specs([*kept, *_rest(results, shown)], results)


def summary_columns(results: Sequence[ModelResults]) -> list[Column]:
    """The few figures that stand for all: those of the mini world's table, and the means of the others."""
    columns: list[Column] = []
    for spec in _main_tables(results):
        if spec.name == "mini-world":
            columns += spec.columns
        elif not spec.name.startswith("mini-world-"):
            means = [c for c in spec.columns if "Mean" in (c.group, c.label)]
            columns += [replace(c, group=spec.title, label=_way(c)) for c in means] or spec.columns
    return columns


def _way(column: Column) -> str:
    return "" if column.label == "Mean" else column.label
