"""Tables of worlds whose runs have several lengths: curves, headroom, the choices of the authors one by one,
patches across an object, transfer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from figures import ENOUGH_SEEDS, Measure, Results, knn, score
from grid import ACROSS, BEST, COMPARED, GEOMETRIES, LENGTHS, REFERENCE, STUDIES, SUPERVISED, UNTRAINED, WHOLE
from markdown import NOT_RUN, rows
from mask_widths import MASKED, WIDTHS
from measure import NARROW, WAYS, WINDOW

MEASURES: dict[str, Measure] = {
    "object k-NN": knn(),
    "by crop": knn("crop"),
    "by masked attention": knn("masked-attention"),
    "by masked attention, window": knn(WINDOW),
    **{f"by {way.replace('-', ' ', 1)}": knn(way) for way in NARROW},
    "linear probe": score("linear"),
    "linear probe, whole patches": score("linear_narrow"),
    "image mAP": score("images_map"),
    "dense k-NN": score("dense_knn"),
    "Hummingbird": score("hummingbird"),
    "CorLoc": score("corloc"),
}
"""What is measured of every cell; object k-NN first in the way that was chosen for the method."""

ENOUGH = 10
"""Headroom over the interval of a score, from which on a world can decide a claim."""

BASE = "8-64"
"""Side of a patch and of a view of the base settings."""


def ceiling(results: Results, measure: Measure) -> tuple[str, float]:
    """Of the networks that were trained with labels for longest, by crops or by masks, the best one by a
    measure, and what its best seed has: one that learned nothing does not say that there is less to be
    gained. Empty and NaN without one.
    """
    ran = [
        there[-1]
        for name in SUPERVISED
        if (there := [cell for length in LENGTHS if (cell := f"{name}.{length}") in results.cells])
    ]
    found = [(cell, value) for cell in ran if not math.isnan(value := results.best(cell, measure))]
    return max(found, key=lambda one: one[1], default=("", math.nan))


def share(results: Results, cell: str, measure: Measure) -> str:
    """Of the headroom of a measure the share that a cell has, in %: 0 is the untrained network, 100 the best
    one of those that were trained with labels for longest.
    """
    low, (_, high) = results.of(UNTRAINED.name, measure), ceiling(results, measure)
    found = results.of(cell, measure)
    if not (low.seeds and found.seeds and high > low.mean):
        return "-"
    return f"{100 * (found.mean - low.mean) / (high - low.mean):.0f}"


def curves(results: Results) -> str:
    """Object k-NN of every method against images seen, and its share of the headroom."""
    body = []
    for name in (*COMPARED, *SUPERVISED):
        cells = {length: f"{name}.{length}" for length in LENGTHS}
        there = [cell for cell in cells.values() if cell in results.cells]
        if not there:
            continue
        asked = next(iter(results.cells[there[-1]].values()))["asked"]
        line = [_named(results, there[-1], name), asked]
        for cell in cells.values():
            line += [str(results.of(cell, knn())), share(results, cell, knn())]
        body.append(line)
    header = ["method", "asked by"]
    for length in LENGTHS:
        header += [f"{length} images", "% of headroom"]
    return rows(header, body)


def _named(results: Results, cell: str, name: str) -> str:
    """A name, with a star if runs of the cell were adopted (`adopt.py`)."""
    adopted = any(result.get("adopted") for result in results.cells[cell].values())
    return f"`{name}`{' *' if adopted else ''}"


def everything(results: Results) -> str:
    """Every measure of every method at every length, and the arithmetic of its steps for an image."""
    names = [UNTRAINED.name, *(f"{name}.{length}" for length in LENGTHS for name in (*COMPARED, *SUPERVISED))]
    body = [
        [
            _named(results, name, name),
            str(len(results.cells[name])),
            *(str(results.of(name, measure)) for measure in MEASURES.values()),
            _gflop(results, name),
        ]
        for name in names
        if name in results.cells
    ]
    return rows(["cell", "seeds", *MEASURES, "GFLOP an image"], body)


def _gflop(results: Results, cell: str) -> str:
    """Of a training step for each image; a dash where it was not counted."""
    found = results.of(cell, lambda result: result.get("flops_per_image", math.nan) / 1e9)
    return f"{found.mean:.3f}" if found.seeds else "-"


def asked(results: Results) -> str:
    """Object k-NN of every method and length in every way to ask."""
    names = [UNTRAINED.name, *(f"{name}.{length}" for length in LENGTHS for name in (*COMPARED, *SUPERVISED))]
    return in_ways(results, names, WAYS, "cell")


def in_ways(results: Results, names: Sequence[str], ways: Sequence[str], what: str) -> str:
    """Object k-NN of the cells that ran of some, in some ways to ask; `what` is the head of their column."""
    body = [
        [f"`{name}`", *(str(results.of(name, knn(way))) for way in ways)]
        for name in names
        if name in results.cells
    ]
    return rows([what, *ways], body)


AGAINST = (
    (WHOLE, "ibot"),
    (WHOLE, "crop-only"),
    (BEST, "ibot"),
    ("odis-single", "ibot"),
    ("crop-only", "ibot"),
)
"""Pairs of methods whose differences are shown in every way to ask."""


def against(results: Results) -> str:
    """Differences of methods in every way to ask and by every other measure, at one length."""
    ways = {way: knn(way) for way in WAYS}
    others = {name: one for name, one in MEASURES.items() if not name.startswith(("object", "by", "CorLoc"))}
    pairs = [pair for pair in AGAINST if all(name in results.cells for name in pair)]
    body = []
    for name, measure in (ways | others).items():
        found = [results.paired(*pair, measure) for pair in pairs]
        if any(figure.seeds for figure in found):
            body.append([name, *(figure.signed() for figure in found)])
    return rows(["measured", *(f"{one} - {other}" for one, other in pairs)], body)


def interval(results: Results, measure: Measure) -> tuple[float, str]:
    """Half of the 95 % interval that scores of this world have, and over what: over seeds or over test
    images, whichever is wider. Both are the median over cells; over seeds of those that have three or more.
    All seeds are measured on the same images, so that few of them may agree by chance.
    """
    found = [results.of(name, measure) for name in results.cells]
    seeded = [figure.half for figure in found if figure.seeds >= ENOUGH_SEEDS]
    halves = [
        half
        for cells in results.cells.values()
        for result in cells.values()
        if not math.isnan(half := _half(result, measure))
    ]
    over_images = statistics.median(halves) if halves else math.nan
    over_seeds = statistics.median(seeded) if seeded else math.nan
    if seeded and not over_images > over_seeds:
        return over_seeds, "seeds"
    return over_images, "test images"


def _half(result: dict[str, Any], measure: Measure) -> float:
    """Half of the interval of one score over test images."""

    def at(end: str) -> float:
        scores = result["scores"]
        ends: dict[str, Any] = {name: {"value": one.get(end, math.nan)} for name, one in scores.items()}
        ends["knn"] = {way: {"value": one.get(end, math.nan)} for way, one in scores["knn"].items()}
        return measure({**result, "scores": ends})

    return (at("high") - at("low")) / 2


def headroom(results: Results) -> str:
    """What there is to be gained by each measure, and whether that is enough to decide a claim."""
    body = []
    for name, measure in MEASURES.items():
        best, high = ceiling(results, measure)
        low = results.of(UNTRAINED.name, measure)
        if not low.seeds or math.isnan(high):
            continue
        half, over = interval(results, measure)
        room = high - low.mean
        enough = room > 0 and room >= ENOUGH * half
        body.append(
            [
                name,
                str(low),
                f"{high:.1f}",
                f"`{best}`",
                f"{room:+.1f}",
                f"± {half:.1f} over {over}",
                f"{room / half:.1f}" if half > 0 else "-",
                "yes" if enough else "no",
            ]
        )
    header = ["measure", "untrained", "with labels", "which is", "headroom", "interval", "headroom over it"]
    return rows([*header, "decides claims"], body)


def decides(results: Results) -> str:
    """One line: which measures of this world can decide a claim."""
    can, cannot = [], []
    for name, measure in MEASURES.items():
        low, (_, high) = results.of(UNTRAINED.name, measure), ceiling(results, measure)
        if low.seeds and not math.isnan(high):
            room = high - low.mean
            enough = room > 0 and room >= ENOUGH * interval(results, measure)[0]
            (can if enough else cannot).append(name)
    if not can + cannot:
        return NOT_RUN
    said = f"with headroom of {ENOUGH} intervals or more"
    return (
        f"Measures {said}: {', '.join(can) or 'none'}. Of less, which decide nothing: "
        f"{', '.join(cannot) or 'none'}.\n"
    )


def one_by_one(results: Results) -> str:
    """Each choice of the authors on top of the reference, against the reference of that length."""
    measures = (*_WAYS, "by masked attention, whole patches", "linear probe, whole patches", "Hummingbird")
    return _changed(results, "authors-one-by-one", REFERENCE, measures)


def rates(results: Results) -> str:
    """iBOT at the rate of its own choice, against iBOT at that of all methods."""
    return _changed(results, "rates", "ibot", (*_WAYS, "linear probe"))


def trained_widths(results: Results) -> str:
    """Read-only tokens trained with masks of other widths, against those of the base's."""
    return _changed(results, "mask-widths", BEST, (*_WAYS, "linear probe"))


_WAYS = ("by crop", "by masked attention", "by masked attention, window")


def _changed(results: Results, study: str, of: str, measured: Sequence[str]) -> str:
    """Cells of a study that each change one thing, and the difference to that of the method `of` of the same
    length.
    """
    body = []
    for item in STUDIES[study]:
        if item.name in results.cells:
            other = f"{of}.{item.name.rsplit('.', 1)[1]}"
            line = [f"`{item.name}`", str(len(results.cells[item.name]))]
            for measure in map(MEASURES.__getitem__, measured):
                line += [str(results.of(item.name, measure))]
                line += [results.paired(item.name, other, measure).signed()]
            body.append(line)
    header = ["cell", "seeds"]
    for name in measured:
        header += [name, "against it"]
    return rows(header, body)


def geometry_cell(method: str, geometry: str) -> str:
    """Name of the cell of a method (or `untrained`) at a side of patches and of views."""
    if method == UNTRAINED.name:
        return method if geometry == BASE else f"{method}.{geometry}"
    return f"{method}.100k" if geometry == BASE else f"{method}.{geometry}.100k"


def by_patches() -> list[str]:
    """Sides of patches and views, from few patches a view to many."""
    return sorted([BASE, *GEOMETRIES], key=lambda name: (across(name), -int(name.split("-")[0])))


def across(geometry: str) -> int:
    """Patches across a view."""
    patch, view = map(int, geometry.split("-"))
    return view // patch


def patches(results: Results) -> str:
    """Object k-NN by patches across a view, as a crop and by masks as wide as in training and of whole
    patches, and what masks bring.
    """
    body = []
    for geometry in (one for one in by_patches() if ran_at(results, one)):
        patch, view = geometry.split("-")
        for way in ("crop", "masked-attention", WINDOW, *NARROW):
            found = [
                results.of(geometry_cell(name, geometry), knn(way)) for name in (UNTRAINED.name, *ACROSS)
            ]
            if not any(figure.seeds for figure in found):
                continue
            gain = results.paired(
                geometry_cell("odis-read-only-all", geometry), geometry_cell("crop-only", geometry), knn(way)
            )
            over = results.paired(
                geometry_cell("odis-read-only-all", geometry), geometry_cell("ibot", geometry), knn(way)
            )
            sides = [f"{across(geometry)} x {across(geometry)}", patch, view, way]
            body.append([*sides, *map(str, found), over.signed(), gain.signed()])
    header = ["patches a view", "patch", "view", "asked by", UNTRAINED.name, *ACROSS]
    return rows([*header, "read-only - ibot", "read-only - crop-only"], body)


def transfer(results: Results) -> str:
    """Kept backbones of this world on data of others (`evaluate.py`)."""
    from evaluate import table

    said = [
        f"On `{found['name']}` ({found['test']['images']} images, {found['test']['objects']} objects):\n\n"
        f"{table(found)}"
        for found in results.on
    ]
    return "\n".join(said) if said else NOT_RUN


def readouts(results: Results) -> str:
    """Object k-NN by `[OBJ]` and by `[CLS]` and `[OBJ]` concatenated, of networks that have both tokens."""
    body = []
    for name, cells in results.cells.items():
        for way in ("masked-attention", WINDOW):
            if all(way in result["scores"].get("knn_both", {}) for result in cells.values()):
                figures = (
                    results.of(name, knn(way)),
                    results.of(name, both(way)),
                    results.paired(name, name, both(way), knn(way)),
                )
                body.append([f"`{name}`", way, str(figures[0]), str(figures[1]), figures[2].signed()])
    return rows(["cell", "asked by", "`[OBJ]`", "both", "difference"], body)


def both(way: str) -> Measure:
    """k-NN accuracy in percent by `[CLS]` and `[OBJ]` concatenated."""
    return lambda result: result["scores"]["knn_both"][way]["value"]


def ran_curves(results: Results) -> bool:
    """Whether there is something to draw curves of."""
    return any(f"{name}.{length}" in results.cells for name in COMPARED for length in LENGTHS)


def ran_at(results: Results, geometry: str) -> bool:
    """Whether a method was trained at a side of patches and views."""
    return any(geometry_cell(name, geometry) in results.cells for name in ACROSS)


def ran_patches(results: Results) -> bool:
    """Whether there is a side of patches beside the base."""
    return any(ran_at(results, one) for one in GEOMETRIES)


def curves_plot(results: Results) -> str:
    """The plot of `plots.py`, for a page that lies beside it."""
    said = "Scores against images seen, a line for each method, for six measures"
    return f"![{said}]({results.world}-curves.png)\n" if ran_curves(results) else NOT_RUN


def patches_plot(results: Results) -> str:
    """The plot of `plots.py`, for a page that lies beside it."""
    said = "Object k-NN by crop and by masked attention against patches in a view"
    return f"![{said}]({results.world}-patches.png)\n" if ran_patches(results) else NOT_RUN


def first_runs(results: Results) -> str:
    """Runs that were made before the study's own: object k-NN with intervals over test images."""
    body = []
    for run in sorted(results.first, key=lambda run: (run["images_seen"], run["name"])):
        scores = [run["scores"][way] for way in ("crop", "masked", "window")]
        shown = [f"{one['value']:.1f} ± {(one['high'] - one['low']) / 2:.1f}" for one in scores]
        body.append([f"`{run['name']}`", f"{run['images_seen']:,}", *shown])
    return rows(["method", "images seen", "crop", "masked-attention", WINDOW], body)


def widths(results: Results) -> str:
    """Object k-NN of kept backbones asked with masks of several widths (`mask_widths.py`)."""
    body = []
    for name, row in results.widths.items():
        named = {sides: width for width, sides in WIDTHS.items()}
        coverage, margin = row["trained_at"]
        trained = named.get((coverage, margin), f"{coverage:g}, {margin}".replace("0.", "."))
        for way in MASKED:
            scores = [row["scores"][width][way] for width in WIDTHS]
            shown = [f"{one['value']:.1f} ± {(one['high'] - one['low']) / 2:.1f}" for one in scores]
            body.append([f"`{name}`", trained, way, *shown])
    return rows(["network", "trained with", "asked by", *WIDTHS], body)


BLOCKS: dict[str, Callable[[Results], str]] = {
    "curves": curves,
    "curves-plot": curves_plot,
    "patches-plot": patches_plot,
    "everything": everything,
    "asked": asked,
    "against": against,
    "headroom": headroom,
    "decides": decides,
    "one-by-one": one_by_one,
    "rates": rates,
    "patches-across": patches,
    "transfer": transfer,
    "readouts": readouts,
    "first-runs": first_runs,
    "mask-widths": widths,
    "trained-widths": trained_widths,
}
