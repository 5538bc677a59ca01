"""Tables of the study of post-training (`post.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from figures import Figure, Measure, Results, figure, verdict
from markdown import NOT_RUN, rows
from measure import NARROW, WINDOW
from post_grid import KEEPING, LENGTH, MASKS, METHODS, PUBLIC, RATES, WHOLE

START = PUBLIC.name
"""The cell that nothing is trained in."""

FOLDERS = ("post-public", "post-voc", "post-nuclei")
"""Folders of results that these tables are of, and the others are not."""


def objects(result: dict[str, Any]) -> float:
    """Object k-NN in percent as the method asks best on held-out images; NaN where objects are of one
    class.
    """
    found = result["scores"].get("knn", {}).get(result.get("asked"), {})
    return float(found.get("value", math.nan))


WAYS = ("crop", "masked-attention", WINDOW, *NARROW)
"""How objects are asked about."""


def by(way: str) -> Measure:
    """Object k-NN in one way to ask, in percent."""
    return lambda result: float(result["scores"].get("knn", {}).get(way, {}).get("value", math.nan))


def of(name: str) -> Measure:
    """Another score, in percent."""
    return lambda result: float(result["scores"].get(name, {}).get("value", math.nan))


MEASURES: dict[str, Measure] = {
    "object k-NN": objects,
    "dense k-NN": of("dense_knn"),
    "Tiny-ImageNet k-NN": of("known"),
}
"""On the target, on the target's patches, and on what the public network knows."""


def since(results: Results, cell: str, measure: Measure) -> Figure:
    """What a cell has gained over the public network, over its seeds."""
    start = results.of(START, measure)
    if not start.seeds:
        return figure([])
    values = [measure(result) - start.mean for _, result in sorted(results.cells.get(cell, {}).items())]
    return figure([value for value in values if not math.isnan(value)])


CELLS = [START, *METHODS, *(f"{method}.{name}" for method in METHODS for name in (*MASKS, *KEEPING))]
"""All that may have been trained, in the order of tables."""


def scores(results: Results) -> str:
    """Every cell, and what it gained over the public network."""
    body = []
    for name in CELLS:
        cells = results.cells.get(name)
        if not cells:
            continue
        first = next(iter(cells.values()))
        line = [f"`{name}`", str(len(cells)), first.get("candidate", "-"), first["asked"]]
        for measure in MEASURES.values():
            gained = "-" if name == START else since(results, name, measure).signed()
            line += [str(results.of(name, measure)), gained]
        body.append(line)
    header = ["cell", "seeds", "rate", "asked by"]
    for name in MEASURES:
        header += [name, "gained"]
    return rows(header, body)


def asked(results: Results) -> str:
    """Object k-NN of every cell in every way to ask, and what it gained over the public network."""
    body = []
    for name in CELLS:
        if results.of(name, objects).seeds:
            line = [f"`{name}`", str(len(results.cells[name]))]
            for way in WAYS:
                gained = "-" if name == START else since(results, name, by(way)).signed()
                line += [str(results.of(name, by(way))), gained]
            body.append(line)
    header = ["cell", "seeds"]
    for way in WAYS:
        header += [way, "gained"]
    return rows(header, body)


def claims(results: Results) -> str:
    """The pairs that claims are about."""
    body = []

    def add(says: str, compared: str, found: Figure, bound: float = 0.0) -> None:
        body.append([says, f"`{compared}`", found.signed(), verdict(found, bound)])

    by_objects = "object k-NN" if results.world != "post-nuclei" else "dense k-NN"
    target, kept = MEASURES[by_objects], MEASURES["Tiny-ImageNet k-NN"]
    for method in ("read-only", "beside"):
        gap = results.paired(method, "ibot", target)
        add(f"objects ({method}) beat continued iBOT by 3 points", f"{method} - ibot, {by_objects}", gap, 3.0)
        gain = since(results, method, target)
        add(f"objects ({method}) beat the public network", f"{method} - {START}, {by_objects}", gain)
        lost = since(results, method, kept)
        add(
            f"{method} loses at most 1 point of what was known",
            f"{method} - {START}, Tiny-ImageNet",
            lost,
            -1.0,
        )
        for means in (name for name in KEEPING if f"{method}.{name}" in results.cells):
            less = results.paired(f"{method}.{means}", method, kept)
            add(
                f"{means} keeps more of what was known ({method})",
                f"{method}.{means} - {method}, Tiny-ImageNet",
                less,
            )
    whole = f"read-only.{WHOLE}"
    for way in WAYS if by_objects == "object k-NN" else ():
        for ours, theirs in (("read-only", "ibot"), (whole, "ibot"), (whole, "read-only")):
            gap = results.paired(ours, theirs, by(way))
            add(f"{ours} is above {theirs}, by {way}", f"{ours} - {theirs}, by {way}", gap)
    if by_objects == "dense k-NN":
        add(
            f"{whole} is above read-only",
            f"{whole} - read-only, {by_objects}",
            results.paired(whole, "read-only", target),
        )
    return rows(["claim", "compared", "measured", "verdict"], body) if results.cells else NOT_RUN


def choices(results: Results) -> str:
    """What every method chose its rate by: the score on held-out images."""
    body = []
    for method in METHODS:
        trials = results.trials.get(method, {})
        if trials:
            shown = [_held_out(trials[name]) if name in trials else "-" for name in RATES]
            body.append([f"`{method}`", *shown])
    return rows(["method", *(f"{name} ({rate:g})" for name, rate in RATES.items())], body)


def _held_out(trial: dict[str, Any]) -> str:
    knn = trial["scores"].get("knn")
    if knn is None:
        return f"{trial['scores']['dense_knn']['value']:.1f}"
    return f"{max(score['value'] for score in knn.values()):.1f}"


def public(results: Results) -> str:
    """How the public network was made, and what it knows."""
    cells = results.cells.get(START)
    if not cells:
        return NOT_RUN
    made = next(iter(cells.values()))
    return rows(
        ["images seen", "CPU minutes", "Tiny-ImageNet k-NN", "images of a cell"],
        [
            [
                f"{made['images_seen']:,}",
                f"{made['seconds'] / 60:.0f}",
                str(results.of(START, of("known"))),
                f"{LENGTH:,}",
            ]
        ],
    )


BLOCKS: dict[str, Callable[[Results], str]] = {
    "post-scores": scores,
    "post-asked": asked,
    "post-claims": claims,
    "post-choices": choices,
    "post-made": public,
}
