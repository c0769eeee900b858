"""``proclip convert``: official checkpoints to a model folder, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..convert.facts import Hints
from ..errors import ProclipError


def convert_to_proclip(
    source: str, out: Path, hints: Hints, embedder: str | None, settings: Sequence[str], revision: str | None = None
) -> None:
    """Read an official checkpoint, print the layout that was found, write the model folder.

    Args:
        source: file, folder or hub id.
        out: folder to make.
        hints: what shapes cannot say.
        embedder: preset or TOML file.
        settings: ``embedder.key=value``.
        revision: of the hub's repository.

    Raises:
        ProclipError: the checkpoint is not understood wholly, or `out` is there.
    """
    from ..convert import plan, write_proclip
    from ..convert.embedders import check_embedder, choose_embedder
    from ..convert.reading import read_checkpoint

    if out.exists():
        raise ProclipError(f"{out} is there already: give another folder or delete it")
    checkpoint = read_checkpoint(source, revision)
    config = choose_embedder(embedder, settings, checkpoint.config)
    made = plan(checkpoint, hints)
    known = check_embedder(config, made.adapter.llm_dim)
    facts = made.facts()
    facts.append(("embedder", f"{config.model} ({config.backend}){'' if known else ', width not checked'}"))
    _print(source, facts)
    lines = [f"Converted from `{Path(source).name if Path(source).exists() else source}` by `proclip convert`.", ""]
    write_proclip(made, out, config, "\n".join(lines + [f"- {name}: {value}" for name, value in facts]))
    print(out)


def convert_to_llm2clip(source: str, out: Path, revision: str | None = None) -> None:
    """Write a model of ours as a checkpoint of the official code, and print what that code's config must say.

    Raises:
        ProclipError: the official code cannot hold the model, or `out` is there.
    """
    from ..convert import write_llm2clip
    from ..models.proclip import ProCLIP

    _print(str(out), write_llm2clip(ProCLIP.from_pretrained(source, revision), out))
    print(out)


def _print(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    Console(stderr=True).print(table)
