"""The report as one HTML page, from the folders of runs to the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from odis.config.query import QueryConfig, ReadConfig
from odis.errors import DataError, OdisError
from odis.inference import load
from odis.machine.files import write_text_whole
from odis.machine.progress import ProgressBar
from odis.report.comparisons import comparisons, find_comparisons
from odis.report.curves import curves
from odis.report.features import whole_size
from odis.report.overview import overview, summary
from odis.report.page import Html, concat, document, paragraph
from odis.report.pictures import ReportModel, pictures
from odis.report.results import find_results
from odis.report.runs import Run, read_runs
from odis.report.samples import draw_sample, open_data
from odis.report.tables import tables


def write_report(
    out: str | Path,
    paths: Sequence[str | Path],
    *,
    data: str | None = None,
    images: int = 4,
    results: Sequence[str | Path] = (),
    seed: int = 0,
    query: QueryConfig | None = None,
    read: ReadConfig | None = None,
) -> list[str]:
    """Write one HTML file about some runs. The same runs and data give the same bytes.

    Args:
        out: The file; what is there is replaced when the new one is whole.
        paths: Folders of runs.
        data: Index or folder whose images are shown; by default what a run's config names, `val` before
            `data`.
        images: How many are shown.
        results: Results files besides those in the folders.
        seed: Which images.
        query: Size and context of the queries, which use masked attention. By default the size is one at
            which objects are about as large as in training: that of training in a window (`context`), more
            in whole images.
        read: On which device and in which precision models run.

    Returns:
        What was left out, each in a line.

    Raises:
        OdisError: for a number that is not allowed, or a size that a network's patches do not tile.
        DataError: for a folder that is no run, a file that is not here, or a page that cannot be written.
            Nothing is written then.
    """
    out = Path(out)
    if images < 1:
        raise OdisError(f"images: is {images}, must be 1 or more")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; --out names the HTML file to write")
    for file in map(Path, results):
        if not file.is_file():
            raise DataError(
                f"{file}: {'is a folder, not a results file' if file.is_dir() else 'no such results file'}"
            )
    runs = read_runs(paths)
    groups, skipped = find_results([run.path for run in runs], map(Path, results))
    compared, broken = find_comparisons([run.path for run in runs], map(Path, results))
    notes = [f"left out: {item.what}: {item.why}" for item in (*skipped, *broken)]
    shown = _pictures(runs, data, images, seed, query or QueryConfig(), read or ReadConfig(), notes)
    names = ", ".join(run.label for run in runs)
    parts = [
        ("runs", "Runs", overview(runs)),
        ("curves", "Curves", curves(runs)),
        ("results", "Results", tables(groups, skipped)),
        ("comparisons", "Comparisons", comparisons(compared, broken)),
        ("pictures", "Pictures", shown),
    ]
    page = document(f"odis report: {names}", parts, summary(runs))
    write_text_whole(out, page, errors="replace")  # a file name may hold bytes that are no text
    return notes


def _pictures(
    runs: Sequence[Run],
    data: str | None,
    images: int,
    seed: int,
    query: QueryConfig,
    read: ReadConfig,
    notes: list[str],
) -> Html:
    index, source = open_data(runs, data)
    models, missing = [], []
    for number, run in enumerate(runs):
        try:
            encoder = load(run.path, device=read.device, precision=read.precision)
        except DataError as error:
            notes.append(f"no pictures: {error}")
            missing.append(paragraph(f"{run.label}: no pictures. {error}.", class_="note"))
            continue
        whole = whole_size(encoder, run, query.size)
        size = encoder.query_builder(query).size if query.context is not None else whole
        models.append(ReportModel(number, run, encoder, replace(query, size=size), whole))
    if index is None:
        notes.append(source)
        return concat([paragraph(source, class_="note"), *missing])
    if not models:
        return concat(missing)
    sample = draw_sample(index, images, seed)
    if not sample.shown:
        notes.append(f"no pictures: {index.path}: none of its images can be used")
        return concat(
            [*missing, paragraph(f"None of the images of {index.path} can be used.", class_="note")]
        )
    with ProgressBar() as bar:
        return concat([*missing, pictures(sample, source, seed, models, bar)])
