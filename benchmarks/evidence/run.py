"""Runs of the study that are not done yet, several at a time, in slices that go on where the last one ended.

    python benchmarks/evidence/run.py --world scenes --study core [noise ...] [--seeds 0 1 2] [--processes 2]
    [--minutes 9]

Settings are chosen first: every method tries the same candidates on images that are held out of training.
Then every cell of the studies is trained for each seed and measured on the test part. A cell whose figures
are there is not run again; one that was interrupted resumes. Data and runs are in `--work`, figures in
`--results`; `tables.py` makes tables and plots of them.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cell import Place, run_cell, run_trial
from grid import METHODS, ONE_SEED, REFERENCE, STUDIES, Cell, cells
from measure import K
from worlds import Roots, World, worlds

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Job:
    """One process: a trial (`method`, `candidate`) or a cell (`cell`, `seed`), and the file it ends with."""

    name: str
    arguments: tuple[str, ...]
    result: Path


def trials(place: Place, world: World, studies: list[str], only: list[str] | None) -> list[Job]:
    """Trials that cells of these studies wait for: none where there is one candidate."""
    if len(world.candidates) == 1:
        return []
    methods = {
        name
        for study in studies
        for cell in cells(study)
        if (only is None or cell.name in only) and not cell.labels
        for name in ((cell.method, REFERENCE) if cell.compute is not None else (cell.method,))
    }
    return [
        Job(
            f"choose.{method}.{candidate}",
            ("trial", method, candidate),
            place.trial(world, method, candidate),
        )
        for method in METHODS
        if method in methods
        for candidate in world.candidates
    ]


def runs(
    place: Place, world: World, studies: list[str], seeds: list[int] | None, only: list[str] | None
) -> list[Job]:
    """Cells of these studies, seed after seed, so that an interrupted call has whole seeds of all."""
    jobs: list[tuple[int, int, Job]] = []
    for number, study in enumerate(studies):
        for seed in seeds if seeds is not None else [0] if study in ONE_SEED else [0, 1, 2]:
            for cell in cells(study):
                if only is None or cell.name in only:
                    arguments = ("cell", study, cell.name, str(seed))
                    name, result = f"{cell.name}-seed{seed}", place.result(world, cell.name, seed)
                    if all(job.result != result for _, _, job in jobs):  # a cell may be in several studies
                        jobs.append((seed, number, Job(name, arguments, result)))
    return [job for _, _, job in sorted(jobs, key=lambda item: item[:2])]


def work_through(
    jobs: list[Job], base: list[str], logs: Path, processes: int, end: float, script: str = "run.py"
) -> tuple[list[str], int]:
    """Run jobs of a script, so many at a time, until they are done or `end` has come.

    Returns:
        Names of those that failed, and how many are left.
    """
    logs.mkdir(parents=True, exist_ok=True)
    pending = [job for job in jobs if not job.result.exists()]
    waiting: Iterator[Job] = iter(list(pending))
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    try:
        while True:
            while (
                len(running) < processes
                and time.monotonic() < end
                and (job := next(waiting, None)) is not None
            ):
                with (logs / f"{job.name}.log").open("ab") as log:
                    command = [sys.executable, str(HERE / script), *base, "--job", *job.arguments]
                    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                    # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
                    running[job] = subprocess.Popen(
                        command, stdout=log, stderr=log, env=environment, start_new_session=True
                    )
            if not running:
                break
            if time.monotonic() >= end:
                _interrupt(running)
                break
            time.sleep(0.2)
            for job in [job for job, process in running.items() if process.poll() is not None]:
                code = running.pop(job).returncode
                if code or not job.result.exists():
                    failed.append(job.name)
                print(
                    f"{time.strftime('%H:%M:%S')} {job.name}: "
                    f"{f'failed ({code}), see its log' if code else 'done'}",
                    flush=True,
                )
    except KeyboardInterrupt:
        _interrupt(running)
        print("interrupted; the same command goes on", flush=True)
        end = 0.0
    return failed, sum(not job.result.exists() for job in pending if job.name not in failed)


def _interrupt(running: dict[Job, subprocess.Popen[bytes]]) -> None:
    """Let every run save its state and stop."""
    for process in running.values():
        process.send_signal(signal.SIGINT)
    for process in running.values():
        process.wait()


def main() -> None:
    # Started in the background, this ignores interrupts, and so would its runs, which one ends.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--world",
        default="scenes",
        help="the data: scenes, digits, scenes-context, scenes-one, photographs, photographs-50, "
        "photographs-wide, tiny-imagenet, voc "
        "(default: scenes)",
    )
    parser.add_argument(
        "--study", nargs="+", default=["core"], choices=list(STUDIES), help="what is compared (default: core)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="seeds (default: 0 1 2; one for the studies that are run with one)",
    )
    parser.add_argument("--cells", nargs="+", help="only these cells of the studies")
    parser.add_argument(
        "--processes", type=int, default=2, help="runs at a time, of one thread each (default: 2; 1 on a GPU)"
    )
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="stop after so long; the same command goes on"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("evidence-work"), help="data and runs (default: evidence-work)"
    )
    parser.add_argument(
        "--results", type=Path, default=HERE / "results", help="figures (default: beside this file)"
    )
    parser.add_argument(
        "--photographs", type=Path, help="Tiny-ImageNet's folder, for photographs, its kin and tiny-imagenet"
    )
    parser.add_argument("--voc", type=Path, help="the folder VOCdevkit/VOC2012, for voc")
    parser.add_argument(
        "--candidates",
        nargs="+",
        help="only these settings to choose from (default: all of the world); with one, nothing is tried",
    )
    parser.add_argument(
        "--images",
        type=int,
        help="images to train on, and to test on at most (default: as many as the world has)",
    )
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = worlds(Roots(photographs=args.photographs, voc=args.voc))
    if args.world not in known:
        missing = "" if args.photographs else "; photographs, -50, -wide and tiny-imagenet need --photographs"
        missing += "" if args.voc else "; voc needs --voc"
        parser.error(f"no world {args.world!r}; there are {', '.join(known)}{missing}")
    world, place = known[args.world], Place(args.work.resolve(), args.results.resolve())
    if args.images is not None:
        world = world.of_size(args.images)
    if args.candidates is not None:
        unknown = [name for name in args.candidates if name not in world.candidates]
        if unknown:
            parser.error(f"no candidate {unknown[0]!r}; there are {', '.join(world.candidates)}")
        world = replace(world, candidates={name: world.candidates[name] for name in args.candidates})
    if args.job:
        try:
            _run_job(place, world, args.job)
        except KeyboardInterrupt:
            sys.exit(130)
        return
    if args.processes < 1:
        parser.error(f"--processes {args.processes} must be 1 or more")
    if args.images is not None and args.images < K:
        parser.error(f"--images {args.images} must be {K} or more, since so many neighbours vote")
    end = time.monotonic() + 60 * args.minutes
    base = ["--world", args.world, "--work", str(place.work), "--results", str(place.results)]
    base += ["--photographs", str(args.photographs.resolve())] if args.photographs else []
    base += ["--voc", str(args.voc.resolve())] if args.voc else []
    base += ["--candidates", *args.candidates] if args.candidates else []
    base += ["--images", str(args.images)] if args.images is not None else []
    world.folder(place.work).mkdir(parents=True, exist_ok=True)
    with (world.folder(place.work) / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            parser.error(f"{world.folder(place.work)}: another process works in it")
        prepared = {cell.objects for study in args.study for cell in cells(study)}
        for objects in sorted(prepared):
            world.training_index(objects, place.work)  # once, before several processes ask for it
        world.index("choose", place.work)
        for part in ("train", "test"):
            world.boxes(part, place.work)
        logs = world.folder(place.work) / "logs"
        failed, left = work_through(
            trials(place, world, args.study, args.cells), base, logs, args.processes, end
        )
        if not failed and not left:
            failed, left = work_through(
                runs(place, world, args.study, args.seeds, args.cells), base, logs, args.processes, end
            )
    if left:
        print(f"{left} runs are left; the same command goes on")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see {logs}")


def _run_job(place: Place, world: World, job: list[str]) -> None:
    if job[0] == "trial":
        run_trial(place, world, job[1], job[2])
    else:
        cell: Cell = next(cell for cell in cells(job[1]) if cell.name == job[2])
        run_cell(place, world, cell, int(job[3]))


if __name__ == "__main__":
    main()
