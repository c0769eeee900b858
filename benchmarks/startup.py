"""Start-up time: `proclip --help` and `import proclip`, against `python -c pass`.

    python benchmarks/startup.py            # a minute

Each in a process of its own, in turn; files are in the system's cache, as on every start but the first.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from measure import command_line, figure, in_turn, write

WAYS = {
    "python -c pass": "pass",
    "import proclip": "import proclip",
    "proclip --help": "import sys; from proclip.cli import main; sys.exit(main(['--help']))",  # as the entry point does
}
AIMS = {"import proclip": 0.2, "proclip --help": 0.5}
SLOWEST = 8


def start(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def slowest_imports(code: str) -> dict[str, float]:
    """What takes longest to import, in ms of its own, without what it imports in its turn."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], check=True, capture_output=True, text=True)
    rows = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line]
    own = {name.strip(): int(self) / 1000 for self, _, name in rows if self.strip().isdigit()}
    return dict(sorted(own.items(), key=lambda item: -item[1])[:SLOWEST])


def main() -> None:
    """Measure, print and write."""
    options = command_line(__doc__, repeats=25)
    turns = in_turn({name: partial(start, code) for name, code in WAYS.items()}, options.repeats)
    bare = sorted(turns.seconds["python -c pass"])[options.repeats // 2]
    figures = []
    for name, aim in AIMS.items():
        seconds = turns.seconds[name]
        limit = ("python -c pass, s", bare, bare / sorted(seconds)[options.repeats // 2])
        figures.append(figure(name, seconds, "s", aim=f"below {aim}", limit=limit))
        figures.append(figure(f"{name} over python -c pass", turns.ratio(name, "python -c pass"), "x"))
    slow = {name: slowest_imports(WAYS[name]) for name in AIMS}
    write(options, __doc__, figures, {"slowest_imports_ms": slow, "turns": turns.values()})


if __name__ == "__main__":
    main()
