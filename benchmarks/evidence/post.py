"""Post-training, measured: a network that iBOT has trained on Tiny-ImageNet, trained further on other images
by objects and without.

    python benchmarks/evidence/post.py --photographs DIR --voc DIR --nuclei DIR [--targets voc] [--minutes 60]

First the "public" network is trained. Then every method tries the same learning rates in short runs, judged
on images that are held out; then the cells run one after another, and are measured on the target's test
images and on Tiny-ImageNet, which the public network knows. What is done is not done again, what was
interrupted goes on: the same command. Data and runs are in `--work`, figures in `--results`; `tables.py`
makes tables of them.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cell import CHOOSE_SEED, KEPT_SEED, Place, config_of, keep_backbone, trained
from grid import Cell
from measure import DENSE_TEST, MEMORY, NARROW, NEIGHBOURS, WINDOW, K, knn_of
from post_grid import METHODS, PUBLIC, TRIAL, Target, known, targets
from run import HERE, Job, work_through
from worlds import Roots, World

from odis.config.query import QueryConfig
from odis.config.training import PretrainConfig
from odis.errors import OdisError
from odis.evaluation.dense_knn import DenseKnnSettings, evaluate_dense_knn
from odis.evaluation.knn import KnnSettings, evaluate_knn
from odis.evaluation.results import write_results
from odis.inference import Encoder, load

ASKED = ("crop", "masked-attention", WINDOW)
"""How objects are asked about, one of which is chosen on held-out images."""

MEASURED = (*ASKED, *NARROW)
"""How they are asked about on test images."""

KNOWN = (5000, 2000)
"""Images of Tiny-ImageNet that are neighbours, and that are classified."""


def public_result(place: Place) -> Path:
    """File of the public network's figures on what it knows; its backbone lies beside it."""
    return place.results / "post-public" / f"{PUBLIC.name}-seed{KEPT_SEED}.json"


def weights(place: Place) -> Path:
    """The public network's backbone, which cells start from."""
    return public_result(place).with_suffix(".safetensors")


def run_public(place: Place, world: World) -> None:
    """Train the public network and measure it on its own kind of images."""
    config = config_of(world, PUBLIC, PUBLIC.name, world.index("train", place.work).path, KEPT_SEED)
    figures = trained(place, world, PUBLIC.name, config, KEPT_SEED)
    encoder = figures.pop("encoder")
    keep_backbone(encoder, weights(place))
    scores = {"known": known_knn(encoder, place, world)}
    write_results(
        public_result(place),
        {"world": world.name, "cell": PUBLIC.name, "seed": KEPT_SEED, **figures, "scores": scores},
    )


def known_knn(encoder: Encoder, place: Place, world: World) -> dict[str, Any]:
    """k-NN of whole images that the public network knows the like of."""
    query = QueryConfig(modes=("whole-image",), images=True, size=world.side)
    train, test = world.index("train", place.work), world.index("test", place.work)
    settings = KnnSettings(query=query, k=(K,), max_train=KNOWN[0], max_test=KNOWN[1])
    found: dict[str, Any] = evaluate_knn(encoder, train, test, settings)
    scores: dict[str, Any] = found["rows"][0]["scores"][f"k={K}"]
    return scores


def target_scores(encoder: Encoder, place: Place, target: Target, part: str) -> dict[str, Any]:
    """`knn` of objects in every way to ask, where they are of several classes, and `dense_knn` of patches; of
    the held-out part only what the rate is chosen by.
    """
    world, scores = target.world, {}
    train, test = world.index("train", place.work), world.index(part, place.work)
    if len(train.classes) > 1:
        ways = MEASURED if part == "test" else ASKED
        scores["knn"] = {way: knn_of(encoder, train, test, world.side, way, "obj") for way in ways}
    if part == "test" or target.chosen_by == "dense_knn":
        dense = evaluate_dense_knn(
            encoder,
            target.labelled("train", place.work),
            target.labelled(part, place.work),
            DenseKnnSettings(
                query=QueryConfig(size=world.side),
                max_patches=MEMORY,
                max_train=NEIGHBOURS,
                max_test=DENSE_TEST,
            ),
        )
        scores["dense_knn"] = dense["rows"][0]["scores"]["mIoU"]
    return scores


def judged(scores: dict[str, Any], by: str) -> tuple[float, str]:
    """The score that candidates are judged by, and the way of asking that has it."""
    if by != "knn":
        return scores[by]["value"], "-"
    asked = max(ASKED, key=lambda way: scores["knn"][way]["value"])
    return scores["knn"][asked]["value"], asked


def start_config(place: Place, target: Target, cell: Cell, candidate: str, seed: int) -> PretrainConfig:
    """The settings of a cell: those of `cell.config_of`, from the public network's backbone."""
    data = target.world.index("train", place.work).path
    cell = replace(cell, settings={**cell.settings, "model.weights": str(weights(place))})
    return config_of(target.world, cell, candidate, data, seed)


def trial_result(place: Place, target: Target, method: str, candidate: str) -> Path:
    """File of the figures that a rate of a method is judged by."""
    return place.results / target.name / "choose" / f"{method}.{candidate}.json"


def run_trial(place: Place, target: Target, method: str, candidate: str) -> None:
    """A short run at one rate, measured on the images that rates are chosen on."""
    cell = replace(target.cell(method), images=TRIAL)
    config = start_config(place, target, cell, candidate, CHOOSE_SEED)
    figures = _trained(place, target, f"post.choose.{method}.{candidate}", config, CHOOSE_SEED)
    encoder = figures.pop("encoder")
    scores = target_scores(encoder, place, target, "choose")
    about = {"world": target.name, "cell": method, "candidate": candidate, "scores": scores}
    write_results(trial_result(place, target, method, candidate), {**about, **figures})


def chosen(place: Place, target: Target, method: str) -> tuple[str, str]:
    """The rate, and the way to ask, that were best for a method on held-out images; the first of equals.

    Raises:
        FileNotFoundError: A rate was not tried yet.
    """
    found = {
        candidate: judged(
            json.loads(trial_result(place, target, method, candidate).read_text())["scores"],
            target.chosen_by,
        )
        for candidate in target.world.candidates
    }
    best = max(found, key=lambda candidate: found[candidate][0])
    return best, found[best][1]


def run_start(place: Place, target: Target, tiny: World) -> None:
    """The public network as it is, measured on the target and on what it knows: nothing is trained."""
    encoder = load(weights(place), device="cpu")
    asked = judged(target_scores(encoder, place, target, "choose"), target.chosen_by)[1]
    about = {"world": target.name, "cell": PUBLIC.name, "seed": KEPT_SEED, "asked": asked, "images_seen": 0}
    scores = {
        **target_scores(encoder, place, target, "test"),
        "known": known_knn(encoder, place, tiny),
    }
    write_results(_result(place, target, PUBLIC.name, KEPT_SEED), {**about, "scores": scores})


def run_cell(place: Place, target: Target, tiny: World, cell: Cell, seed: int) -> None:
    """Train, measure on the test part and on what was known, and write the figures."""
    method = cell.name.split(".")[0]
    candidate, asked = chosen(place, target, method)
    config = start_config(place, target, cell, candidate, seed)
    figures = _trained(place, target, f"post.{cell.name}", config, seed)
    encoder = figures.pop("encoder")
    scores = {
        **target_scores(encoder, place, target, "test"),
        "known": known_knn(encoder, place, tiny),
    }
    about = {"world": target.name, "cell": cell.name, "seed": seed, "candidate": candidate, "asked": asked}
    write_results(_result(place, target, cell.name, seed), {**about, **figures, "scores": scores})


def _trained(place: Place, target: Target, name: str, config: PretrainConfig, seed: int) -> dict[str, Any]:
    figures = trained(place, target.world, name, config, seed)
    name_of_start = weights(place).name  # no path of the machine it was made on
    figures["config"]["model"]["weights"] = figures["resolved"]["start_weights"]["source"] = name_of_start
    return figures


def _result(place: Place, target: Target, cell: str, seed: int) -> Path:
    return place.results / target.name / f"{cell}-seed{seed}.json"


def trials_of(place: Place, target: Target) -> list[Job]:
    """The search of a target."""
    return [
        Job(
            f"{target.name}.choose.{method}.{candidate}",
            ("trial", target.world.name, method, candidate),
            trial_result(place, target, method, candidate),
        )
        for method in METHODS
        for candidate in target.world.candidates
    ]


def cells_of(place: Place, target: Target) -> list[Job]:
    """The cells of a target, the public network first."""
    start = Job(
        f"{target.name}.{PUBLIC.name}",
        ("start", target.world.name),
        _result(place, target, PUBLIC.name, KEPT_SEED),
    )
    return [start] + [
        Job(
            f"{target.name}.{cell.name}-seed{seed}",
            ("cell", target.world.name, cell.name, str(seed)),
            _result(place, target, cell.name, seed),
        )
        for cell, seed in target.cells()
    ]


def run_job(place: Place, roots: Roots, job: list[str]) -> None:
    """One process' work, by the arguments of a `Job`."""
    tiny = known(roots)
    if job[0] == "public":
        run_public(place, tiny)
        return
    target = targets(roots)[job[1]]
    if job[0] == "trial":
        run_trial(place, target, job[2], job[3])
    elif job[0] == "start":
        run_start(place, target, tiny)
    else:
        cell = next(cell for cell, _ in target.cells() if cell.name == job[2])
        run_cell(place, target, tiny, cell, int(job[3]))


def main() -> None:
    # A shell's background job ignores interrupts, and so would its runs, which one ends.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True, help="Tiny-ImageNet's folder")
    parser.add_argument("--voc", type=Path, help="the folder VOCdevkit/VOC2012")
    parser.add_argument("--nuclei", type=Path, help="microscopy images, COCO's JSON with masks")
    parser.add_argument("--targets", nargs="+", help="only these (default: all whose folder is given)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--work", type=Path, default=Path("evidence-work"), help="data and runs")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="figures")
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    roots = Roots(
        **{
            name: path.resolve() if path else None
            for name, path in (("photographs", args.photographs), ("voc", args.voc), ("nuclei", args.nuclei))
        }
    )
    place = Place(args.work.resolve(), args.results.resolve())
    if args.job:
        try:
            run_job(place, roots, args.job)
        except KeyboardInterrupt:
            sys.exit(130)
        return
    given = targets(roots)
    for name in args.targets or ():
        if name not in given:
            parser.error(f"no target {name!r}; the folders that are given make {', '.join(given) or 'none'}")
    if args.processes < 1:
        parser.error(f"--processes {args.processes} must be 1 or more")
    asked = [target for name, target in given.items() if args.targets is None or name in args.targets]
    try:
        failed, left = _everything(place, roots, asked, args)
    except OdisError as error:
        sys.exit(str(error))
    if left:
        print(f"{left} runs are left; the same command goes on")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see {place.work / 'post-logs'}")


def _everything(
    place: Place, roots: Roots, asked: list[Target], args: argparse.Namespace
) -> tuple[list[str], int]:
    """The public network, then each target: its search, then its cells."""
    end = time.monotonic() + 60 * args.minutes
    base = ["--work", str(place.work), "--results", str(place.results)]
    for name in ("photographs", "voc", "nuclei"):
        base += [f"--{name}", str(getattr(roots, name))] if getattr(roots, name) else []
    place.work.mkdir(parents=True, exist_ok=True)
    with (place.work / ".post-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OdisError(f"{place.work}: another process works in it") from None
        for world in (known(roots), *(target.world for target in asked)):
            for part in ("train", "choose", "test"):
                world.index(part, place.work)  # once, before several processes ask for it
        stages = [[Job(PUBLIC.name, ("public",), public_result(place))]]
        for target in asked:
            stages += [trials_of(place, target), cells_of(place, target)]
        failed: list[str] = []
        while stages and not failed:
            jobs = stages.pop(0)
            failed, left = work_through(
                jobs, base, place.work / "post-logs", args.processes, end, script="post.py"
            )
            if left:
                stages.insert(0, [job for job in jobs if not job.result.exists()])
                break
    return failed, sum(not job.result.exists() for jobs in stages for job in jobs)


if __name__ == "__main__":
    main()
