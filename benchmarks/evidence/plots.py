"""Plots of the study: dots are means over seeds, whiskers their 95 % intervals, small dots the seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from figures import Measure, Results, knn, score
from grid import ACROSS, BEST, COMPARED, LENGTHS, STUDIES, UNTRAINED, WHOLE
from lengths import MEASURES, across, by_patches, ceiling, geometry_cell, ran_at, ran_curves, ran_patches

_ACCENT, _OTHER, _SEED = "#1b6ca8", "#555555", "#b0b0b0"


def draw(results: Results, folder: Path) -> list[Path]:
    """All plots of a world for which there are figures."""
    import matplotlib

    matplotlib.use("Agg")
    drawn = []
    names = [item.name for item in STUDIES["core"] if item.name in results.cells]
    if any(name != UNTRAINED.name for name in names):
        drawn.append(_dots(results, names, f"{results.world}: methods", folder / f"{results.world}-core.png"))
    around = [
        item.name
        for study in ("noise", "coverage", "source")
        for item in STUDIES[study]
        if item.name in results.cells
    ]
    if around and BEST in results.cells:
        drawn.append(
            _dots(
                results,
                [BEST, *around],
                f"{results.world}: around {BEST}",
                folder / f"{results.world}-around.png",
                cut=f"{BEST}.",
            )
        )
    if ran_curves(results):
        drawn.append(_curves(results, folder / f"{results.world}-curves.png"))
    if ran_patches(results):
        drawn.append(_patches(results, folder / f"{results.world}-patches.png"))
    return drawn


_COLOURS = {
    "ibot": "#555555",
    "dino": "#a0a0a0",
    "crop-only": "#c77700",
    "mask-only": "#b3457a",
    "mean-pool": "#8c6d31",
    "authors": "#2a9d63",
    "odis-single": "#6fa8dc",
    "odis-read-only-all": _ACCENT,
    WHOLE: "#123f66",
}


def _curves(results: Results, path: Path) -> Path:
    """Scores against images seen: a line a method, whiskers where there are three seeds; dashed lines are the
    untrained network and the one trained with labels for longest.
    """
    from matplotlib import pyplot as plt

    names = ("object k-NN", "by crop", "by masked attention", "image mAP", "dense k-NN", "Hummingbird")
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
    for axis, label in zip(axes.flat, names):
        measure = MEASURES[label]
        for name in COMPARED:
            at = [(images, results.of(f"{name}.{length}", measure)) for length, images in LENGTHS.items()]
            at = [(images, found) for images, found in at if found.seeds]
            if not at:
                continue
            colour = _COLOURS[name]
            x = [images for images, _ in at]
            axis.plot(x, [found.mean for _, found in at], "o-", color=colour, markersize=4, label=name)
            for images, found in at:
                if not math.isnan(found.half):
                    axis.plot([images] * 2, [found.low, found.high], "-", color=colour, linewidth=1)
        untrained = UNTRAINED.name, results.of(UNTRAINED.name, measure).mean
        for (cell, level), style in ((untrained, ":"), (ceiling(results, measure), "--")):
            if not math.isnan(level):
                axis.axhline(level, color="#999999", linestyle=style, linewidth=1)
                axis.annotate(
                    cell, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                    fontsize=7, color="#777777",
                )  # fmt: skip
        _images_seen(axis)
        axis.set_title(f"{label}, %", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.suptitle(f"{results.world}: scores against images seen", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _images_seen(axis: Any) -> None:
    """A logarithmic axis with the lengths that were run."""
    axis.set_xscale("log")
    axis.set_xticks(list(LENGTHS.values()), list(LENGTHS))
    axis.minorticks_off()
    axis.set_xlim(min(LENGTHS.values()) / 1.2, max(LENGTHS.values()) * 1.2)
    axis.grid(color="#e5e5e5")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _patches(results: Results, path: Path) -> Path:
    """Object k-NN by patches across a view, by crop and by masked attention."""
    from matplotlib import pyplot as plt

    geometries = [one for one in by_patches() if ran_at(results, one)]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, way in zip(axes, ("crop", "masked-attention")):
        for name in (UNTRAINED.name, *ACROSS):
            at = [(k, results.of(geometry_cell(name, one), knn(way))) for k, one in enumerate(geometries)]
            at = [(k, found) for k, found in at if found.seeds]
            style = ":" if name == UNTRAINED.name else "-"
            colour = _COLOURS.get(name, "#999999")
            axis.plot([k for k, _ in at], [found.mean for _, found in at], f"o{style}", color=colour,
                      markersize=4, label=name)  # fmt: skip
        said = [f"{across(one)} x {across(one)}\n{one.replace('-', ' in ')} px" for one in geometries]
        axis.set_xticks(range(len(geometries)), said)
        axis.set_title(f"object k-NN by {way}, %", fontsize=9)
        axis.grid(color="#e5e5e5")
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.suptitle(f"{results.world}: patches in a view, and patch in view in pixels", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _dots(results: Results, names: list[str], title: str, path: Path, cut: str = "") -> Path:
    from matplotlib import pyplot as plt

    panels: list[tuple[str, Measure]] = [
        ("object k-NN, %", knn()),
        ("linear probe, %", score("linear")),
        ("image mAP, %", score("images_map")),
        ("dense k-NN, mIoU %", score("dense_knn")),
    ]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(12, 1.2 + 0.36 * len(names)), sharey=True, layout="constrained"
    )
    for axis, (label, measure) in zip(axes, panels):
        for y, name in enumerate(reversed(names)):
            colour = _ACCENT if name.startswith("odis") else _OTHER
            for result in results.cells[name].values():
                axis.plot(measure(result), y, ".", color=_SEED, zorder=1)
            found = results.of(name, measure)
            if not math.isnan(found.half):
                axis.plot([found.low, found.high], [y, y], "-", color=colour, linewidth=1.5, zorder=2)
            axis.plot(found.mean, y, "o", color=colour, markersize=6, zorder=3)
        axis.set_xlabel(label)
        axis.grid(axis="x", color="#e5e5e5")
        axis.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    axes[0].set_yticks(range(len(names)), [name.removeprefix(cut) for name in reversed(names)])
    seeds = sorted({len(results.cells[name]) for name in names})
    figure.suptitle(
        f"{title} (seeds: {' to '.join(map(str, sorted({seeds[0], seeds[-1]})))}; whiskers: 95 % interval "
        f"over them)",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
