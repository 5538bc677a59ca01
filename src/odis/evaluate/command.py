"""`odis evaluate knn`: options, progress, table, results file."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from odis.errors import OdisError
from odis.evaluate.knn import KnnSettings, evaluate_knn
from odis.evaluate.results import knn_table, write_results
from odis.inference import load
from odis.objects.index import ObjectIndex
from odis.options import new_parser, parse, require
from odis.queries import MODES

_SHOWN = 20  # skipped files and objects named on screen; results.json names all


def run_knn(arguments: list[str]) -> None:
    """Evaluate one or more models and print the table.

    Raises:
        OdisError: see `evaluate_knn`.
    """
    parser = new_parser("evaluate knn", "Classify the objects of a test index by their nearest neighbours in a train index.")
    parser.add_argument("--model", action="append", help="run folder, model.safetensors or timm:NAME; give it again to compare models")
    parser.add_argument("--train", type=str, help="object index (.parquet) or folder of images, with labels: the neighbours")
    parser.add_argument("--test", type=str, help="object index or folder, with labels: the objects to classify")
    parser.add_argument("--mode", type=str, default="masked-attention", help=f"how to ask about an object; some of {','.join(MODES)}")
    parser.add_argument("--k", type=str, default="10,20", help="numbers of neighbours")
    parser.add_argument("--temperature", type=float, default=0.07, help="a neighbour votes exp(cosine / temperature)")
    parser.add_argument("--size", type=int | None, default=None, help="pixels to ask at (default: as trained)")
    parser.add_argument("--context", type=float | None, default=None, help="ask in a window so many times the box's longer side")
    parser.add_argument("--max-train", type=int | None, default=None, help="at most so many train images, drawn by --seed")
    parser.add_argument("--max-test", type=int | None, default=None, help="at most so many test images, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="of --max-train and --max-test")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", type=str, default="fp32", help="fp32, bf16 or fp16")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--batch-size", type=int, default=64, help="images the network sees at once")
    parser.add_argument("--strict", action="store_true", help="stop at the first image or object that cannot be used")
    parser.add_argument("--out", type=str, default="results.json", help="results file to write")
    options = parse(parser, arguments)
    require(options, "model", "train", "test")

    settings = KnnSettings(
        modes=_list(options.mode), k=_numbers(options.k), temperature=options.temperature, size=options.size, context=options.context,
        max_train=options.max_train, max_test=options.max_test, seed=options.seed,
        batch_size=options.batch_size, workers=options.workers, strict=options.strict,
    )  # fmt: skip
    train, test = ObjectIndex.open(options.train), ObjectIndex.open(options.test)
    encoders = [load(source, device=options.device, precision=options.precision) for source in options.model]
    stderr = Console(stderr=True, markup=False, emoji=False)  # names of files are shown as they are
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=stderr, transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        results = evaluate_knn(encoders, train, test, settings, progress)
    for item in results["skipped"][:_SHOWN]:
        stderr.print(f"skipped {item['what']}: {item['why']}", highlight=False, soft_wrap=True)
    if len(results["skipped"]) > _SHOWN:
        stderr.print(f"{len(results['skipped']) - _SHOWN} more files or objects were skipped; {options.out} names them")
    Console(markup=False, emoji=False).print(knn_table(results))  # before the file: what took long is shown even if that fails
    write_results(options.out, results)
    print(Path(options.out))


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in _list(text)]
    except ValueError as error:
        raise OdisError(f"k {text!r} must be whole numbers, such as 10,20") from error
