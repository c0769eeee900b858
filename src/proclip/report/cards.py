"""What the models are, what they were measured on, and where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..results import BenchmarkResult, ModelResults
from .compared import Compared
from .html_table import scroll, swatch
from .names import benchmark_label

MODEL_FIELDS = {
    "path": "Path", "clip": "CLIP", "embedder": "Text embedder", "config_hash": "Config hash", "seed": "Seed",
    "revision": "Revision", "source": "Source",
}  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items() if not isinstance(one, (Mapping, list)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _list(entries: Sequence[tuple[str, str]]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries if value)
        + "</dl>"
    )


def model_cards(compared: Compared) -> str:
    """A card for each model: what its result file says of it."""
    cards = "".join(_model(model, compared) for model in compared.results)
    return f'<section><h2>Models</h2><div class="cards three">{cards}</div></section>'


def _model(model: ModelResults, compared: Compared) -> str:
    about = dict(model.model)
    identity = about.pop("identity", {})
    note = str(about.pop("note", ""))
    entries = [(label, _plain(about.pop(key))) for key, label in MODEL_FIELDS.items() if about.get(key) is not None]
    entries += [(key.replace("_", " ").capitalize(), _plain(v)) for key, v in about.items() if v is not None]
    commit = model.environment.get("commit")
    entries += [("Measured at", str(commit))] if commit else []
    seconds = sum(result.seconds for result in model.benchmarks.values())
    entries += [("Evaluation took", duration(seconds))] if seconds else []
    cut = {r.name: r.truncated["share"] for r in model.benchmarks.values() if r.truncated and r.truncated["share"]}
    entries += (
        [("Texts cut", ", ".join(f"{benchmark_label(n)} {share:.1%}" for n, share in cut.items()))] if cut else []
    )
    more = ""
    if identity:
        text = json.dumps(identity, indent=1, ensure_ascii=False)
        more = f"<details><summary>Identity</summary><pre>{escape(text)}</pre></details>"
    reference = (
        ' <small class="tag">reference</small>' if model is compared.reference and len(compared.results) > 1 else ""
    )
    lead = f'<p class="note">{escape(note)}</p>' if note else ""
    title = f"{swatch(compared, model.name)}{escape(model.name)}{reference}"
    return f'<article class="card plain"><h3>{title}</h3>{lead}{_list(entries)}{more}</article>'


def data_cards(compared: Compared) -> str:
    """A line for each benchmark: counts, checksum, protocol, whether it is complete; and who was measured on what."""
    names = dict.fromkeys(name for model in compared.results for name in model.benchmarks)
    rows = []
    for name in names:
        versions: dict[tuple[str, str], list[str]] = {}
        results: dict[tuple[str, str], BenchmarkResult] = {}
        for model in compared.results:
            if result := model.benchmarks.get(name):
                key = (str(result.data.get("checksum", "")), result.protocol)
                versions.setdefault(key, []).append(model.name)
                results.setdefault(key, result)
        rows += [_data(results[key], models if len(versions) > 1 else []) for key, models in versions.items()]
    head = "".join(
        f'<th scope="col">{label}</th>'
        for label in ("Benchmark", "Pictures", "Texts", "Prompts", "Checksum", "Protocol")
    )
    table = f'<table class="data"><thead class="one"><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f"<section><h2>Data</h2>{scroll('What was measured on', table)}</section>"


def _data(result: BenchmarkResult, models: Sequence[str]) -> str:
    data, prompts = result.data, result.prompts
    complete = data.get("complete")
    state = "" if complete is None or complete else ' <small class="tag warn">not complete</small>'
    of = f'<span class="ci">{escape(", ".join(models))}</span>' if models else ""
    asked = f"{prompts.get('classes', '?')} classes × {prompts.get('templates', '?')}" if prompts else "–"
    counts = "".join(f"<td>{_plain(data[key]) if key in data else '–'}</td>" for key in ("images", "texts"))
    checksum = str(data.get("checksum") or "–")[:12]
    rest = {k: v for k, v in data.items() if k not in ("images", "texts", "checksum", "complete")}
    more = f" ({_plain(rest)})" if rest else ""
    return (
        f'<tr><th scope="row">{escape(benchmark_label(result.name))}{state}{of}</th>{counts}<td>{escape(asked)}</td>'
        f'<td><code>{escape(checksum)}</code></td><td class="text">{escape(result.protocol + more)}</td></tr>'
    )


def environment_card(results: Sequence[ModelResults]) -> str:
    """Versions, machine and commands; models of one environment share it."""
    groups: dict[str, list[str]] = {}
    commands: dict[str, None] = {}
    for model in results:
        environment = dict(model.environment)
        if command := environment.pop("command", None):
            commands[str(command)] = None
        if environment:
            groups.setdefault(_environment(environment), []).append(model.name)
    if not groups and not commands:
        return ""
    listed = "".join(
        f'<p class="note"><b>{escape(", ".join(names) if len(groups) > 1 else "All models")}</b>: {escape(text)}</p>'
        for text, names in groups.items()
    )
    shown = "\n".join(commands)
    block = scroll("Commands", f"<pre>{escape(shown)}</pre>") if commands else ""
    return f"<section><h2>How it was measured</h2>{listed}{block}</section>"


def _environment(environment: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} {_plain(value)}" for key, value in environment.items() if value is not None)
