"""`odis finetune TASK`: starting points trained on a task and compared."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.command import Command, Group, with_root
from odis.config.arguments import add_arguments, read_arguments
from odis.config.options import require
from odis.config.query import COMMAND_WORKERS
from odis.config.wording import counted
from odis.downstream.settings import TASKS, FinetuneSettings, TaskOptions

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

REQUIRED = ("model", "out")
SUMMARY = "Train a detector, segmenter or classifier from the backbone, and compare starting points"

_MODEL = (
    "starting point: run folder, model.safetensors, checkpoint, timm:NAME; before:RUN, the weights that a "
    "run began from; random, the architecture of the first other one. Again to compare several"
)


def group() -> Group:
    """The tasks, one command each."""
    found = {
        name: with_root(
            Command(
                task.summary,
                partial(_add_options, task),
                partial(_run, name, task),
                ("model", *task.data.REQUIRED, "out"),
            )
        )
        for name, task in TASKS.items()
    }
    return Group(SUMMARY, {"tasks": found}, noun="task")


def _settings(task: TaskOptions) -> FinetuneSettings:
    """The settings with the defaults of a command."""
    return replace(task.settings, read=replace(task.settings.read, workers=COMMAND_WORKERS))


def _add_options(task: TaskOptions, parser: ArgumentParser) -> None:
    parser.add_argument("--model", action="append", help=_MODEL)
    add_arguments(parser, task.data)
    add_arguments(parser, _settings(task))
    parser.add_argument("--out", type=str, help="folder of the comparison; the same command resumes")


def _run(name: str, task: TaskOptions, options: Any) -> None:
    require(options, *REQUIRED)
    data = read_arguments(task.data, options)
    settings = read_arguments(_settings(task), options)
    settings.check()

    from odis.downstream.finetune import RESULTS, run_finetuning
    from odis.downstream.table import comparison_table
    from odis.machine.progress import error_console, output_console

    console = error_console()

    def progress(what: str, done: int, total: int) -> None:
        if done == total:
            console.print(f"{what}: {counted(total, 'image')}", soft_wrap=True)

    found = run_finetuning(name, options.model, Path(options.out), data, settings, progress)
    output_console().print(comparison_table(found))
    print(Path(options.out) / RESULTS)
