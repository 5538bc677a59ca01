"""Line charts as inline SVG: text stays text, and colours are those of the page, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from odis.report.page import Html, element

POINTS = 800  # of a curve; a longer one is drawn by the extremes of its parts
SERIES = 6  # colours; dashes tell more curves apart, and all of them without colour

# Colours that the page replaces by its own.
_INK, _QUIET, _GRID = "#010101", "#020202", "#030303"
_COLOURS = {_INK: "ink", _QUIET: "quiet", _GRID: "grid"} | {f"#0000a{i}": f"s{i}" for i in range(SERIES)}
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2))

# In units of the drawing. It is about as wide as a phone, so that text is never small.
_WIDTH, _HEIGHT, _FONT = 360, 220, 11


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    number: int  # which run: its colour and dashes
    x: Sequence[float]
    y: Sequence[float]  # NaN is a gap


def line_chart(
    name: str,
    label: str,
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    y_range: tuple[float | None, float | None] = (None, None),
    levels: Sequence[tuple[float, str]] = (),
) -> Html:
    """An `<svg>` of some curves.

    Args:
        name: Unique in the page: what its ids begin with.
        label: What it shows, for screen readers.
        curves: The lines.
        x_label: Name and unit of the x axis.
        y_label: Name and unit of the y axis.
        y_range: Ends of the y axis; None leaves an end to the data.
        levels: Values that are drawn as a level line, with their names.
    """
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "path.simplify": False,
        "font.size": _FONT,
        "font.family": "DejaVu Sans",
        "text.color": _INK,
        "axes.edgecolor": _QUIET,
        "axes.labelcolor": _INK,
        "xtick.color": _QUIET,
        "ytick.color": _QUIET,
        "axes.unicode_minus": False,
        "text.parse_math": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
        axes = figure.add_axes((0.17, 0.2, 0.8, 0.75))
        for value, text in levels:
            axes.axhline(value, color=_QUIET, linewidth=1, dashes=(3, 3))
            axes.annotate(
                text,
                (0.99, value),
                (0, 3),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                color=_QUIET,
                ha="right",
                va="bottom",
                fontsize=_FONT - 1,
            )
        for curve in curves:
            _draw(axes, curve)
        _dress(axes, x_label, y_label, y_range)
        written = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(
            written, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _for_page(written.getvalue().decode(), name, label)


def key(number: int) -> Html:
    """A short piece of a curve's line, for a legend."""
    dashes = _DASHES[number % len(_DASHES)]
    style = f"stroke: var(--s{number % SERIES}); stroke-width: 2" + (
        f"; stroke-dasharray: {' '.join(str(2 * d) for d in dashes)}" if dashes else ""
    )
    line = element("line", x1=0, x2=38, y1=6, y2=6, style=style)
    return element("svg", line, viewBox="0 0 38 12", class_="key", aria_hidden="true")


def thinned(x: Sequence[float], y: Sequence[float], most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """About `most` points of a curve: the lowest and the highest of each part, so that no spike is lost."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(xs) <= most:
        return xs, ys
    kept: list[int] = []
    for part in np.array_split(np.arange(len(xs)), most // 2):
        finite = part[np.isfinite(ys[part])]
        kept += (
            sorted({int(finite[ys[finite].argmin()]), int(finite[ys[finite].argmax()])})
            if len(finite)
            else [int(part[0])]
        )
    return xs[kept], ys[kept]


def _draw(axes: Axes, curve: Curve) -> None:
    x, y = thinned(curve.x, curve.y)
    few = len(x) <= 16  # a single point would be no line
    (line,) = axes.plot(
        x,
        y,
        color=f"#0000a{curve.number % SERIES}",
        linewidth=1.6,
        marker="o" if few else None,
        markersize=4,
        markeredgewidth=0,
    )
    if dashes := _DASHES[curve.number % len(_DASHES)]:
        line.set_dashes(dashes)
    line.set_gid(f"series-{curve.number}")


def _dress(axes: Axes, x_label: str, y_label: str, y_range: tuple[float | None, float | None]) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(*y_range)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: _short(value, max(map(abs, axes.get_ylim()))))
    )
    axes.grid(True, axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, labelsize=_FONT - 1)
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(value: float, largest: float) -> str:
    if abs(value) < 1e-9 * largest:
        return "0"
    return f"{value:,.0f}" if largest >= 1000 else f"{value:.4g}"


def _for_page(svg: str, name: str, label: str) -> Html:
    """The drawing as an element of the page: with its colours, ids of its own, and no outside reference."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\bxlink:href=", "href=", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="series-(\d+)"', r' class="series series-\1"', svg)
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub("|".join(_COLOURS), lambda found: f"var(--{_COLOURS[found[0]]})", svg)
    svg = re.sub(
        r'(?<= d=")[^"]*', lambda found: " ".join(re.sub(r"(\.\d\d)\d+", r"\1", found[0]).split()), svg
    )
    head = element(
        "svg", class_="chart", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label
    ).removesuffix("</svg>")
    return Html(head + svg[svg.index(">") + 1 :].strip())


def span(values: Sequence[float]) -> str:
    """First and last finite value, in words."""
    finite = [value for value in values if math.isfinite(value)]
    return f"from {finite[0]:.4g} to {finite[-1]:.4g}" if finite else "no finite value"
