"""`odis pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.config.checks import check
from odis.config.options import add_config, recipe_name, require, to_config

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

REQUIRED = ("data", "out")
SUMMARY = "Train a Vision Transformer by object-level self-distillation; the same command resumes"


def add_options(parser: ArgumentParser) -> None:
    """Where the run goes, and every setting."""
    parser.add_argument(
        "--out", type=str, help="folder of the run: config.yaml, metrics, checkpoints, model.safetensors"
    )
    parser.add_argument(
        "--restart-from",
        type=int | None,
        default=None,
        help="step of a checkpoint to go on from, with other settings of optim, loss or train.precision if "
        "given; later checkpoints are removed",
    )
    add_config(parser)


def run(options: Any) -> None:
    """Pretrain, with a k-NN evaluation now and then if `--val` names an index.

    Raises:
        OdisError: For settings that cannot train, or data that cannot be used.
    """
    require(options, *REQUIRED)
    config = to_config(options)
    check(config)  # before the imports, which take seconds

    from odis.commands.functions import run_pretraining

    run_pretraining(config, Path(options.out), recipe_name(options), options.restart_from)
