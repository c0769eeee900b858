"""Fill docs/performance.md in from the result files, so that the two cannot differ.

    python benchmarks/performance.py

The page has a place for each benchmark, between ``<!-- figures: NAME -->`` and ``<!-- end -->``; what stands there is
made from ``benchmarks/results/NAME.json``. All else of the page is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proclip.files import read_json, write_atomically

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "results"
COMMANDS = {
    "store_quality": "store.py --quality",
    "serve_large": "serve.py --large",
    "teacher_price": "teacher_price.py --quality",
    "gpu_stage2": "gpu.py --parts stage2",
}
"""Of what is not a script's run without options."""
PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Path = RESULTS) -> str:
    """The page with the figures that the result files hold.

    Args:
        page: the whole text.
        results: folder of the result files.
    """
    return PLACE.sub(lambda found: f"{found[1]}{of_benchmark(found[2], results)}{found[3]}", page)


def of_benchmark(name: str, results: Path) -> str:
    """What stands in a benchmark's place: its table and how it was made, or that there is none yet."""
    path = results / f"{name}.json"
    result = read_json(path) if path.is_file() else {}
    if not result.get("figures"):
        return f"Not measured yet: `python benchmarks/{COMMANDS.get(name, f'{name}.py')}`.\n"
    lines = ["| | median | range | aim | limit | share of it |", "|---|---:|---:|---|---|---:|"]
    lines += [row(figure) for figure in result["figures"]]
    if result.get("profiles"):
        lines += ["", *profile_table(result["profiles"])]
    machine = result["machine"]
    about = [
        f"`{result['command']}`", machine.get("gpu", machine["processor"]), f"{machine['cores']} cores",
        machine["instructions"], f"torch {result['versions']['torch']} on {machine['torch_threads']} threads",
        result["date"], f"commit {result['commit']}", f"load {machine['load_average']:g} at the end",
    ]  # fmt: skip
    note = f" {result['note']}" if result.get("note") else ""
    return "\n".join([*lines, "", ", ".join(about) + f".{note}", ""])


def profile_table(profiles: Mapping[str, Any]) -> list[str]:
    """Where the time of calls went: a line for each, a column for each kind of operation."""
    kinds = list(dict.fromkeys(kind for one in profiles.values() for kind in one["shares"]))
    lines = [f"| profile | ms | of them computing | {' | '.join(kinds)} |", f"|---|---:|---:|{'---:|' * len(kinds)}"]
    for title, one in profiles.items():
        shares = [f"{one['shares'][kind]:.0%}" if kind in one["shares"] else "" for kind in kinds]
        times = [number(1e3 * one[name]) for name in ("seconds", "computing")]
        lines.append(f"| {' | '.join([title, *times, *shares])} |")
    return lines


def row(figure: Mapping[str, Any]) -> str:
    """A line of the table."""
    unit = figure["unit"]
    between = " to ".join(number(value) for value in figure["range"]) if figure["n"] > 1 else ""
    limit = figure.get("limit")
    held = f"{number(limit['value'])} {limit['what']}" if limit else ""
    share = f"{limit['share']:.0%}" if limit else ""
    return f"| {figure['what']} | {number(figure['median'])} {unit} | {between} | {figure['aim']} | {held} | {share} |"


def number(value: float) -> str:
    """A number to three digits, with commas between thousands."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def main() -> None:
    """Write the page anew."""
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
