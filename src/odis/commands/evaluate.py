"""`odis evaluate NAME`: options of each evaluation, progress, table, results file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.command import Command, Group
from odis.config.options import require
from odis.config.query import MODES
from odis.errors import OdisError

if TYPE_CHECKING:
    from odis.evaluation.asking import Each
    from odis.evaluation.asking import Progress as Report
    from odis.evaluation.label_maps import LabelledImages
    from odis.evaluation.probe import Grid
    from odis.inference import Encoder

SUMMARY = "Measure frozen features: k-NN, linear probe, transfer, retrieval, segmentation"

_SHOWN = 20  # skipped files and objects named on screen; the results file names all

EVALUATIONS = {
    "knn": "Classify objects or images of a test index by their nearest neighbours in a train index",
    "linear": "Train a linear classifier on frozen features, one label or several an image",
    "transfer": "Logistic regression on one data set or several, one column each",
    "retrieval": "Rank objects or images by similarity: mAP and recall; or the Revisited Oxford and Paris "
    "benchmarks",
    "dense-knn": "Label pixels by the nearest train patches: mIoU",
    "segment": "Label pixels by a linear classifier of patches: mIoU",
}


def group() -> Group:
    """The evaluations, one command each."""
    found = {
        name: Command(summary, partial(_add_options, name), partial(_run, name))
        for name, summary in EVALUATIONS.items()
    }
    return Group(SUMMARY, {"evaluations": found}, noun="evaluation")


def _add_options(name: str, parser: Any) -> None:
    parser.add_argument(
        "--model",
        action="append",
        help="run folder, model.safetensors, checkpoint or timm:NAME; again to compare models",
    )
    _COMMANDS[name][0](parser)
    parser.add_argument(
        "--size", type=int | None, default=None, help="pixels to ask at (default: as trained)"
    )
    parser.add_argument(
        "--max-train",
        type=int | None,
        default=None,
        help="at most so many train (or gallery) images, drawn by --seed",
    )
    parser.add_argument(
        "--max-test", type=int | None, default=None, help="at most so many test images, drawn by --seed"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision", type=str, default="auto", help="fp32, bf16 or fp16; auto is bf16 on a GPU, else fp32"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--batch-size", type=int, default=64, help="images the network sees at once")
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first image or object that cannot be used"
    )
    parser.add_argument("--out", type=str, default=f"{name}.json", help="results file to write")


def _run(name: str, options: Any) -> None:
    require(options, "model")

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from odis.evaluation.results import check_writable, results_table, write_results

    check_writable(options.out)

    stderr = Console(stderr=True, markup=False, emoji=False)  # names of files are shown as they are
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=stderr, transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        # After each row the file holds what there is: nothing that took long is lost to an interruption or to
        # a refusal later on.
        results = _COMMANDS[name][1](
            options, progress, lambda so_far: write_results(options.out, so_far | {"complete": False})
        )
    for item in results["skipped"][:_SHOWN]:
        stderr.print(f"skipped {item['what']}: {item['why']}", highlight=False, soft_wrap=True)
    if len(results["skipped"]) > _SHOWN:
        stderr.print(
            f"{len(results['skipped']) - _SHOWN} more files or objects were skipped; {options.out} names them"
        )
    Console(markup=False, emoji=False).print(results_table(results))
    write_results(options.out, results | {"complete": True})
    print(Path(options.out))


def _models(options: Any) -> list[Encoder]:
    from odis.inference import load
    from odis.machine.allocator import keep_freed_memory

    encoders = [load(source, device=options.device, precision=options.precision) for source in options.model]
    if all(encoder.device.type == "cpu" for encoder in encoders):
        keep_freed_memory()
    return encoders


def _asking(options: Any) -> dict[str, Any]:
    """What the options say of `Asking`."""
    shared = ("size", "max_train", "max_test", "seed", "batch_size", "workers", "strict", "images", "context")
    asking = {name: options[name] for name in shared if name in options}
    return asking | ({"modes": texts(options.mode)} if "mode" in options else {})


def _object_options(parser: Any, mode: str = "masked-attention") -> None:
    parser.add_argument(
        "--mode", type=str, default=mode, help=f"how to ask about an object; some of {','.join(MODES)}"
    )
    parser.add_argument(
        "--images", action="store_true", help="ask about each image as one object, whatever objects it has"
    )
    parser.add_argument(
        "--context",
        type=float | None,
        default=None,
        help="ask in a window so many times the box's longer side",
    )


def _knn_options(parser: Any) -> None:
    parser.add_argument(
        "--train", type=str, help="object index (.parquet) or folder of images, with labels: the neighbours"
    )
    parser.add_argument(
        "--test", type=str, help="object index or folder, with labels: the objects to classify"
    )
    _object_options(parser)
    parser.add_argument("--k", type=str, default="10,20", help="numbers of neighbours")
    parser.add_argument(
        "--temperature", type=float, default=0.07, help="a neighbour votes exp(cosine / temperature)"
    )


def _knn(options: Any, progress: Report, each: Each) -> dict[str, Any]:
    from odis.evaluation.knn import KnnSettings, evaluate_knn
    from odis.objects.index import ObjectIndex

    require(options, "train", "test")
    settings = KnnSettings(**_asking(options), k=numbers(options.k, "k"), temperature=options.temperature)
    train, test = ObjectIndex.open(options.train), ObjectIndex.open(options.test)
    return evaluate_knn(_models(options), train, test, settings, progress, each)


def _grid_options(parser: Any) -> None:
    from odis.evaluation.probe import Grid

    grid = Grid()
    parser.add_argument(
        "--lrs", type=str, default=",".join(f"{v:g}" for v in grid.lrs), help="learning rates to try"
    )
    parser.add_argument(
        "--weight-decays",
        type=str,
        default=",".join(f"{v:g}" for v in grid.weight_decays),
        help="weight decays to try",
    )
    parser.add_argument("--steps", type=int, default=grid.steps, help="steps of SGD")
    parser.add_argument("--batch", type=int, default=grid.batch, help="features a step of SGD")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        help="share of the train images that chooses among what was tried",
    )


def _grid(options: Any) -> Grid:
    from odis.evaluation.probe import Grid

    decays = floats(options.weight_decays, "weight-decays")
    return Grid(floats(options.lrs, "lrs"), decays, options.steps, options.batch)


def _linear_options(parser: Any) -> None:
    parser.add_argument(
        "--train", type=str, help="object index (.parquet) or folder of images, with labels: to train on"
    )
    parser.add_argument("--test", type=str, help="object index or folder, with labels: to measure on")
    _object_options(parser)
    _grid_options(parser)
    help_text = "images may have several labels, the score is mAP (default: if a train image has several)"
    parser.add_argument("--multi-label", type=bool | None, default=None, help=help_text)


def _linear(options: Any, progress: Report, each: Each) -> dict[str, Any]:
    from odis.evaluation.linear import LinearSettings, evaluate_linear
    from odis.objects.index import ObjectIndex

    require(options, "train", "test")
    settings = LinearSettings(
        **_asking(options), grid=_grid(options), held_out=options.held_out, multi_label=options.multi_label
    )
    train, test = ObjectIndex.open(options.train), ObjectIndex.open(options.test)
    return evaluate_linear(_models(options), train, test, settings, progress, each)


def _transfer_options(parser: Any) -> None:
    from odis.evaluation.transfer import TransferSettings

    parser.add_argument(
        "--train",
        action="append",
        help="object index or folder of images, with labels; again for the next data set",
    )
    parser.add_argument(
        "--test", action="append", help="the test part of the same data set; as often as --train"
    )
    parser.add_argument(
        "--name", action="append", help="name of the data set in the table (default: that of --test)"
    )
    _object_options(parser)
    costs = ",".join(f"{v:g}" for v in TransferSettings().costs)
    parser.add_argument(
        "--costs", type=str, default=costs, help="scikit-learn's C to try: the inverse of the l2 penalty"
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.2,
        help="share of the train images that chooses among what was tried",
    )


def _transfer(options: Any, progress: Report, each: Each) -> dict[str, Any]:
    from odis.evaluation.parts import Part
    from odis.evaluation.transfer import DataSet, TransferSettings, evaluate_transfer
    from odis.objects.index import ObjectIndex

    require(options, "train", "test")
    names = options.name or [Path(path).stem for path in options.test]
    for name, given in (("test", options.test), ("name", names)):
        if len(given) != len(options.train):
            raise OdisError(
                f"--train was given {len(options.train)} times and --{name} {len(given)} times; each data "
                f"set has one of both"
            )
    settings = TransferSettings(
        **_asking(options), costs=floats(options.costs, "costs"), held_out=options.held_out
    )
    data_sets = []
    for name, *paths in zip(names, options.train, options.test):
        train, test = (ObjectIndex.open(path) for path in paths)
        parts = (
            Part.of(train, settings.max_train, settings.seed),
            Part.of(test, settings.max_test, settings.seed),
        )
        data_sets.append(DataSet(name, *parts))
    return evaluate_transfer(_models(options), data_sets, settings, progress, each)


def _retrieval_options(parser: Any) -> None:
    parser.add_argument(
        "--test",
        type=str | None,
        default=None,
        help="object index or folder of images, with labels: the queries",
    )
    parser.add_argument(
        "--gallery",
        type=str | None,
        default=None,
        help="what is searched (default: the queries, each among all others)",
    )
    parser.add_argument(
        "--landmarks",
        type=str | None,
        default=None,
        help="gnd_roxford5k.pkl or gnd_rparis6k.pkl, in place of --test",
    )
    parser.add_argument(
        "--jpg",
        type=str | None,
        default=None,
        help="folder of the landmarks' images (default: jpg beside the file)",
    )
    _object_options(parser)
    parser.add_argument("--k", type=str | None, default=None, help="ranks of the recalls (default: 1,5,10)")
    parser.add_argument(
        "--same-image", action="store_true", help="search objects of the query's own image too"
    )


def _retrieval(options: Any, progress: Report, each: Each) -> dict[str, Any]:
    from odis.evaluation.asking import Asking
    from odis.evaluation.landmark_retrieval import evaluate_landmarks
    from odis.evaluation.retrieval import RetrievalSettings, evaluate_retrieval
    from odis.objects.index import ObjectIndex

    if (options.test is None) == (options.landmarks is None):
        raise OdisError("give --test, or --landmarks; one of the two")
    if options.landmarks is not None:
        if any(options[name] for name in ("images", "gallery", "max_train", "max_test", "same_image", "k")):
            raise OdisError(
                "--landmarks says what is asked and searched: no --images, --gallery, --max-train and "
                "the like"
            )
        return evaluate_landmarks(
            _models(options), options.landmarks, options.jpg, Asking(**_asking(options)), progress, each
        )
    if options.jpg is not None:
        raise OdisError("--jpg goes with --landmarks")
    settings = RetrievalSettings(
        **_asking(options), k=numbers(options.k or "1,5,10", "k"), same_image=options.same_image
    )
    gallery = None if options.gallery is None else ObjectIndex.open(options.gallery)
    return evaluate_retrieval(
        _models(options), ObjectIndex.open(options.test), gallery, settings, progress, each
    )


def _dense_options(parser: Any) -> None:
    where = "object index (.parquet) with masks, or a folder of PNG label maps in the layout of VOC or ADE20K"
    parser.add_argument("--train", type=str, help=where)
    parser.add_argument("--test", type=str, help="the same, to measure on")
    parser.add_argument(
        "--train-split", type=str, default="train", help="label maps: list or folder to train on"
    )
    parser.add_argument(
        "--test-split", type=str, default="val", help="label maps: list or folder to measure on"
    )
    parser.add_argument(
        "--boxes", action="store_true", help="index: give the whole box of an object without a mask its class"
    )
    parser.add_argument(
        "--max-patches",
        type=int,
        default=200_000,
        help="train patches held in memory, equally many of each image",
    )


def _dense_knn_options(parser: Any) -> None:
    _dense_options(parser)
    parser.add_argument("--k", type=int, default=30, help="neighbours of a patch")
    parser.add_argument(
        "--temperature", type=float, default=0.07, help="a neighbour votes exp(cosine / temperature)"
    )


def _labelled(options: Any) -> tuple[LabelledImages, LabelledImages]:
    from odis.evaluation.dense import open_labelled

    require(options, "train", "test")
    sides = (options.train, options.train_split), (options.test, options.test_split)
    train, test = (open_labelled(path, split, boxes=options.boxes) for path, split in sides)
    return train, test


def _dense_knn(options: Any, progress: Report, each: Each) -> dict[str, Any]:
    from odis.evaluation.dense_knn import DenseKnnSettings, evaluate_dense_knn

    settings = DenseKnnSettings(
        **_asking(options), max_patches=options.max_patches, k=options.k, temperature=options.temperature
    )  # fmt: skip
    return evaluate_dense_knn(_models(options), *_labelled(options), settings, progress, each)


def _segment_options(parser: Any) -> None:
    _dense_options(parser)
    _grid_options(parser)


def _segment(options: Any, progress: Report, each: Each) -> dict[str, Any]:
    from odis.evaluation.segment import SegmentSettings, evaluate_segment

    settings = SegmentSettings(
        **_asking(options), max_patches=options.max_patches, grid=_grid(options), held_out=options.held_out
    )  # fmt: skip
    return evaluate_segment(_models(options), *_labelled(options), settings, progress, each)


_COMMANDS: dict[str, tuple[Callable[[Any], None], Callable[[Any, Report, Each], dict[str, Any]]]] = {
    "knn": (_knn_options, _knn),
    "linear": (_linear_options, _linear),
    "transfer": (_transfer_options, _transfer),
    "retrieval": (_retrieval_options, _retrieval),
    "dense-knn": (_dense_knn_options, _dense_knn),
    "segment": (_segment_options, _segment),
}


def texts(text: str) -> list[str]:
    """A comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, name: str) -> list[int]:
    """A comma-separated list of whole numbers; raises `OdisError` naming the option."""
    try:
        return [int(part) for part in texts(text)]
    except ValueError as error:
        raise OdisError(f"{name} {text!r} must be whole numbers, such as 10,20") from error


def floats(text: str, name: str) -> list[float]:
    """A comma-separated list of numbers; raises `OdisError` naming the option."""
    try:
        return [float(part) for part in texts(text)]
    except ValueError as error:
        raise OdisError(f"{name} {text!r} must be numbers, such as 0.01,0.1") from error
