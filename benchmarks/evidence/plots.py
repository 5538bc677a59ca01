"""Plots of the study: dots are means over seeds, whiskers their 95 % intervals, small dots the seeds."""

from __future__ import annotations

import math
from pathlib import Path

from figures import Measure, Results, knn, score
from grid import BEST, STUDIES

_ACCENT, _OTHER, _SEED = "#1b6ca8", "#555555", "#b0b0b0"


def draw(results: Results, folder: Path) -> list[Path]:
    """All plots of a world for which there are figures."""
    drawn = []
    names = [item.name for item in STUDIES["core"] if item.name in results.cells]
    if names:
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
    return drawn


def _dots(results: Results, names: list[str], title: str, path: Path, cut: str = "") -> Path:
    import matplotlib

    matplotlib.use("Agg")
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
