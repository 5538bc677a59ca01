"""Panels of the `odis inspect` picture: an image with its objects, where views are cut, and each view."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from odis.config.training import PretrainConfig
from odis.config.wording import counted
from odis.data.framing import ChosenObjects
from odis.data.geometry.patches import patch_grid
from odis.data.views import as_colours
from odis.objects import rle
from odis.objects.index import ObjectIndex
from odis.types import ImageObjects, Sample, View

LOCALS = 3
"""Local views shown."""

SLOTS = (
    "#ff8c00",
    "#00a5ff",
    "#e23cff",
    "#46d246",
    "#ffe119",
    "#ff5a5a",
    "#40e0d0",
    "#c8a2ff",
)
"""Colours of the objects with a token, the target's first."""

OTHER = "#f2f2f2"
"""Colour of the other objects."""

HIDDEN, HATCH = "#5a5a5a", "#a0a0a0"
"""Colours of a patch that is hidden from the student, and of the lines across it."""

_NAMED = 12  # in an image with more objects, only those with a token are named


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the picture."""

    image: Tensor  # uint8 (3, H, W)
    row: ImageObjects
    chosen: ChosenObjects  # those with a token, the target first
    sample: Sample


def draw_objects(ax: Axes, example: Example, index: ObjectIndex) -> None:
    """Draw the image with its objects; those with a token are coloured and named."""
    row = example.row
    extent = _show_image(ax, example)
    slot_of = slots_of(example)
    # The target last, on top.
    for k in sorted(range(len(row.objects)), key=lambda k: -slot_of.get(k, len(SLOTS))):
        item, slot = row.objects[k], slot_of.get(k)
        colour = OTHER if slot is None else SLOTS[slot % len(SLOTS)]
        if item.mask is not None:
            _tint(
                ax,
                rle.decode(item.mask, row.width, row.height).astype(bool),
                extent,
                colour,
                0.25 if slot is None else 0.45,
            )
        _draw_box(ax, item.box, colour, width=0.7 if slot is None else 1.6)
        if slot is not None or len(row.objects) <= _NAMED:
            whole = np.array_equal(item.box, (0, 0, row.width, row.height))
            name = index.classes[item.label] if item.label is not None else "whole image" if whole else ""
            _label(
                ax,
                item.box[0],
                item.box[1],
                " ".join(filter(None, [name, "(target)" if slot == 0 else ""])),
                colour,
            )
    if example.chosen.members == [()]:
        _draw_box(ax, (0, 0, row.width, row.height), SLOTS[0], width=2.5)
        _label(ax, 0, 0, "whole image (target)", SLOTS[0])
    count = counted(len(row.objects), "object") if row.objects else "no objects"
    ax.set_title(
        f"{textwrap.shorten(Path(row.image).name, 32, placeholder='...')}\n{row.width} x {row.height} "
        f"pixels, {count}",
        fontsize=8,
        parse_math=False,
    )


def draw_frames(ax: Axes, example: Example) -> None:
    """Draw where the views are cut out of the image."""
    _show_image(ax, example, dim=0.5)
    for box in example.chosen.shapes.boxes[:1].tolist():
        _draw_box(ax, box, SLOTS[0], width=1.6)
    for kind, style, views in (
        ("g", "-", example.sample.global_views),
        ("l", "--", example.sample.local_views[:LOCALS]),
    ):
        for v, view in enumerate(views):
            crop = view.crop
            ax.add_patch(
                Rectangle(
                    (crop.x0, crop.y0),
                    crop.width,
                    crop.height,
                    fill=False,
                    edgecolor="white",
                    ls=style,
                    lw=0.9,
                )
            )
            dark = [withStroke(linewidth=2, foreground="black")]
            ax.text(
                crop.x1,
                crop.y1,
                f"{kind}{v + 1} ",
                fontsize=7,
                color="white",
                va="bottom",
                ha="right",
                path_effects=dark,
                clip_on=True,
            )
    ax.set_title("where these views are cut\n", fontsize=8)


def _show_image(ax: Axes, example: Example, dim: float = 1.0) -> tuple[float, float, float, float]:
    # Pixel i spans i..i + 1, so that boxes, whose x1 and y1 are exclusive, end where their last pixel does.
    extent = (0, example.row.width, example.row.height, 0)
    ax.imshow(
        (dim * example.image.permute(1, 2, 0).float() / 255).numpy(), extent=extent, interpolation="nearest"
    )
    ax.set_axis_off()
    ax.set_anchor("N")
    return extent


def slots_of(example: Example) -> dict[int, int]:
    """The slot of each object of the row that has a token, alone or with others of its class."""
    return {k: slot for slot, members in enumerate(example.chosen.members) for k in members}


def draw_view(
    ax: Axes, view: View, title: str, config: PretrainConfig, patch: int, hidden: Tensor | None
) -> None:
    """Draw a view as the network sees it, in its colours before normalisation, with its patches."""
    views, side = config.views, view.pixels.shape[-1]
    mean, std = (torch.tensor(v)[:, None, None] for v in views.statistics)
    pixels = as_colours(view.pixels * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
    extent = (0, side, side, 0)
    ax.imshow(pixels, extent=extent, interpolation="nearest")
    lines = [((p, 0), (p, side)) for p in range(0, side + 1, patch)] + [
        ((0, p), (side, p)) for p in range(0, side + 1, patch)
    ]
    ax.add_collection(LineCollection(lines, colors="white", linewidths=0.4, alpha=0.35))
    count, _ = patch_grid(side, patch)
    masks = view.object_masks.view(-1, count, count).numpy()
    for slot in reversed(range(len(masks))):
        if view.visible[slot]:
            colour = SLOTS[slot % len(SLOTS)]
            if not masks[slot].all():
                _tint(ax, masks[slot], extent, colour, 0.38)
            _outline(ax, masks[slot], patch, colour)
    if view.visible[0]:
        words = [
            "object: all patches"
            if masks[0].all()
            else f"object: {int(masks[0].sum())} of {counted(count * count, 'patch')}"
        ]
    else:
        words = [
            "the object is not in this view"
            if config.objects.min_visible == 0
            else "too little of the object is in this view"
        ]
    if hidden is not None and hidden.any():
        for r, c in np.argwhere(hidden.view(count, count).numpy()):
            ax.add_patch(
                Rectangle(
                    (c * patch, r * patch),
                    patch,
                    patch,
                    facecolor=HIDDEN,
                    edgecolor=HATCH,
                    hatch="////",
                    alpha=0.82,
                    lw=0,
                )
            )
        words.append(f"{int(hidden.sum())} hidden")
    ax.set_xlim(0, side)
    ax.set_ylim(side, 0)
    ax.set_anchor("N")
    ax.set_title(title + (", mirrored" if view.crop.flip else "") + "\n" + ", ".join(words), fontsize=8)
    ax.set_axis_off()


def _tint(
    ax: Axes, mask: np.ndarray, extent: tuple[float, float, float, float], colour: str, alpha: float
) -> None:
    ax.imshow(
        np.dstack([np.broadcast_to(to_rgb(colour), (*mask.shape, 3)), alpha * mask]),
        extent=extent,
        interpolation="nearest",
    )


def _outline(ax: Axes, mask: np.ndarray, patch: int, colour: str) -> None:
    """The border between patches inside and outside the mask."""
    padded = np.pad(mask, 1)
    lines = []
    for r, c in np.argwhere(padded[1:, :] != padded[:-1, :]):
        lines.append((((c - 1) * patch, r * patch), (c * patch, r * patch)))
    for r, c in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        lines.append(((c * patch, (r - 1) * patch), (c * patch, r * patch)))
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=1.8))


def _draw_box(ax: Axes, box: Sequence[float], colour: str, width: float) -> None:
    x0, y0, x1, y1 = box
    edge = [withStroke(linewidth=width + 1, foreground="black", alpha=0.5)]
    ax.add_patch(
        Rectangle(
            (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width, path_effects=edge
        )
    )


def _label(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    if text:
        right = x > 0.6 * max(ax.get_xlim())  # a name that begins here may not fit: let it end here
        back = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.9}
        ax.text(
            max(x, 0),
            max(y, 0),
            text,
            fontsize=6,
            va="top",
            ha="right" if right else "left",
            bbox=back,
            clip_on=True,
            parse_math=False,
        )
