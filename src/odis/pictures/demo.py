"""The picture of `odis demo`: a scene, where `[OBJ]` looks for each object, and the nearest objects
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a picture file, also where there is no screen
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from odis.config.query import QueryConfig
from odis.config.wording import counted
from odis.inference import Encoder, IndexFeatures, embed_index
from odis.machine.files import written_whole
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.types import ImageObjects

NEAREST = 5
_RIGHT, _WRONG = "#1a9850", "#d73027"


def draw_demo(
    path: Path,
    trained: Encoder,
    untrained: Encoder,
    train: ObjectIndex,
    test: ObjectIndex,
    results: dict[str, Any],
    *,
    context: float,
) -> None:
    """Draw the objects of one test scene, and their nearest neighbours for the trained and the untrained
    network.

    Args:
        path: `.png` to write.
        trained: The pretrained network.
        untrained: The same network before training.
        train: Index whose objects are searched.
        test: Index the scene is taken from: the first with the most objects.
        results: The demo's measurements, for the caption.
        context: Side of an object's window over the longer side of its box.
    """
    row = max(range(min(len(test), 50)), key=lambda i: len(test[i].objects))
    scene, picture = test[row], _pixels(test, row)
    searched = range(min(len(train), 600))
    found = [_nearest(encoder, train, searched, test, row, context) for encoder in (trained, untrained)]
    attention = _attention(trained, test, row, context)

    count = len(scene.objects)
    figure = plt.figure(figsize=(17, 1.35 * count + 2.1), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, squeeze=False, width_ratios=[1.35 * count / 8, 0.34, 1.3])[
        0
    ]
    _draw_scene(left.subplots(), scene, picture, test.classes)
    axes = middle.subplots(count, 2, squeeze=False)
    axes[0][0].set_title("object", fontsize=10)
    axes[0][1].set_title("[OBJ] looks at", fontsize=10)
    for i, (crop, weights) in enumerate(attention):
        axes[i][0].imshow(crop)
        axes[i][1].imshow(crop.mean(axis=2), cmap="gray")
        axes[i][1].imshow(
            weights, cmap="inferno", alpha=0.65, extent=(-0.5, crop.shape[1] - 0.5, crop.shape[0] - 0.5, -0.5)
        )
        _frame(axes[i][0], f"C{i}")
        _frame(axes[i][1], None)
    blocks = right.subfigures(1, 2)
    for block, name, features in zip(blocks, ("after pretraining", "before pretraining"), found):
        _draw_nearest(block, f"most alike in other scenes, {name}", features, train, scene)
    figure.suptitle("One scene, its objects, and what the network takes for the same thing", fontsize=14)
    figure.supxlabel(_caption(results), fontsize=10)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=110, format="png")
    plt.close(figure)


def _caption(results: dict[str, Any]) -> str:
    gains = "; ".join(
        f"{mode}: {before:.0f} → {results['trained'][mode]:.0f} %"
        for mode, before in results["untrained"].items()
    )
    return (
        "Green frame: the same digit as the object of the row; red: another. No label was used in "
        "pretraining.\n"
        f"All objects of {counted(results['test_scenes'], 'held-out scene')}, {results['k']}-NN accuracy "
        f"(chance 10 "
        f"%), asked by {gains}"
    )


def _pixels(index: ObjectIndex, row: int) -> np.ndarray:
    item = index[row]
    return np.array(load_image(index.image_path(row), (item.width, item.height)))


def _draw_scene(axes: Axes, scene: ImageObjects, picture: np.ndarray, classes: Sequence[str]) -> None:
    axes.imshow(picture)
    axes.set_title(
        "a scene and its objects", fontsize=10, pad=24
    )  # above the name of an object at the upper edge
    for i, item in enumerate(scene.objects):
        x0, y0, x1, y1 = item.box
        axes.add_patch(
            Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=f"C{i}", linewidth=2.5)
        )
        name = classes[item.label] if item.label is not None else str(i)
        axes.text(x0, y0 - 2, name, color="white", fontsize=10, backgroundcolor=f"C{i}", va="bottom")
    _frame(axes, None)


def _draw_nearest(
    block: Any, title: str, found: list[tuple[int, int, float]], train: ObjectIndex, scene: ImageObjects
) -> None:
    axes = block.subplots(len(scene.objects), NEAREST, squeeze=False)
    block.suptitle(title, fontsize=10)
    for place, (row, number, similarity) in zip(axes.flat, found):
        item = train[row].objects[number]
        x0, y0, x1, y1 = (round(v) for v in item.box)
        place.imshow(_pixels(train, row)[max(0, y0) : y1, max(0, x0) : x1])
        asked = scene.objects[axes.ravel().tolist().index(place) // NEAREST]
        _frame(place, _RIGHT if item.label == asked.label else _WRONG)
        place.set_xlabel(f"{similarity:.2f}", fontsize=7, labelpad=1)


def _frame(axes: Axes, colour: str | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(colour is not None)
        spine.set_linewidth(2.5)
        if colour is not None:
            spine.set_edgecolor(colour)


def _nearest(
    encoder: Encoder, train: ObjectIndex, searched: range, test: ObjectIndex, row: int, context: float
) -> list[tuple[int, int, float]]:
    """(row, object, cosine) of the `NEAREST` train objects of each object of the scene, in order."""
    pool: IndexFeatures = embed_index(encoder, train, rows=searched, context=context)
    asked = embed_index(encoder, test, rows=[row], context=context)
    cosine = F.normalize(asked.features, dim=-1) @ F.normalize(pool.features, dim=-1).T
    best = cosine.topk(NEAREST, dim=1)
    return [
        (int(pool.rows[j]), int(pool.numbers[j]), float(similarity))
        for similarities, columns in zip(best.values, best.indices)
        for similarity, j in zip(similarities, columns)
    ]


@torch.no_grad()
def _attention(
    encoder: Encoder, test: ObjectIndex, row: int, context: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each object's window, and the attention of `[OBJ]` in it: mean over heads of the last block, at twice
    the training size."""
    scene = test[row]
    image = torch.from_numpy(_pixels(test, row)).permute(2, 0, 1)
    builder = encoder.query_builder(QueryConfig(size=2 * encoder.image_size, context=context))
    maps = []
    for item in scene.objects:
        query = builder(image, [item])[0]
        weights = encoder.object_attention(query)
        side = query.pixels.shape[1] // encoder.patch_size
        maps.append((query.pixels.transpose(1, 2, 0), weights[0].mean(0).reshape(side, -1).numpy()))
    return maps
