"""Pictures of `findings.py`: loss curves, patches of an object, and where networks look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from odis.backbones.attention_maps import object_attention_maps
from odis.data.views import normalize_pixels

if TYPE_CHECKING:
    from findings import Asked, Trained

SHOWN = 6
"""Objects in the picture of attention."""

_COLOURS = ("#555555", "#1b6ca8", "#c77700", "#2a9d63", "#b3457a")


def draw(runs: list[Trained], asked: Asked, found: dict[str, Any], folder: Path) -> list[Path]:
    """All pictures."""
    import matplotlib

    matplotlib.use("Agg")
    return [
        _losses(found, folder / "finding-loss.png"),
        _patches(found, folder / "finding-patches.png"),
        _looks(runs, asked, folder / "finding-attention.png"),
    ]


def _plain(axis: Any) -> None:
    axis.grid(color="#e5e5e5")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _losses(found: dict[str, Any], path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, run), colour in zip(found["runs"].items(), _COLOURS):
        loss = run["loss"]
        axis.plot(loss["images"], loss["loss"], color=colour, label=name)
        axis.axvline(loss["stopped_at"], color=colour, linestyle=":", linewidth=1)
    log_k = next(iter(found["runs"].values()))["loss"]["log_k"]
    axis.axhline(log_k, color="#999999", linestyle="--", linewidth=1, label="log K: nothing is known")
    axis.set_xlabel("images seen")
    axis.set_ylabel("object loss, nats")
    axis.legend(fontsize=8, frameon=False)
    axis.set_title("Object loss; dotted: where 5 % of its fall are left", fontsize=9)
    _plain(axis)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _patches(found: dict[str, Any], path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, one), colour in zip(found["patches"].items(), _COLOURS):
        counts = np.sort(one["counts"])
        axis.step(counts, 100 * np.arange(1, len(counts) + 1) / len(counts), color=colour, label=name)
    axis.set_xscale("log")
    axis.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], ["1", "2", "4", "8", "16", "32", "64", "128"])
    axis.minorticks_off()
    axis.set_xlabel("patches that the object has in a global view")
    axis.set_ylabel("views with so many or fewer, %")
    axis.legend(fontsize=8, frameon=False)
    _plain(axis)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _looks(runs: list[Trained], asked: Asked, path: Path) -> Path:
    """A row of windows with the object's patches outlined; below, a row a network: the attention of `[OBJ]`,
    asked about the whole window, in the last block, mean over heads.
    """
    from matplotlib import pyplot as plt

    pixels, masks = asked.pixels[:SHOWN], asked.masks[:SHOWN]
    columns = len(pixels)
    figure, axes = plt.subplots(
        1 + len(runs),
        columns,
        figsize=(1.5 * columns, 1.5 * (1 + len(runs)) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    side = pixels.shape[-1]
    for k in range(columns):
        axes[0, k].imshow(pixels[k].permute(1, 2, 0).numpy())
    for r, run in enumerate(runs, 1):
        shown = normalize_pixels(pixels, run.encoder.mean, run.encoder.std)
        maps = object_attention_maps(run.backbone, shown, torch.ones_like(masks)).mean(dim=2)[:, 0]
        rows = side // run.encoder.patch_size
        for k in range(columns):
            axes[r, k].imshow(maps[k].reshape(rows, rows).numpy(), cmap="magma", extent=(0, side, side, 0))
        axes[r, 0].set_ylabel(run.name, fontsize=8)
    rows = int(masks.shape[-1] ** 0.5)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for k in range(columns):
        inside = masks[k, 0].reshape(rows, rows).numpy().astype(float)
        at = (np.arange(rows) + 0.5) * side / rows
        for axis in axes[:, k]:
            axis.contour(at, at, inside, levels=[0.5], colors="#35d0ff", linewidths=1)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
