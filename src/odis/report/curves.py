"""Curves of losses, collapse meters, speed, schedule and k-NN, each with a note on how to read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from odis.config.wording import counted
from odis.report.page import Html, bullets, code, concat, element, paragraph
from odis.report.runs import Run
from odis.report.svg import POINTS, Curve, key, line_chart, span

_LOSSES = {
    "loss": (
        "Loss",
        "The weighted sum of the terms below. Good: it falls, then levels off. Bad: it jumps up and "
        "stays there.",
    ),
    "loss_object": (
        "Object term",
        "Cross-entropy of student and teacher on objects. Good: it falls slowly. Bad: it drops to 0, or "
        "stays at log K.",
    ),
    "loss_patch": (
        "Patch term",
        "Cross-entropy at the patches that are hidden from the student. Good: it falls. Bad: it stays "
        "where it began.",
    ),
    "loss_image": (
        "Image term",
        "Cross-entropy of student and teacher on whole images. Read it as the object term.",
    ),
    "loss_koleo": (
        "KoLeo term",
        "How close the objects of a batch are to each other; lower is further apart. Good: it falls. "
        "Bad: it rises to the end.",
    ),
}
_NATS = "nats"


@dataclass(frozen=True, slots=True)
class Plot:
    """One chart: a meter of all runs."""

    meter: str
    title: str
    y_label: str
    reading: str
    scale: float = 1.0
    y_range: tuple[float | None, float | None] = (None, None)
    log_k: bool = False  # draw log K, the entropy of a uniform teacher
    term: bool = False  # a term of the loss: 0 throughout means that it is off


_COLLAPSE = [
    Plot(
        "teacher_entropy", "Teacher entropy", f"entropy ({_NATS})",
        "How undecided the teacher is about one object. Good: clearly below log K. Bad: at log K, the "
            "teacher says nothing.",
        y_range=(0, None), log_k=True,
    ),
    Plot(
        "mean_entropy", "Entropy of the mean", f"entropy ({_NATS})",
        "How many prototypes the teacher uses over all objects. Good: near log K. Bad: near 0, it always "
            "says the same. "
        "With loss.centering sinkhorn it stays near log K whatever happens.",
        y_range=(0, None), log_k=True,
    ),
    Plot(
        "feature_spread", "Feature spread", "spread (0 to 1)",
        "How far apart features point. Good: well above 0, or rising. Bad: near 0, all features are one.",
        y_range=(0, 1),
    ),
]  # fmt: skip
_SPEED = [
    Plot(
        "images_per_second", "Speed", "images / s",
        "Images trained on in a second. Good: level. Bad: dips, when something else used the machine or "
            "data came late.", y_range=(0, None),
    ),
    Plot(
        "data_wait", "Waiting for data", "share of time (%)",
        "Good: near 0. Bad: well above 10, more loader.workers or a faster disk would "
            "help.", scale=100, y_range=(0, 100),
    ),
]  # fmt: skip
_SCHEDULE = [
    Plot(
        "lr", "Learning rate", "learning rate",
        "It warms up, then falls by a cosine. If a loss jumps where this is highest, lower "
            "optim.base_lr.", y_range=(0, None),
    ),
    Plot(
        "grad_norm", "Gradient norm", "norm before clipping",
        "Good: level or slowly falling. Bad: spikes, or a rise that does not end.", y_range=(0, None),
    ),
]  # fmt: skip


def curves(runs: Sequence[Run]) -> Html:
    """One chart a meter, with all runs in it."""
    notes = []
    for run in runs:
        if not run.lines:
            notes.append(f"{run.label}: no metrics yet. A line is written every train.log_every steps.")
        if run.unread:
            lines = counted(run.unread, "line")
            notes.append(
                f"{run.label}: {lines} of metrics.jsonl could not be read and "
                f"{'is' if run.unread == 1 else 'are'} left out. The last one may not be whole yet."
            )
    parts: list[Html] = [paragraph(note, class_="note") for note in notes]
    if not any(run.lines for run in runs):
        return concat(parts)
    longest = max(len(run.lines) for run in runs)
    if longest > POINTS:
        parts.append(
            paragraph(
                f"Curves of more than {POINTS} points are drawn by the lowest and highest of each part.",
                class_="quiet",
            )
        )
    present = sorted({name for run in runs for name in run.curve_names()})
    losses, flat = _loss_plots(runs, present)
    measured = [
        Plot(name, _knn_title(name), "accuracy (%)", _KNN) for name in present if name.startswith("knn/")
    ]
    groups = {
        "Loss": losses,
        "Collapse": [plot for plot in _COLLAPSE if plot.meter in present],
        "k-NN during training": measured,
        "Schedule": [plot for plot in _SCHEDULE if plot.meter in present],
        "Speed": [plot for plot in _SPEED if plot.meter in present],
    }
    for title, plots in groups.items():
        if plots:
            parts += [
                element("h3", title),
                element("div", *[_figure(plot, runs) for plot in plots], class_="plots"),
            ]
        if title == "Loss" and flat:
            parts.append(
                paragraph(
                    "Not drawn, since 0 throughout: ",
                    concat([code(name) for name in flat], ", "),
                    ".",
                    class_="quiet",
                )
            )
    return concat(parts)


_KNN = (
    "Objects of the held-out index, classified by their nearest neighbours. Good: it rises. Bad: it "
    "falls while the loss does too."
)


def _knn_title(name: str) -> str:
    mode, _, k = name.removeprefix("knn/").partition("@")
    return f"k-NN, {mode}" + (f", k = {k}" if k else "")


def _loss_plots(runs: Sequence[Run], present: Sequence[str]) -> tuple[list[Plot], list[str]]:
    """Charts of the loss and its terms; and the terms that are 0 in every line of every run."""
    plots, flat = [], []
    names = [name for name in _LOSSES if name in present]
    for name in names + [
        name for name in present if name.startswith(("loss_", "loss/")) and name not in _LOSSES
    ]:
        values = [value for run in runs for value in run.curve(name)[1]]
        if name != "loss" and all(value == 0 for value in values):
            flat.append(name)
            continue
        title, reading = _LOSSES.get(name, (name.replace("_", " "), "A term of the loss."))
        term = name != "loss"
        plots.append(Plot(name, title, f"{'term' if term else 'loss'} ({_NATS})", reading, term=term))
    return plots, flat


def _figure(plot: Plot, runs: Sequence[Run]) -> Html:
    shown, said, without = [], [], []
    for number, run in enumerate(runs):
        steps, values = run.curve(plot.meter)
        if any(map(math.isfinite, values)) and not (plot.term and not any(values)):
            scaled = [plot.scale * value for value in values]
            shown.append(Curve(number, steps, scaled))
            said.append(f"{run.label} {span(scaled)}")
        else:
            without.append(run.label)
    tops = sorted({math.log(k) for run in runs if (k := _prototypes(run))}) if plot.log_k else []
    low, high = plot.y_range
    if tops:
        high = 1.12 * max([*tops, *(value for curve in shown for value in curve.y if math.isfinite(value))])
    name = "".join(c if c.isascii() and c.isalnum() else f"-{ord(c):x}-" for c in plot.meter)
    chart = line_chart(
        f"chart-{name}",
        f"{plot.title}, {plot.y_label}, by step: {'; '.join(said)}",
        shown,
        x_label="step",
        y_label=plot.y_label,
        y_range=(low, high),
        levels=[(top, f"log K = {top:.2f}") for top in tops],
    )
    legend = (
        bullets([concat([key(c.number), runs[c.number].label]) for c in shown], class_="legend")
        if len(runs) > 1
        else None
    )
    missing = f" Without this meter: {', '.join(without)}." if without and shown else ""
    if not shown:
        missing = " It was never finite." if without else ""
    return element(
        "figure",
        element("h4", plot.title),
        legend,
        chart,
        element("figcaption", plot.reading + missing),
        class_="plot",
    )


def _prototypes(run: Run) -> int | None:
    value = run.setting("config.head.prototypes")
    return value if isinstance(value, int) and value > 1 else None
