"""A SLURM job of a command: it is told before its time is up, saves, ends, and is queued again.

`--signal=B:USR1@N` sends SIGUSR1 to the batch shell alone (sbatch(1)); bash runs its trap once `wait` ends.
The script then passes it to all processes of the step with `scancel --signal`, again and again until they
end, since those that are still starting lose it. torchrun would die of it, so `pretrain`, the command that
answers, begins with the signal ignored, and its ranks inherit that until odis has a handler of its own. Other
commands die of it, and go on from what they wrote.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from odis.errors import ConfigError, OdisError

_TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{1,2}){0,2}")
_AGAIN = 5  # seconds between two signals
_ANSWERS = "pretrain"  # the command that has a handler
_WORD = re.compile(r"[\w.@+-]+")


@dataclass(frozen=True, slots=True)
class Job:
    """What a job runs and asks for: the options of `odis slurm`.

    Args:
        words: An odis command, in one line.
        commands: Names of those there are.
        time: Time limit as sbatch takes it.
        nodes: Nodes.
        gpus: GPUs of a node, each a rank; 0 for one rank a node without any.
        cpus: CPUs of a node.
        name: Of the job.
        partition: Of the cluster; empty for the default.
        account: That is charged; empty for the default.
        grace: Seconds before the end at which the run saves.
        restarts: Starts anew after a rank was killed.
    """

    words: str
    commands: Sequence[str]
    time: str
    nodes: int = 1
    gpus: int = 1
    cpus: int = 16
    name: str = "odis"
    partition: str = ""
    account: str = ""
    grace: int = 180
    restarts: int = 3


def script(job: Job) -> str:
    """The text of the job, for `sbatch`.

    Raises:
        ConfigError: for what would not run, naming the option.
    """
    _check(job)
    asked = {
        "job-name": job.name, "partition": job.partition, "account": job.account, "nodes": job.nodes,
        "ntasks-per-node": 1, "gpus-per-node": job.gpus or "", "cpus-per-task": job.cpus, "time": job.time,
        "signal": f"B:USR1@{job.grace}", "open-mode": "append",
    }  # fmt: skip
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in asked.items() if value != "")]
    lines.append("#SBATCH --requeue")
    command = shlex.join(shlex.split(job.words))
    ranks = max(job.gpus, 1)
    many = job.nodes * ranks > 1
    if many:
        launcher = (
            f'torchrun --nnodes "$SLURM_NNODES" --nproc-per-node {ranks} --max-restarts {job.restarts} '
            '--rdzv-backend c10d --rdzv-endpoint "$head:29500" '
            '--rdzv-id "$SLURM_JOB_ID-$SLURM_RESTART_COUNT" '
            f"-m odis {command}"
        )
        lines += [
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "export head SLURM_RESTART_COUNT=${SLURM_RESTART_COUNT:-0}",
        ]
    else:
        launcher = f"odis {command}"
    words = shlex.split(job.words)
    ignored = "trap '' USR1; " if words[0] == _ANSWERS else ""
    exits = "--kill-on-bad-exit=1 " if many else ""
    run = f"srun {exits}bash -c {shlex.quote(f'{ignored}exec {launcher}')} &"
    return "\n".join(
        [
            *lines,
            "again=",
            "# The time is up. What is still starting loses the signal, so it is sent until all end; from a",
            "# shell of its own, since $! is the step's.",
            """trap 'if [ -z "$again" ]; then again=$(""",
            """  while :; do scancel --signal=USR1 "$SLURM_JOB_ID.0"; """
            f"sleep {_AGAIN}; done >/dev/null & echo $!",
            "); fi' USR1",
            run,
            "step=$!",
            'wait "$step"; code=$?',
            "# A signal ends a wait early.",
            'while kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done',
            "# A run that is complete does nothing when it is queued again.",
            'if [ -n "$again" ]; then kill "$again"; scontrol requeue "$SLURM_JOB_ID"; exit 0; fi',
            'exit "$code"',
            "",
        ]
    )


def submit(text: str) -> str:
    """Hand a job to sbatch.

    Returns:
        What it says.

    Raises:
        OdisError: There is no sbatch, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise OdisError("--submit: there is no sbatch here; leave it out to print the job")
    done = subprocess.run(["sbatch"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise OdisError(f"sbatch: {said[-1] if said else f'ended with {done.returncode}'}")
    return done.stdout


def _check(job: Job) -> None:
    try:
        words = shlex.split(job.words)
    except ValueError as error:
        raise ConfigError(f"words: {job.words!r} is no command ({error})") from error
    if not words or words[0] not in job.commands:
        raise ConfigError(
            f"words: is {job.words!r}, must be a command of odis, such as pretrain, with its options"
        )
    if not _TIME.fullmatch(job.time):
        raise ConfigError(f"--time: is {job.time!r}, must be as sbatch takes it, such as 12:00:00 or 2-00")
    for name, low in (("nodes", 1), ("gpus", 0), ("cpus", 1), ("grace", 30), ("restarts", 0)):
        value = getattr(job, name)
        if value < low:
            raise ConfigError(f"--{name}: is {value}, must be {low} or more")
    for name in ("name", "partition", "account"):
        value = getattr(job, name)
        if value and not _WORD.fullmatch(value):
            raise ConfigError(f"--{name}: is {value!r}, must be letters, digits and . @ + - _")
