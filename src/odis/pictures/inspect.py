"""The picture of `odis inspect`: images with their objects, and what training would make of them."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torchvision.transforms.v2.functional import pil_to_tensor

from odis.backbones.build import build_vit
from odis.backbones.published import follow_weights
from odis.config.training import PretrainConfig
from odis.data.dataset import ViewDataset
from odis.data.views import plan_views
from odis.errors import ConfigError, DataError
from odis.machine.files import written_whole
from odis.objects.clean import usable_objects
from odis.objects.index import ObjectIndex
from odis.objects.pixels import load_picture
from odis.pictures.panels import (
    HATCH,
    HIDDEN,
    LOCALS,
    OTHER,
    SLOTS,
    Example,
    draw_frames,
    draw_objects,
    draw_view,
)
from odis.types import Sample, Skipped

_CELL, _HEADING, _TITLE, _CAPTION = 2.4, 0.42, 0.25, 0.95  # inches


def inspect_picture(
    index: ObjectIndex, out: str | Path, config: PretrainConfig, *, images: int = 4, seed: int = 0
) -> list[Skipped]:
    """Draw images of an index with their objects, and the views and masks that training would make of them.

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
    config = follow_weights(config)
    dataset = ViewDataset(index, replace(config, train=replace(config.train, seed=seed)), _patch_size(config))
    examples: list[Example] = []
    skipped: list[Skipped] = []
    for i in np.random.default_rng(seed).permutation(len(index)).tolist():
        sample = dataset[0, i]
        skipped += [item for item in sample.skipped if item not in skipped]
        if sample.index == i:  # otherwise row i cannot be used, and another stands in
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
        vit = build_vit(
            replace(config.model, weights=None), config.views.global_size, channels=config.views.channels
        )
    patch = int(vit.patch_embed.patch_size[0])
    if config.views.local_views and config.views.local_size % patch:
        raise ConfigError(
            f"views.local_size: is {config.views.local_size}, must be a multiple of the patch size {patch}"
        )
    return patch


def _example(dataset: ViewDataset, sample: Sample) -> Example:
    config = dataset.config
    row = usable_objects(dataset.index[sample.index], len(dataset.index.classes)).row
    image = pil_to_tensor(load_picture(sample.path, (row.width, row.height)).image)
    # A sample draws its geometry before anything else, so its seed tells which objects it took.
    rng = np.random.default_rng([config.train.seed, 0, sample.index])
    plan = plan_views(
        rng, row, row.width, row.height, config.objects, config.views, config.prediction, dataset.patch_size
    )
    return Example(image, row, plan.chosen, sample)


def _figure(examples: list[Example], index: ObjectIndex, config: PretrainConfig, patch: int) -> Figure:
    views, rows = config.views, len(examples)
    columns = 2 + views.global_views + min(views.local_views, LOCALS)
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
        draw_objects(axes[0], example, index)
        draw_frames(axes[1], example)
        for v, view in enumerate(example.sample.global_views):
            # Without the patch term none are hidden.
            hidden = example.sample.prediction_masks[v] if config.loss.patch_weight > 0 else None
            draw_view(axes[2 + v], view, f"global view g{v + 1}", config, patch, hidden)
        for v, view in enumerate(example.sample.local_views[:LOCALS]):
            draw_view(
                axes[2 + views.global_views + v],
                view,
                f"local view l{v + 1} (of {views.local_views})",
                config,
                patch,
                None,
            )
    _draw_caption(figure.add_axes((0.006, 0, 0.988, _CAPTION / height)), config, columns)
    return figure


def _draw_caption(ax: Axes, config: PretrainConfig, columns: int) -> None:
    ax.set_axis_off()
    reader = "[OBJ]" if config.model.object_readout == "token" else "the mean of patches"
    keys = [
        Patch(
            facecolor=SLOTS[0],
            alpha=0.6,
            edgecolor=SLOTS[0],
            label=f"target object, and the patches that {reader} reads",
        )
    ]
    if config.objects.per_image > 1 and config.objects.use:
        keys.append(
            Patch(
                facecolor=SLOTS[1],
                alpha=0.6,
                edgecolor=SLOTS[1],
                label="other objects asked about, one colour each",
            )
        )
    keys.append(Patch(facecolor=OTHER, edgecolor="black", label="objects not asked about this time"))
    if config.loss.patch_weight > 0:
        keys.append(
            Patch(facecolor=HIDDEN, edgecolor=HATCH, hatch="////", label="patches hidden from the student")
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
