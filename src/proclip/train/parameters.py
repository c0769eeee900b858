"""Which parameters are trained, how fast and with what decay: rules by name, layer decay, the table of both."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from ..config import OptimConfig, ParameterRule
from ..errors import ProclipError
from ..files import read_json, write_json

FILE = "parameters.json"
"""In the run folder: the table of each stage."""
DEFAULT = "default"
"""What is said to have decided where no rule matched."""
UNDECAYED = "logit_scale"
"""Group without decay, whatever the shape of its parameters."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are treated alike."""

    group: str
    """The stage's name of what they belong to: adapter, image_tower, ..."""
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """Decay."""
    frozen: bool
    """Not trained."""
    rule: str
    """Pattern of the rule that decided, `DEFAULT` where none matched."""
    named: list[tuple[str, nn.Parameter]] = field(default_factory=list, repr=False)
    """The parameters, with their names in the stage."""

    @property
    def numbers(self) -> int:
        """How many numbers they hold."""
        return sum(parameter.numel() for _, parameter in self.named)


def parameter_groups(
    groups: Mapping[str, Sequence[tuple[str, nn.Parameter]]],
    config: OptimConfig,
    layers_above: Mapping[str, int] | None = None,
) -> list[ParameterGroup]:
    """Every trainable parameter of a stage in exactly one group; nothing is changed yet.

    Args:
        groups: trainable parameters by group name, as `Stage.groups` gives them.
        config: rules and layer decay, and what holds where no rule matches.
        layers_above: of the image tower's parameters, as `Stage.layers_above` gives them.

    Returns:
        within each of the stage's groups those with decay (matrices) first.

    Raises:
        ProclipError: a rule decides for no parameter, layer decay without an image tower that is trained, or nothing
            is left to train.
    """
    above = layers_above or {}
    if config.layer_decay is not None and not above.keys() & {name for named in groups.values() for name, _ in named}:
        raise ProclipError(f"optim.layer_decay: this stage trains no image tower; it trains {', '.join(groups)}")
    rules = (*config.rules, ParameterRule(match="", lr=config.lr, weight_decay=config.weight_decay))
    found: dict[tuple[str, float, float, bool, str], ParameterGroup] = {}
    used: set[int] = set()
    for group, named in groups.items():
        decays = {name: parameter.ndim >= 2 and group != UNDECAYED for name, parameter in named}
        for name, parameter in sorted(named, key=lambda item: not decays[item[0]]):
            place, rule = next((n, rule) for n, rule in enumerate(rules) if re.search(rule.match, name))
            used.add(place)
            lr, decay = (config.lr if rule.lr is None else rule.lr), 0.0
            if decays[name]:
                decay = config.weight_decay if rule.weight_decay is None else rule.weight_decay
            if config.layer_decay is not None:
                lr *= config.layer_decay ** above.get(name, 0)
            pattern = rule.match if place < len(config.rules) else DEFAULT
            key = (group, 0.0, 0.0, True, pattern) if rule.freeze else (group, lr, decay, False, pattern)
            found.setdefault(key, ParameterGroup(*key)).named.append((name, parameter))
    names = [name for named in groups.values() for name, _ in named]
    for place, rule in enumerate(config.rules):
        if place not in used:
            raise ProclipError(_useless(rule, names, list(groups)))
    if all(entry.frozen for entry in found.values()):
        raise ProclipError("this stage has no trainable parameter")
    return list(found.values())


@contextmanager
def frozen(groups: Sequence[ParameterGroup]) -> Iterator[None]:
    """Within it the parameters that rules freeze get no gradient; another stage may train them."""
    parameters = [parameter for entry in groups if entry.frozen for _, parameter in entry.named]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def describe(name: str, groups: Sequence[ParameterGroup]) -> Table:
    """The table of a stage, to be printed."""
    columns = ("group", "parameters", "numbers", "learning rate", "weight decay", "rule")
    table = Table(*columns, title=f"{name}: what is trained")
    for entry in groups:
        rates = ("frozen", "") if entry.frozen else (f"{entry.lr:.4g}", f"{entry.weight_decay:g}")
        table.add_row(entry.group, str(len(entry.named)), f"{entry.numbers:,}", *rates, Text(entry.rule))
    trained = [entry for entry in groups if not entry.frozen]
    counts = sum(len(entry.named) for entry in trained), sum(entry.numbers for entry in trained)
    table.add_section()
    table.add_row("trained", str(counts[0]), f"{counts[1]:,}", "", "", "")
    return table


def show_parameters(run_dir: Path, name: str, groups: Sequence[ParameterGroup]) -> None:
    """Print the table of a stage, and write it with the parameters' names into the run folder."""
    Console(stderr=True).print(describe(name, groups))
    path = run_dir / FILE
    tables: dict[str, Any] = read_json(path) if path.is_file() else {}
    rows = []
    for entry in groups:
        row = {"group": entry.group, "parameters": len(entry.named), "numbers": entry.numbers, "lr": entry.lr}
        row |= {"weight_decay": entry.weight_decay, "frozen": entry.frozen, "rule": entry.rule}
        row |= {"names": [name for name, _ in entry.named]}
        rows.append(row)
    write_json(path, tables | {name: rows})


def _useless(rule: ParameterRule, names: Sequence[str], groups: Sequence[str]) -> str:
    """What is wrong with a rule that decides for no parameter."""
    if any(re.search(rule.match, name) for name in names):
        return f"optim.rules: {rule.match!r} decides nothing: rules before it match all of its parameters"
    beginnings = {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}
    near = difflib.get_close_matches(re.sub(r"[\\^$]|\.?[*+]", "", rule.match), sorted(beginnings), n=3, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else f"the stage trains {', '.join(groups)}"
    return f"optim.rules: {rule.match!r} matches no parameter of this stage; {hint}"
