"""The job of `odis slurm`, run by bash with commands in SLURM's place."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from odis.cli import main
from odis.machine.slurm import Job, script

WORDS = "pretrain --data 'my x.parquet' --out runs/x"
COMMANDS = ("pretrain", "embed")

# Commands that note what they are asked; the step signals the job as SLURM does when its time is up.
FAKES = {
    "srun": 'echo "srun $*" >>"$NOTES"; [ "$MODE" = ends ] && exit "$CODE"\n'
    'while [ "${1#-}" != "$1" ]; do shift; done\n'
    '"$@" & echo $! >"$PID"; kill -USR1 "$PPID"; wait',
    "scancel": 'echo "scancel $*" >>"$NOTES"; while [ ! -s "$PID" ]; do /bin/sleep 0.02; done\n'
    'kill -USR1 "$(cat "$PID")"',
    "scontrol": 'case "$1" in show) echo node01; echo node02;; *) echo "scontrol $*" >>"$NOTES";; esac',
    "sleep": "exec /bin/sleep 0.2",  # seconds are as many in the job
}
# Ranks that answer the signal once they have started, and lose what comes before.
RANKS = f"""#!{sys.executable} -SE
import os, signal, sys, time
notes = open(os.environ["NOTES"], "a", buffering=1)
def save(*_):
    notes.write("saved\\n")
    os._exit(0)
ignored = signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
notes.write("the signal is ignored\\n" if ignored else "the signal kills\\n")
time.sleep(0.5)
signal.signal(signal.SIGUSR1, save)
time.sleep(30)
"""


def run(text: str, folder: Path, mode: str, code: int = 0) -> tuple[int, list[str]]:
    """The exit code of a job, and what it asked of SLURM."""
    programs, notes = folder / "bin", folder / "notes"
    programs.mkdir(exist_ok=True)
    for name, body in FAKES.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    for name in ("odis", "torchrun"):
        (programs / name).write_text(RANKS)
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}", "NOTES": str(notes), "PID": str(folder / "pid"),
        "MODE": mode, "CODE": str(code), "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n",
    }  # fmt: skip
    done = subprocess.run(["bash"], input=text, env=environment, text=True, timeout=60, check=False)
    return done.returncode, notes.read_text().splitlines()


@pytest.mark.parametrize("gpus", [1, 4])
def test_a_job_whose_time_is_up_saves_and_is_queued_again(tmp_path: Path, gpus: int) -> None:
    """Ranks that start while the first signal comes get another."""
    code, notes = run(script(Job(WORDS, COMMANDS, "1:00:00", gpus=gpus)), tmp_path, "waits")
    assert code == 0
    asked, *rest = notes
    launcher = "odis" if gpus == 1 else "torchrun"
    assert f"bash -c trap '' USR1; exec {launcher} " in asked
    assert asked.endswith("pretrain --data 'my x.parquet' --out runs/x")
    signals = [line for line in rest if line == "scancel --signal=USR1 7.0"]
    assert len(signals) > 1
    assert [line for line in rest if line not in signals] == [
        "the signal is ignored", "saved", "scontrol requeue 7",
    ]  # fmt: skip


@pytest.mark.parametrize("gpus", [1, 4])
def test_a_command_that_does_not_answer_is_ended_by_the_signal(tmp_path: Path, gpus: int) -> None:
    code, notes = run(script(Job("embed x", COMMANDS, "1:00:00", gpus=gpus)), tmp_path, "waits")
    assert code == 0
    assert "trap" not in notes[0]
    assert "saved" not in notes
    assert notes[-1] == "scontrol requeue 7"


@pytest.mark.parametrize("code", [0, 2])
def test_a_job_that_ends_by_itself_ends_with_its_code(tmp_path: Path, code: int) -> None:
    text = script(Job(WORDS, COMMANDS, "1:00:00", nodes=2, gpus=4))
    ended, notes = run(text, tmp_path, "ends", code)
    assert ended == code
    (asked,) = notes
    assert "trap '' USR1; exec torchrun" in asked
    assert "--nproc-per-node 4 --max-restarts 3 --rdzv-backend c10d" in asked
    assert asked.endswith("-m odis pretrain --data 'my x.parquet' --out runs/x")


def test_what_is_asked_of_slurm(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["slurm", WORDS, "--time", "2-00", "--nodes", "2", "--gpus", "8", "--partition", "a100"]
    main(words)
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#SBATCH")]
    assert found == [
        "#SBATCH --job-name=odis", "#SBATCH --partition=a100", "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=8", "#SBATCH --cpus-per-task=16",
        "#SBATCH --time=2-00",
        "#SBATCH --signal=B:USR1@180", "#SBATCH --open-mode=append", "#SBATCH --requeue",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"words": "sing"}, "words: is 'sing'"),
        ({"words": "pretrain 'x"}, "is no command"),
        ({"time": "soon"}, "--time: is 'soon'"),
        ({"nodes": 0}, "--nodes: is 0"),
        ({"grace": 5}, "--grace: is 5"),
        ({"partition": "a\n#SBATCH --wrap=x"}, "--partition: is"),
    ],
)
def test_what_would_not_run_is_refused(changes: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"words": WORDS, "commands": COMMANDS, "time": "1:00:00"}
    with pytest.raises(Exception, match=said):
        script(Job(**(given | changes)))


def test_submitting_asks_sbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["slurm", WORDS, "--time", "60", "--submit"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        main(words)
    assert "there is no sbatch here" in capsys.readouterr().err
    (tmp_path / "sbatch").write_text(
        "#!/bin/sh\nread first; [ \"$first\" = '#!/bin/bash' ] && echo Submitted batch job 7\n"
    )
    (tmp_path / "sbatch").chmod(0o755)
    main(words)
    assert capsys.readouterr().out == "Submitted batch job 7\n"
