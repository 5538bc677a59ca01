"""The picture of `odis inspect`: images with their objects, and what training would take from them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from odis.backbones.build import build_vit
from odis.config.training import PretrainConfig
from odis.data.dataset import ViewDataset
from odis.data.geometry.crops import clip_boxes
from odis.data.views import choose_objects
from odis.errors import ConfigError, DataError
from odis.machine.files import written_whole
from odis.objects import rle
from odis.objects.clean import usable_objects
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.types import ImageObjects, Sample, Skipped, View

_SLOTS = (
    "#ff8c00",
    "#00a5ff",
    "#e23cff",
    "#46d246",
    "#ffe119",
    "#ff5a5a",
    "#40e0d0",
    "#c8a2ff",
)  # the target's first
_OTHER = "#f2f2f2"
_LOCALS = 3  # local views shown
_NAMED = 12  # an image with more objects than this has names at the asked ones only
_CELL, _HEADING, _TITLE, _CAPTION = 2.4, 0.42, 0.25, 0.95  # inches
_HIDDEN, _HATCH = "#5a5a5a", "#a0a0a0"


@dataclass(frozen=True, slots=True)
class _Example:
    """One row of the picture."""

    image: Tensor  # uint8 (3, H, W)
    row: ImageObjects
    slots: np.ndarray  # (n, 4): boxes of the objects asked about, the target first
    sample: Sample


def inspect_picture(
    index: ObjectIndex, out: str | Path, config: PretrainConfig, *, images: int = 4, seed: int = 0
) -> list[Skipped]:
    """Draw images of an index with their objects, and the views, object masks and prediction masks training
    would take from them.

    Args:
        index: Images and objects.
        out: The PNG file to write.
        config: What training would do: objects, crops, photometrics, masks.
        images: How many to draw.
        seed: Which ones, and which views.

    Returns:
        Images and objects that cannot be used, among those that were looked at.

    Raises:
        ConfigError: no image is asked for, a model that cannot be built, or view sizes that its patches do
            not tile.
        DataError: no image can be used, or the picture cannot be written.
    """
    if images < 1:
        raise ConfigError(f"images: is {images}, must be 1 or more")
    dataset = ViewDataset(index, replace(config, train=replace(config.train, seed=seed)), _patch_size(config))
    examples: list[_Example] = []
    skipped: list[Skipped] = []
    for i in np.random.default_rng(seed).permutation(len(index)).tolist():
        sample = dataset[0, i]
        skipped += [item for item in sample.skipped if item not in skipped]
        if sample.index == i:  # else row i cannot be used, and another stands in
            examples.append(_example(dataset, sample))
        if len(examples) == images:
            break
    if not examples:
        raise DataError(f"{index.path}: holds no images")
    figure = _figure(examples, index, config, dataset.patch_size)
    with written_whole(out) as beside:
        figure.savefig(beside, format="png")
    return skipped


def _patch_size(config: PretrainConfig) -> int:
    """The patch side of the model that the config names; no weights are made or fetched."""
    with torch.device("meta"):
        vit = build_vit(replace(config.model, weights=None), config.views.global_size)
    patch = int(vit.patch_embed.patch_size[0])
    if config.views.local_views and config.views.local_size % patch:
        raise ConfigError(
            f"views.local_size: is {config.views.local_size}, must be a multiple of the patch size {patch}"
        )
    return patch


def _example(dataset: ViewDataset, sample: Sample) -> _Example:
    config = dataset.config
    row = usable_objects(dataset.index[sample.index], len(dataset.index.classes)).row
    image = pil_to_tensor(load_image(sample.path, (row.width, row.height)))
    # A sample draws its objects before anything else, so its seed tells which they are.
    rng = np.random.default_rng([config.train.seed, 0, sample.index])
    slots = choose_objects(rng, row, row.width, row.height, config.objects).boxes
    return _Example(image, row, slots, sample)


def _figure(examples: list[_Example], index: ObjectIndex, config: PretrainConfig, patch: int) -> Figure:
    views, rows = config.views, len(examples)
    columns = 2 + views.global_views + min(views.local_views, _LOCALS)
    width, height = _CELL * columns, _TITLE + (_CELL + _HEADING) * rows + _CAPTION
    figure = Figure(figsize=(width, height), dpi=120)
    figure.suptitle(
        f"{index.path}   (objects: {index.provenance})",
        fontsize=10,
        x=0.006,
        ha="left",
        y=1 - 0.06 / height,
        parse_math=False,
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    top, bottom = 1 - (_TITLE + _HEADING) / height, (_CAPTION + 0.1) / height
    figure.subplots_adjust(
        left=0.006, right=0.994, bottom=bottom, top=top, wspace=0.04, hspace=_HEADING / _CELL
    )
    for axes, example in zip(grid, examples):
        _draw_objects(axes[0], example, index)
        _draw_frames(axes[1], example)
        for v, view in enumerate(example.sample.global_views):
            hidden = (
                example.sample.prediction_masks[v] if config.loss.patch_weight > 0 else None
            )  # without the patch term none are hidden
            _draw_view(axes[2 + v], view, f"global view g{v + 1}", config, patch, hidden)
        for v, view in enumerate(example.sample.local_views[:_LOCALS]):
            _draw_view(
                axes[2 + views.global_views + v],
                view,
                f"local view l{v + 1} (of {views.local_views})",
                config,
                patch,
                None,
            )
    _draw_caption(figure.add_axes((0.006, 0, 0.988, _CAPTION / height)), config, columns)
    return figure


def _draw_objects(ax: Axes, example: _Example, index: ObjectIndex) -> None:
    """The image with its objects; those asked about are coloured and named."""
    row = example.row
    extent = _show_image(ax, example)
    slot_of = _slots_of(example)
    for k in sorted(
        range(len(row.objects)), key=lambda k: -slot_of.get(k, len(_SLOTS))
    ):  # the target last, on top
        item, slot = row.objects[k], slot_of.get(k)
        colour = _OTHER if slot is None else _SLOTS[slot % len(_SLOTS)]
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
    if not slot_of:
        _draw_box(ax, (0, 0, row.width, row.height), _SLOTS[0], width=2.5)
        _label(ax, 0, 0, "whole image (target)", _SLOTS[0])
    count = (
        "no objects"
        if not row.objects
        else "1 object"
        if len(row.objects) == 1
        else f"{len(row.objects)} objects"
    )
    ax.set_title(
        f"{textwrap.shorten(Path(row.image).name, 32, placeholder='...')}\n{row.width} x {row.height} "
        f"pixels, {count}",
        fontsize=8,
        parse_math=False,
    )


def _draw_frames(ax: Axes, example: _Example) -> None:
    """Where the views are cut out of the image."""
    _show_image(ax, example, dim=0.5)
    _draw_box(ax, example.slots[0].tolist(), _SLOTS[0], width=1.6)
    for kind, style, views in (
        ("g", "-", example.sample.global_views),
        ("l", "--", example.sample.local_views[:_LOCALS]),
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


def _show_image(ax: Axes, example: _Example, dim: float = 1.0) -> tuple[float, float, float, float]:
    # Pixel i spans i..i + 1, so that boxes, whose x1 and y1 are exclusive, end where their last pixel does.
    extent = (0, example.row.width, example.row.height, 0)
    ax.imshow(
        (dim * example.image.permute(1, 2, 0).float() / 255).numpy(), extent=extent, interpolation="nearest"
    )
    ax.set_axis_off()
    ax.set_anchor("N")
    return extent


def _slots_of(example: _Example) -> dict[int, int]:
    """The slot of each object of the row that is asked about."""
    clipped, _ = clip_boxes(example.row.boxes, example.row.width, example.row.height, 0)
    found: dict[int, int] = {}
    for slot, box in enumerate(example.slots):
        same = [k for k in range(len(clipped)) if k not in found and np.array_equal(clipped[k], box)]
        if same:
            found[same[0]] = slot
    return found


def _draw_view(
    ax: Axes, view: View, title: str, config: PretrainConfig, patch: int, hidden: Tensor | None
) -> None:
    """A view as the network sees it, its colours put back, with its patches."""
    views, side = config.views, view.pixels.shape[-1]
    mean, std = (torch.tensor(v)[:, None, None] for v in (views.mean, views.std))
    pixels = (view.pixels * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
    extent = (0, side, side, 0)
    ax.imshow(pixels, extent=extent, interpolation="nearest")
    lines = [((p, 0), (p, side)) for p in range(0, side + 1, patch)] + [
        ((0, p), (side, p)) for p in range(0, side + 1, patch)
    ]
    ax.add_collection(LineCollection(lines, colors="white", linewidths=0.4, alpha=0.35))
    count = side // patch
    masks = view.object_masks.view(-1, count, count).numpy()
    for slot in reversed(range(len(masks))):
        if view.visible[slot]:
            colour = _SLOTS[slot % len(_SLOTS)]
            if not masks[slot].all():
                _tint(ax, masks[slot], extent, colour, 0.38)
            _outline(ax, masks[slot], patch, colour)
    if view.visible[0]:
        words = [
            "object: all patches"
            if masks[0].all()
            else f"object: {int(masks[0].sum())} of {count * count} patches"
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
                    facecolor=_HIDDEN,
                    edgecolor=_HATCH,
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
        right = x > 0.6 * max(ax.get_xlim())  # a name that begins here may not fit, so it ends here
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


def _draw_caption(ax: Axes, config: PretrainConfig, columns: int) -> None:
    ax.set_axis_off()
    reader = "[OBJ]" if config.model.object_readout == "token" else "the mean of patches"
    keys = [
        Patch(
            facecolor=_SLOTS[0],
            alpha=0.6,
            edgecolor=_SLOTS[0],
            label=f"target object, and the patches that {reader} reads",
        )
    ]
    if config.objects.per_image > 1 and config.objects.use:
        keys.append(
            Patch(
                facecolor=_SLOTS[1],
                alpha=0.6,
                edgecolor=_SLOTS[1],
                label="other objects asked about, one colour each",
            )
        )
    keys.append(Patch(facecolor=_OTHER, edgecolor="black", label="objects not asked about this time"))
    if config.loss.patch_weight > 0:
        keys.append(
            Patch(facecolor=_HIDDEN, edgecolor=_HATCH, hatch="////", label="patches hidden from the student")
        )
    wide = columns >= 6  # the keys fit into one line
    ax.legend(
        handles=keys,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=len(keys) if wide else 2,
        fontsize=8,
        frameon=False,
        borderaxespad=0,
    )
    if config.objects.use and config.views.object_masks:
        masks = (
            f"Tinted patches are the object mask: to describe an object, {reader} reads its patches and "
            f"no others, and the network learns "
            "to describe it alike in every view."
        )
    else:
        masks = (
            f"These settings use no object masks: {reader} reads all patches, and the network learns "
            f"to describe every view alike."
        )
    text = (
        "Each row is one image: its objects, of which one is drawn as the target; where its views are "
        "cut (g global, l local); and these "
        f"views as the network sees them: resized, some mirrored, colours changed, cut into patches (thin "
        f"lines). {masks}"
    )
    if config.loss.patch_weight > 0:
        text += (
            " Hatched patches are the prediction mask: the student does not see them and has to "
            "predict what the teacher sees."
        )
    ax.text(
        0,
        0.66 if wide else 0.54,
        textwrap.fill(text, 42 * columns),
        fontsize=8,
        va="top",
        ha="left",
        transform=ax.transAxes,
    )
