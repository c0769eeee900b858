"""``proclip convert``: official checkpoints to a model folder, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..convert.facts import Hints
from ..errors import ProclipError
from ..models.card import without_places
from ..models.loading import model_folder
from .recipes import environment

if TYPE_CHECKING:
    from ..convert.reading import Checkpoint


def convert_to_proclip(
    source: str,
    out: Path,
    hints: Hints,
    embedder: str | None,
    settings: Sequence[str],
    revision: str | None = None,
    clip: str | None = None,
) -> None:
    """Read an official checkpoint, print the layout that was found, write the model folder.

    Args:
        source: file, folder or hub id.
        out: folder to make.
        hints: what shapes cannot say.
        embedder: preset or TOML file.
        settings: ``embedder.key=value``.
        revision: of the hub's repository.
        clip: name or folder of the CLIP that the image tower was tuned from. It is written down, not loaded: the
            card and ``proclip inspect`` tell it, and ``proclip interpolate`` begins with it.

    Raises:
        ProclipError: the checkpoint is not understood wholly, or `out` is there.
    """
    from ..convert import plan, write_proclip
    from ..convert.embedders import check_embedder, choose_embedder, identity_here
    from ..convert.reading import read_checkpoint

    if out.exists():
        raise ProclipError(f"{out} is there already: give another folder or delete it")
    checkpoint = read_checkpoint(source, revision)
    config = choose_embedder(embedder, settings, checkpoint.config)
    made = plan(checkpoint, hints)
    known = check_embedder(config, made.adapter.llm_dim)
    identity = identity_here(config)
    unsaid = [] if known else ["width not checked"]
    if identity is None:
        unsaid.append("no hash of its files, so that another LLM of this width is not noticed")
        unsaid += [] if config.revision else ["no embedder.revision"]
    facts = made.facts()
    facts.append(("embedder", f"{config.model} ({'; '.join([config.backend, *unsaid])})"))
    _print(source, facts)
    lines = [f"- {name}: {without_places(value)}" for name, value in facts]
    text = "\n".join(["What `proclip convert` found:", "", *lines])
    original = str(Path(clip).resolve()) if clip is not None and Path(clip).is_dir() else clip
    write_proclip(made, out, config, text, original, _origin(source, checkpoint, revision), identity)
    print(out)


def _origin(source: str, checkpoint: Checkpoint, revision: str | None) -> dict[str, Any]:
    """The checkpoint's name, commit and hashes, and the command: a model's provenance."""
    from ..convert.reading import digests_of
    from ..models.hub import commit_of

    path = checkpoint.path
    name = Path(source).resolve().name if Path(source).exists() else source
    commit = commit_of(path if path.is_dir() else path.parent) or revision
    began = environment()
    return {
        "converted_from": {
            "source": name,
            **({"revision": commit} if commit else {}),
            "sha256": digests_of(checkpoint),
        },
        "commands": [began["command"]],
        "versions": began["versions"],
        "commit": began["commit"],
    }


def convert_to_llm2clip(source: str, out: Path, revision: str | None = None) -> None:
    """Write a model of ours as a checkpoint of the official code, and print what that code's config must say.

    Args:
        source: folder or hub id of a proclip model, or a run folder.
        out: file to make.
        revision: of the hub's repository.

    Raises:
        ProclipError: the official code cannot hold the model, or `out` is there.
    """
    from ..convert import write_llm2clip
    from ..models.proclip import ProCLIP

    _print(str(out), write_llm2clip(ProCLIP.from_pretrained(model_folder(source), revision), out))
    print(out)


def _print(title: str, rows: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    Console(stderr=True).print(table)
