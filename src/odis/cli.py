"""The command line: `odis pretrain | index | objects | inspect | embed | evaluate | benchmark | report |
demo`.

Each command declares its options and calls one function. Heavy imports happen inside the commands, so that
`odis --help` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from odis import __version__
from odis.errors import OdisError, OdisWarning

_COMMANDS = {
    "pretrain": "train a Vision Transformer by object-level self-distillation; the same command again "
    "resumes",
    "index": "read annotations into an object index (Parquet); export, filter, sample, merge, perturb one",
    "objects": "find objects: detect, or discover without annotations; compare two indexes",
    "inspect": "draw images with their objects, and the views and masks training takes from them",
    "embed": "write the features of objects or images as Parquet, to read in pyarrow, numpy or DuckDB",
    "evaluate": "measure frozen features: k-NN, linear probe, transfer, retrieval, segmentation",
    "benchmark": "measure what a recipe costs on your data and machine: images/s, memory, time of the whole "
    "run",
    "report": "one HTML page of runs: curves, evaluations, where [OBJ] looks, nearest objects",
    "demo": "make scenes, pretrain on them, evaluate before and after, draw what was learned",
}


def main(argv: list[str] | None = None) -> None:
    """Run `odis`; exits with 0, with 2 and one line for what the user can mend, with 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return
    if arguments[0] in ("-V", "--version", "version"):
        print(f"odis {__version__}")
        return
    command, rest = arguments[0], arguments[1:]
    warnings.formatwarning = _format_warning
    try:
        runs = {
            "pretrain": _pretrain,
            "index": _index,
            "objects": _objects,
            "inspect": _inspect,
            "embed": _embed,
            "evaluate": _evaluate,
            "benchmark": _benchmark,
            "report": _report,
            "demo": _demo,
        }
        run = runs.get(command)
        if run is None:
            raise OdisError(f"no such command; the commands are {', '.join(_COMMANDS)}")
        run(rest)
    except OdisError as e:
        print(f"odis {command}: {' '.join(str(e).split())}", file=sys.stderr)
        raise SystemExit(2) from e
    except (
        OSError
    ) as e:  # a full disk, a folder that may not be written: what the system says is the one line
        where = f"{e.filename}: " if e.filename else ""
        print(f"odis {command}: {where}{e.strerror or e}", file=sys.stderr)
        raise SystemExit(2) from e
    except RuntimeError as e:
        from odis.data.workers import worker_error

        if (death := worker_error(e)) is None:  # torch tells of a killed worker wherever the program is
            raise
        print(f"odis {command}: {death}", file=sys.stderr)
        raise SystemExit(2) from e
    except KeyboardInterrupt:
        raise SystemExit(130) from None


_usual_format = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """The usual form, but of odis's own warnings no line of source: the message says all."""
    if issubclass(category, OdisWarning):
        return f"warning: {message}\n"
    return _usual_format(message, category, filename, lineno, line)


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name.ljust(width)}  {what}" for name, what in _COMMANDS.items()]
    head = [
        "usage: odis COMMAND [options]",
        "",
        "Pretrain Vision Transformers by object-level self-distillation.",
        "",
        "commands:",
    ]
    return "\n".join([*head, *lines, "", "`odis COMMAND --help` lists the options of a command."])


def _pretrain(arguments: list[str]) -> None:
    from odis.config.options import add_config, new_parser, parse, require, to_config

    parser = new_parser("pretrain", _COMMANDS["pretrain"])
    parser.add_argument("--out", type=str, help="folder of the run: config, metrics, checkpoints, model")
    add_config(parser)
    options = parse(parser, arguments)
    require(options, "data", "out")
    config = to_config(options)
    recipe = Path(str(options.recipe[-1])).stem if options.recipe else ""

    from odis.config.checks import check

    check(config)  # before the imports that take seconds, and before `val` is read

    from odis.evaluation.knn import periodic_knn
    from odis.train.loop import pretrain

    pretrain(config, Path(options.out), recipe=recipe, evaluate=periodic_knn(config) if config.val else None)


def _index(arguments: list[str]) -> None:
    from odis.commands.index import run_index

    run_index(arguments)


def _objects(arguments: list[str]) -> None:
    from odis.commands.objects import run_objects

    run_objects(arguments)


def _inspect(arguments: list[str]) -> None:
    from odis.config.options import add_config, new_parser, parse, require, to_config

    parser = new_parser(
        "inspect",
        "Draw images of an index or folder with their objects, views, object masks and prediction masks.",
    )
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="picture to write (.png)")
    parser.add_argument("--images", type=int, default=4, help="images to draw")
    parser.add_argument("--seed", type=int, default=0, help="which images and views")
    add_config(parser)
    options = parse(parser, arguments)
    require(options, "out")
    options.data = options.index

    from odis.config.checks import check
    from odis.objects.index import ObjectIndex
    from odis.pictures.inspect import inspect_picture

    config = to_config(options)
    check(config)
    index = ObjectIndex.open(options.index, strict=config.strict)
    for skipped in inspect_picture(index, options.out, config, images=options.images, seed=options.seed):
        print(f"skipped {skipped.what}: {skipped.why}", file=sys.stderr)
    print(options.out)


def _embed(arguments: list[str]) -> None:
    from odis.commands.embed import run_embed

    run_embed(arguments)


def _evaluate(arguments: list[str]) -> None:
    from odis.commands.evaluate import run_evaluate

    run_evaluate(arguments)


def _benchmark(arguments: list[str]) -> None:
    from odis.commands.benchmark import run_benchmark

    run_benchmark(arguments)


def _report(arguments: list[str]) -> None:
    from odis.commands.report import run_report

    run_report(arguments)


def _demo(arguments: list[str]) -> None:
    from odis.config.options import new_parser, parse

    parser = new_parser("demo", _COMMANDS["demo"])
    parser.add_argument(
        "--out", type=str, default="odis-demo", help="folder for scenes, run, results.json and demo.png"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes and training")
    options: Any = parse(parser, arguments)

    from odis.commands.demo import run_demo

    run_demo(Path(options.out), seed=options.seed)
