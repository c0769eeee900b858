"""What holds everywhere: imports only go down, public API and command line are as listed, the import is light."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

import proclip
from proclip.cli import build_parser

SOURCE = Path(proclip.__file__).parent
LAYERS: dict[str, int] = {
    "errors": -2, "files": -1, "config": 0, "losses": 0, "metrics": 0, "distributed": 0, "seeding": 0,
    "models": 1, "results": 1,
    "data": 2, "onnx": 2,
    "train": 3, "evaluate": 3, "embed": 3, "mini": 3, "report": 3, "convert": 3, "search": 3, "serve": 3,
    "export": 3,
    "integrations": 3,
    "runs": 4, "cli": 5,
}  # fmt: skip


def imported_parts(path: Path) -> set[str]:
    """First names, below ``proclip``, of everything of ours that a module imports, at any depth of its code."""
    package = ["proclip", *path.relative_to(SOURCE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("proclip"))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.level else (node.module or "").split(".")
            module = [part for part in module if part]
            if module[:1] == ["proclip"]:
                found.update(".".join([*module, a.name]) if len(module) == 1 else ".".join(module) for a in node.names)
    return {name.split(".")[1] for name in found if "." in name} - {"__version__"}


def test_imports_only_go_down() -> None:
    upward = []
    for path in SOURCE.rglob("*.py"):
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for other in imported_parts(path) - {part}:
            if LAYERS[other] >= LAYERS[part]:
                upward.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert not upward


def test_import_is_light() -> None:
    code = (
        "import sys, proclip;"
        "heavy = {'transformers', 'sentence_transformers', 'matplotlib', 'sklearn', 'rich', 'torch'};"
        "heavy |= {'fastapi', 'uvicorn', 'usearch'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_api() -> None:
    assert proclip.__all__ == [
        "Adapter", "Clip", "EmbeddingStore", "ImageCaptions", "Index", "ProCLIP", "ProclipError", "Recipe",
        "TextEmbedder", "load", "load_clip", "load_embedder", "load_recipe", "register_auto", "__version__",
    ]  # fmt: skip
    for name in proclip.__all__:
        assert getattr(proclip, name) is not None


def options_of(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Of every verb, and of the verbs below it."""
    listed: dict[str, list[str]] = {}
    for below in (action for action in parser._actions if isinstance(action, argparse._SubParsersAction)):
        for verb, child in below.choices.items():
            listed[verb] = [s for action in child._actions for s in (action.option_strings or [action.dest])]
            listed |= {f"{verb} {name}": options for name, options in options_of(child).items()}
    return listed


def test_command_line() -> None:
    assert options_of(build_parser()) == {
        "mini": ["-h", "--help", "--out"],
        "embed": ["-h", "--help", "recipe", "--set", "--replace"],
        "train": ["-h", "--help", "recipe", "--set", "--out"],
        "align": ["-h", "--help", "--clip", "--embedder", "--data", "--captions", "--out", "--set", "--trust-images"],
        "eval": [
            "-h",
            "--help",
            "model",
            "--suite",
            "--data-root",
            "--data",
            "--split",
            "--tasks",
            "--partial",
            "--clip",
            "--cache",
            "--gallery",
            "--name",
            "--out",
            "--compare",
        ],
        "data": ["-h", "--help", "action"],
        "data index": ["-h", "--help", "folder", "--fields", "--workers"],
        "data check": ["-h", "--help", "folder", "--captions", "--min-side", "--json"],
        "data stats": ["-h", "--help", "folder", "--json"],
        "data join": ["-h", "--help", "folder", "file", "--on", "--columns"],
        "quickstart": ["-h", "--help", "--out", "--seed", "--short"],
        "ablate": ["-h", "--help", "--seeds", "--out", "--split"],
        "convert": [
            "-h",
            "--help",
            "source",
            "out",
            "--to",
            "--revision",
            "--embedder",
            "--clip",
            "--set",
            "--heads",
            "--resolution",
            "--activation",
            "--input-norm",
            "--timm-model",
            "--ignore",
        ],
        "inspect": ["-h", "--help", "model", "--json"],
        "interpolate": [
            "-h",
            "--help",
            "model",
            "--clip",
            "--alpha",
            "--curve",
            "--out",
            "--data",
            "--split",
        ],
        "index": [
            "-h",
            "--help",
            "folders",
            "--model",
            "--index",
            "--forget",
            "--graph",
            "--stats",
            "--texts",
            "--json",
        ],
        "search": [
            "-h",
            "--help",
            "text",
            "--image",
            "--minus",
            "--minus-image",
            "--weights",
            "--near",
            "--after",
            "--before",
            "--folder",
            "-k",
            "--json",
            "--paths",
            "--open",
            "--index",
            "--model",
        ],
        "serve": [
            "-h",
            "--help",
            "--model",
            "--index",
            "--name",
            "--host",
            "--port",
            "--device",
            "--api-key-file",
            "--set",
        ],
        "export": ["-h", "--help", "format"],
        "export onnx": ["-h", "--help", "model", "-o", "--out", "--embedder", "--parts", "--precision"],
        "export torch": ["-h", "--help", "model", "-o", "--out"],
        "report": ["-h", "--help", "results", "-o", "--out", "--clip-benchmark", "--reference"],
    }


def test_files_and_functions_stay_small() -> None:
    big = []
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if text.count("\n") > 400:
            big.append(f"{path.relative_to(SOURCE)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                big.append(f"{path.relative_to(SOURCE)}: {node.name}")
    assert not big


def test_readme_lists_the_files_that_are_there() -> None:
    root = SOURCE.parent.parent
    block = (root / "README.md").read_text().split("## Files")[1].split("```")[1]
    listed = {line.split()[0] for line in block.splitlines() if line.startswith("  ")}
    present = {
        p.name + ("/" if p.is_dir() else "")
        for p in SOURCE.iterdir()
        if not p.name.startswith("__") and p.suffix != ".typed"
    }
    assert listed == present - {"errors.py"}
