"""`odis slurm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

REQUIRED = ("time",)
SUMMARY = "Print or submit a SLURM job of a command, which saves, ends and queues again before its time is up"


def add_options(parser: ArgumentParser) -> None:
    """The command, and what the job asks for."""
    parser.add_argument(
        "words", type=str, help='command in quotes, such as "pretrain --data x.parquet --out runs/x"'
    )
    parser.add_argument("--time", type=str, help="time limit of one job, as sbatch takes it: 12:00:00")
    parser.add_argument("--nodes", type=int, default=1, help="nodes")
    parser.add_argument(
        "--gpus", type=int, default=1, help="GPUs, and ranks, of a node; 0 for one rank without"
    )
    parser.add_argument("--cpus", type=int, default=16, help="CPUs of a node")
    parser.add_argument("--name", type=str, default="odis", help="name of the job")
    parser.add_argument("--partition", type=str, default="", help="partition of the cluster")
    parser.add_argument("--account", type=str, default="", help="account that is charged")
    parser.add_argument(
        "--grace", type=int, default=180, help="seconds before the end at which the run saves"
    )
    parser.add_argument("--restarts", type=int, default=3, help="starts anew after a rank was killed")
    parser.add_argument("--submit", action="store_true", help="hand it to sbatch; otherwise it is printed")


def run(options: Any) -> None:
    """Print the script, or what sbatch says of it.

    Raises:
        OdisError: See `odis.machine.slurm`.
    """
    require(options, *REQUIRED)

    from odis.commands import COMMANDS
    from odis.machine.slurm import Job, script, submit

    job = Job(
        options.words, COMMANDS, options.time, options.nodes, options.gpus, options.cpus, options.name,
        options.partition, options.account, options.grace, options.restarts,
    )  # fmt: skip
    print(submit(script(job)) if options.submit else script(job), end="")
