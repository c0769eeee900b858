"""The command line: a few verbs, thin over `proclip.runs`. A user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from . import __version__
from .errors import Preempted, ProclipError


def build_parser() -> argparse.ArgumentParser:
    """Every verb and option; a test holds this list."""
    parser = argparse.ArgumentParser(prog="proclip", description="An LLM's understanding of text for any CLIP.")
    parser.add_argument("--version", action="version", version=f"proclip {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    mini = verbs.add_parser("mini", help="build the mini world: real images, captions, 14 languages, every task")
    mini.add_argument("--out", type=Path, default=Path("runs/mini"), help="folder to build (default: %(default)s)")

    embed = verbs.add_parser("embed", help="embed a recipe's captions once: LLM and CLIP teacher, into the stores")
    _add_recipe(embed)
    embed.add_argument("--replace", action="store_true", help="embed captions anew whose text has changed since")

    train = verbs.add_parser("train", help="train a recipe; an interrupted run goes on where it was")
    _add_recipe(train)
    train.add_argument("--out", type=Path, help="run folder (default: runs/NAME)")

    align = verbs.add_parser("align", help="any CLIP, any LLM, a folder of captioned images: every step in one command")
    align.add_argument("--clip", required=True, help="hub id, folder, open_clip:MODEL/TAG, or mini-clip")
    align.add_argument("--embedder", required=True, help="hub id or folder of the LLM-based embedder, or smollm2")
    align.add_argument("--data", type=Path, required=True, help="folder with metadata.jsonl and its images")
    align.add_argument("--captions", default="", metavar="A,B", help="caption columns (default: those every image has)")
    align.add_argument("--out", type=Path, default=Path("runs/align"), help="run folder (default: %(default)s)")
    align.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                       help="change a field of the recipe, as in tune.epochs=8; distill=none leaves a stage out "
                            "(repeatable)")  # fmt: skip
    align.add_argument("--trust-images", action="store_true", help="do not decode every picture before the start")

    _add_eval(verbs)
    _add_data(verbs)

    quickstart = verbs.add_parser("quickstart", help="the whole method on the mini world: table and report")
    quickstart.add_argument("--out", type=Path, help="folder (default: runs/quickstart, or runs/quickstart-short)")
    quickstart.add_argument("--seed", type=int, default=0, help="of every run (default: %(default)s)")
    quickstart.add_argument("--short", action="store_true", help="a fraction of the work: it runs, no figures")

    ablate = verbs.add_parser("ablate", help="the paper's component and lambda tables on the mini world, several seeds")
    ablate.add_argument(
        "--seeds", type=int, default=5, choices=range(1, 101), metavar="N", help="how many (default: 5)"
    )
    ablate.add_argument("--out", type=Path, default=Path("runs/ablate"), help="folder (default: %(default)s)")
    ablate.add_argument("--split", choices=("test", "dev"), default="test", help="concepts (default: %(default)s)")

    convert = verbs.add_parser("convert", help="official LLM2CLIP and ProCLIP checkpoints to a model folder, and back")
    _add_convert(convert)
    _add_inspect_and_interpolate(verbs)

    _add_index_and_search(verbs)
    _add_serve(verbs)
    _add_export(verbs)

    report = verbs.add_parser("report", help="result files as a page, as tables, as figures")
    report.add_argument("results", type=Path, nargs="+", help="files of proclip eval, or CLIP_benchmark's JSON or CSV")
    report.add_argument("-o", "--out", type=Path, required=True, help=".html, .md, .tex or .csv file; or a folder: "
                        "figures as PNG and SVG")  # fmt: skip
    report.add_argument("--clip-benchmark", action="store_true",
                        help="write JSON files as CLIP_benchmark does, into the folder")  # fmt: skip
    report.add_argument("--reference", help="model that others are compared with (default: the first)")
    return parser


def _add_eval(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = verbs.add_parser("eval", help="a model on benchmarks: every figure with its interval")
    evaluate.add_argument("model", nargs="?", help="run or model folder, hub id, open_clip:MODEL/TAG, st:MODEL, "
                          "or 'mini-clip'")  # fmt: skip
    evaluate.add_argument("--suite", help="'paper', or benchmarks with commas between (docs/evaluation.md)")
    evaluate.add_argument("--data-root", type=Path, default=Path("data"), help="of the suite (default: %(default)s)")
    evaluate.add_argument("--data", type=Path, action="append", default=[], metavar="FOLDER",
                          help="own pictures with metadata or in class folders, or a mini world (repeatable; "
                          "default without --suite: runs/mini)")  # fmt: skip
    evaluate.add_argument("--split", help="of --data (default: all rows; of a mini world: test)")
    evaluate.add_argument("--tasks", metavar="A,B", help="of --data: caption columns, or as the figures' keys begin, "
                          "such as zero_shot/openmoji (default: all)")  # fmt: skip
    evaluate.add_argument("--partial", action="store_true", help="accept other counts than the authors' (and say so)")
    evaluate.add_argument("--clip", help="original CLIP, with which CKA compares (default: the one the model names)")
    evaluate.add_argument("--cache", type=Path, default=Path("runs/cache"), help="vectors (default: %(default)s)")
    evaluate.add_argument("--gallery", action="store_true", help="also keep what was found and what went wrong, with "
                          "small pictures, for the report")  # fmt: skip
    evaluate.add_argument("--name", help="what tables call the model (default: its folder's or hub id's name)")
    evaluate.add_argument("--out", type=Path, help="result file (default: runs/results/NAME.json)")
    evaluate.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"),
                          help="instead of a model: two result files, paired over the same items")  # fmt: skip


def _add_data(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    data = verbs.add_parser("data", help="index tar shards, check a data set, describe it, join captions to it")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    index = actions.add_parser("index", help="an offset table beside tar shards, once: random access to their samples")
    check = actions.add_parser("check", help="broken pictures, missing captions, duplicates; exit status 1 if any")
    stats = actions.add_parser("stats", help="formats, sizes, lengths of captions, languages")
    join = actions.add_parser("join", help="captions of a table to the samples of their URL or key")
    for parser in (index, check, stats, join):
        parser.add_argument("folder", help="folder of shards" if parser is index else "data set, as in a recipe")
    index.add_argument(
        "--fields", metavar="A,B", help="of the .json, as caption columns; '' for none (default: as before)"
    )
    index.add_argument("--workers", type=int, help="processes (default: as many as cores)")
    check.add_argument("--captions", default="", metavar="A,B", help="columns every sample should have (default: all)")
    check.add_argument("--min-side", type=int, default=16, help="pixels; less is tiny (default: %(default)s)")
    for parser in (check, stats):
        parser.add_argument("--json", action="store_true", help="for machines")
    join.add_argument("file", type=Path, help=".csv, .tsv, .parquet or .jsonl")
    join.add_argument("--on", required=True, metavar="url|key[=COLUMN]", help="what is matched")
    join.add_argument("--columns", required=True, metavar="NEW[=OLD],...", help="caption columns to add")


def _add_serve(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = verbs.add_parser("serve", help="a model and an index over HTTP: embeddings, search, labels, a page")
    serve.add_argument("--model", required=True, help="as of proclip eval")
    serve.add_argument("--index", type=Path, metavar="FOLDER", help="of proclip index, made with the same model")
    serve.add_argument("--name", help="what clients call the model (default: its folder's or hub id's name)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine alone by default")
    serve.add_argument("--port", type=int, default=8000, help="(default: %(default)s; 0: any that is free)")
    serve.add_argument("--device", help="such as cuda:1 (default: cuda where there is one, else cpu)")
    serve.add_argument("--api-key-file", type=Path, metavar="FILE", help="key that clients must send (default: the "
                       "environment's PROCLIP_API_KEY, if set)")  # fmt: skip
    serve.add_argument("--set", action="append", default=[], metavar="LIMIT=VALUE", dest="settings",
                       help="change a limit, as in pixels=80000000 (repeatable; docs/serve.md lists them)")  # fmt: skip


def _add_export(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = verbs.add_parser("export", help="a model for ONNX Runtime, or its image tower for torch.export.load")
    formats = export.add_subparsers(dest="format", required=True, metavar="FORMAT")
    onnx = formats.add_parser("onnx", help="image tower, adapter and LLM as graphs; proclip.onnx.load opens them")
    torch = formats.add_parser("torch", help="the image tower as a program of torch.export (.pt2)")
    for parser in (onnx, torch):
        parser.add_argument("model", help="folder or hub id of a proclip model, or a run folder")
    onnx.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="new folder")
    onnx.add_argument("--embedder", help="where the model's LLM lies now, if that is not where the model says")
    torch.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help=".pt2 file")
    onnx.add_argument("--parts", metavar="A,B", help="of image, adapter, embedder (default: all; an LLM that does not "
                      "export is left out)")  # fmt: skip
    onnx.add_argument("--precision", choices=("float32", "float16", "int8"), default="float32",
                      help="of weights and arithmetic (default: %(default)s)")  # fmt: skip


def _add_inspect_and_interpolate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inspect = verbs.add_parser("inspect", help="what a model is and where it comes from, in one screen")
    inspect.add_argument("model", help="folder or hub id of a proclip or CLIP model, a run folder, 'mini-clip', "
                         "or OpenCLIP's open_clip:MODEL/TAG")  # fmt: skip
    inspect.add_argument("--json", action="store_true", help="for machines")

    between = verbs.add_parser("interpolate", help="between the original and the tuned image encoder (WiSE-FT)")
    between.add_argument("model", help="folder or hub id of a proclip model, or a run folder")
    between.add_argument("--clip", metavar="ORIGINAL", help="CLIP that tuning began with (default: as the model says)")
    what = between.add_mutually_exclusive_group(required=True)
    what.add_argument("--alpha", type=float, help="0 is the original, 1 the tuned: write that model")
    what.add_argument("--curve", metavar="A,B,...", help="evaluate the mini world along these alphas, as in 0,0.5,1")
    between.add_argument("--out", type=Path, required=True, help="folder to write")
    between.add_argument("--data", type=Path, default=Path("runs/mini"), help="of a curve (default: %(default)s)")
    between.add_argument("--split", choices=("test", "dev"), default="test", help="of a curve (default: %(default)s)")


def _add_index_and_search(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    where = Path("runs/index")
    index = verbs.add_parser("index", help="one's own pictures into an index; again: what is new, changed or gone")
    index.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="of pictures (default: those it has)")
    index.add_argument("--model", help="run or model folder, hub id, or a CLIP (default: the index's)")
    index.add_argument("--index", type=Path, default=where, help="folder of the index (default: %(default)s)")
    index.add_argument("--forget", type=Path, action="append", default=[], metavar="FOLDER",
                       help="take a folder out of the index (repeatable)")  # fmt: skip
    index.add_argument("--graph", choices=("float16", "int8", "binary"),
                       help="numbers that approximate search compares, where pictures are many (default: as before; "
                       "int8)")  # fmt: skip
    index.add_argument("--stats", action="store_true", help="only print what is in it, how it is searched, and recall")
    index.add_argument("--texts", type=Path, metavar="FILE", help="with --stats: recall of these texts, one a line")
    index.add_argument("--json", action="store_true", help="with --stats: for machines")

    search = verbs.add_parser("search", help="find pictures of an index by text in any language, by picture, or both")
    search.add_argument("text", nargs="*", help="of any length; several are added up")
    search.add_argument("--image", type=Path, action="append", default=[], help="picture to look like (repeatable)")
    search.add_argument("--minus", action="append", default=[], metavar="TEXT", help="not wanted (repeatable)")
    search.add_argument("--minus-image", type=Path, action="append", default=[], metavar="PATH",
                        help="likewise, a picture (repeatable)")  # fmt: skip
    search.add_argument("--weights", metavar="A,B,...", help="of texts, --image, --minus, --minus-image, in that order "
                        "(default: all 1)")  # fmt: skip
    search.add_argument("--near", type=Path, metavar="PATH", help="only of the 100 pictures most like this one")
    search.add_argument("--after", metavar="DATE", help="taken then or later: 2024, 2024-05, 2024-05-31")
    search.add_argument("--before", metavar="DATE", help="taken earlier")
    search.add_argument("--folder", type=Path, help="only below this folder")
    search.add_argument("-k", type=int, default=10, help="how many (default: %(default)s)")
    how = search.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="for machines")
    how.add_argument("--paths", action="store_true", help="one path a line, nothing else")
    search.add_argument("--open", action="store_true", help="the best in the system's viewer")
    search.add_argument("--index", type=Path, default=where, help="folder of the index (default: %(default)s)")
    search.add_argument("--model", help="where the index's model lies now, if it was moved")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="TOML file, or the name of one that ships, such as mini/proclip")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="change a field, as in tune.ema_decay=0.99 (repeatable)")  # fmt: skip


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="file, DeepSpeed folder, model folder or hub id; with --to llm2clip also a run")
    parser.add_argument("out", type=Path, help="folder to make; a .pt file with --to llm2clip")
    parser.add_argument("--to", choices=("proclip", "llm2clip"), default="proclip", help="(default: %(default)s)")
    parser.add_argument("--revision", help="of the hub's repository")
    parser.add_argument("--embedder", help="LLM of the adapter: preset llama3-8b-cc, or a TOML file")
    parser.add_argument("--clip", help="CLIP that the image tower was tuned from, for the card and proclip interpolate")
    parser.add_argument("--set", action="append", default=[], metavar="embedder.KEY=VALUE", dest="settings",
                        help="field of the embedder (repeatable)")  # fmt: skip
    parser.add_argument("--heads", type=int, help="attention heads of a ViT (default: width / 64)")
    parser.add_argument("--resolution", type=int, help="side of the image, pixels (default: grid x patch)")
    parser.add_argument("--activation", choices=("quick_gelu", "gelu"), help="of a ViT (default: quick_gelu)")
    parser.add_argument("--input-norm", choices=("l2", "none"), help="of the adapter (default: as its key says)")
    parser.add_argument("--timm-model", metavar="NAME", help="of a timm tower, where shapes fit none or several")
    parser.add_argument("--ignore", action="append", default=[], metavar="PREFIX",
                        help="leave out keys that begin so (repeatable)")  # fmt: skip


COMMANDS = {
    "data": ("data", "data_command"),
    "export": ("export", "export_command"),
    "index": ("index", "index_command"),
    "interpolate": ("interpolate", "interpolate_command"),
    "search": ("search", "search_command"),
    "serve": ("serve", "serve_command"),
}
"""Verbs whose module of runs/ takes the arguments as they are: module and function, which may return an exit status."""


def run(arguments: argparse.Namespace) -> int:
    """Call the verb's function; imports happen here, so that ``--help`` is quick.

    Returns:
        exit status.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when it is imported: the bar while a GGUF file is converted
    if arguments.verb == "serve":  # read with torch: its threads are to sleep where those that answer want the core
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # its bars would break into ours
    if arguments.verb in COMMANDS:
        module, function = COMMANDS[arguments.verb]
        status = getattr(import_module(f".runs.{module}", __package__), function)(arguments)
        return status if isinstance(status, int) else 0
    if arguments.verb in ("embed", "train", "align"):
        _train(arguments)
    elif arguments.verb == "mini":
        from .runs.mini import build

        build(arguments.out)
    elif arguments.verb == "eval":
        _evaluate(arguments)
    elif arguments.verb == "quickstart":
        from .runs.quickstart import quickstart
        from .train.interruption import stopping

        with stopping():
            out = arguments.out or Path("runs/quickstart-short" if arguments.short else "runs/quickstart")
            quickstart(out, seed=arguments.seed, short=arguments.short)
    elif arguments.verb == "ablate":
        from .runs.ablate import ablate
        from .train.interruption import stopping

        with stopping():
            ablate(arguments.out, seeds=arguments.seeds, split=arguments.split)
    elif arguments.verb == "convert":
        _convert(arguments)
    elif arguments.verb == "inspect":
        from .runs.inspect import inspect_command

        inspect_command(arguments.model, arguments.json)
    elif arguments.verb == "report":
        from .runs.report import report_command

        report_command(arguments.results, arguments.out, arguments.reference, arguments.clip_benchmark)
    return 0


def _train(arguments: argparse.Namespace) -> None:
    """What several processes share."""
    from .distributed import launched
    from .runs.recipes import find_recipe
    from .train.interruption import stopping

    with stopping(), launched():
        if arguments.verb == "embed":
            from .runs.embed import embed_recipes

            embed_recipes([find_recipe(arguments.recipe, arguments.settings)], replace=arguments.replace)
        elif arguments.verb == "train":
            from .runs.train import train_recipe

            train_recipe(find_recipe(arguments.recipe, arguments.settings), arguments.out)
        else:
            from .runs.align import align_folder

            columns = [column for column in arguments.captions.split(",") if column]
            align_folder(
                arguments.clip, arguments.embedder, arguments.data, arguments.out, columns, arguments.settings,
                arguments.trust_images,
            )  # fmt: skip


def _evaluate(arguments: argparse.Namespace) -> None:
    from .distributed import launched
    from .runs.evaluate import MINI, compare_command, evaluate_command, load_benchmarks

    if arguments.compare:
        if arguments.model:
            raise ProclipError("--compare takes two result files and no model: evaluate each of them first")
        first, second = arguments.compare
        compare_command(first, second, arguments.out)
        return
    if not arguments.model:
        raise ProclipError("say which model: a folder, a hub id, mini-clip; or --compare A.json B.json")
    folders = arguments.data or ([] if arguments.suite else [MINI])
    tasks = [task for task in (arguments.tasks or "").split(",") if task]
    benchmarks = load_benchmarks(
        arguments.suite, arguments.data_root, folders, arguments.split, tasks, arguments.partial
    )
    with launched():
        evaluate_command(arguments, benchmarks)


def _convert(arguments: argparse.Namespace) -> None:
    from .convert.facts import Hints
    from .runs.convert import convert_to_llm2clip, convert_to_proclip

    names = ("heads", "resolution", "activation", "input_norm", "timm_model")
    values = {name: getattr(arguments, name) for name in names}
    hints = Hints(**values, ignore=tuple(arguments.ignore))
    if arguments.to == "proclip":
        embedder, settings = arguments.embedder, arguments.settings
        convert_to_proclip(
            arguments.source, arguments.out, hints, embedder, settings, arguments.revision, arguments.clip
        )
    elif hints != Hints() or arguments.embedder or arguments.settings or arguments.clip:
        raise ProclipError("--to llm2clip takes no option but --revision: the model says the rest itself")
    else:
        convert_to_llm2clip(arguments.source, arguments.out, arguments.revision)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command ``proclip``.

    Returns:
        0, also when SIGTERM came and the same command goes on from here; 1 if ``data check`` found something; 2 for
        bad input; 130 when interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return run(arguments)
    except ProclipError as error:
        print(f"proclip: error: {error}", file=sys.stderr)
        return 2
    except Preempted as stopped:
        if stopped.where:  # of several processes one speaks
            print(f"proclip: SIGTERM: {stopped.where}; the same command goes on from here", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        print("proclip: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"proclip: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
