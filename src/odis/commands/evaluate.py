"""`odis evaluate NAME`: the options that an evaluation states, progress, table, results file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.command import Command, Group, with_root
from odis.config.arguments import add_arguments, read_arguments
from odis.config.options import require
from odis.config.query import COMMAND_WORKERS
from odis.config.wording import counted
from odis.evaluation import EVALUATIONS, PROTOCOLS
from odis.evaluation.evaluation import Evaluation
from odis.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


SUMMARY = "Measure frozen features: k-NN, linear probe, transfer, retrieval, segmentation"

PUBLISHED = "Measure as a publication does, beside its figures"

_SHOWN = 20  # skipped files and objects named on screen; the results file names all


def group() -> Group:
    """The evaluations and the published protocols, one command each."""
    published = Group(PUBLISHED, {"protocols": _commands(PROTOCOLS)}, noun="protocol")
    found: dict[str, Command | Group] = {**_commands(EVALUATIONS), "protocol": published}
    return Group(SUMMARY, {"evaluations": found}, noun="evaluation")


def _commands(evaluations: Mapping[str, Evaluation[Any, Any]]) -> dict[str, Command]:
    return {
        name: with_root(Command(one.summary, partial(_add_options, one), partial(_run, one), _required(one)))
        for name, one in evaluations.items()
    }


def _required(evaluation: Evaluation[Any, Any]) -> tuple[str, ...]:
    """The options that must be given."""
    return (*("model",) * evaluation.needs_model, *evaluation.data.REQUIRED)


def _settings(evaluation: Evaluation[Any, Any]) -> EvaluationSettings:
    """The settings with the defaults of a command."""
    settings: EvaluationSettings = evaluation.settings
    return replace(settings, read=replace(settings.read, workers=COMMAND_WORKERS))


def _add_options(evaluation: Evaluation[Any, Any], parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        help="run folder, model.safetensors, checkpoint or timm:NAME; again to compare models",
    )
    add_arguments(parser, evaluation.data)
    add_arguments(parser, _settings(evaluation))
    parser.add_argument("--out", type=str, default=f"{evaluation.name}.json", help="results file to write")


def _run(evaluation: Evaluation[Any, Any], options: Any) -> None:
    if evaluation.needs_model:
        require(options, "model")
    data = read_arguments(evaluation.data, options)
    settings = read_arguments(_settings(evaluation), options)
    settings.check()

    from odis.commands.functions import run_evaluation
    from odis.evaluation.results import results_table
    from odis.machine.progress import ProgressBar, error_console, output_console

    stderr = error_console()
    with ProgressBar(stderr) as bar:
        results = run_evaluation(evaluation, options.model or (), data, settings, options.out, bar)
    for item in results["skipped"][:_SHOWN]:
        stderr.print(f"skipped {item['what']}: {item['why']}", soft_wrap=True)
    if (more := len(results["skipped"]) - _SHOWN) > 0:
        stderr.print(
            f"{counted(more, 'more file or object was', 'more files or objects were')} skipped; "
            f"{options.out} names {'it' if more == 1 else 'them'}"
        )
    output_console().print(results_table(results))
    print(Path(options.out))
