"""Which objects the views of an image show, and where the views are cut. No pixels.

V views (globals first, then locals), G of them global, n objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from odis.config.training import ObjectsConfig, ViewsConfig
from odis.data.geometry.areas import area_coverage, areas_in, join, select, total_areas
from odis.data.geometry.crops import (
    box_areas,
    choose_target,
    clip_boxes,
    coverage,
    object_aware_crops,
    propose_crops,
)
from odis.data.geometry.patches import ObjectShapes, object_shapes
from odis.types import ImageObjects

_ROUNDING = 1e-9  # of a share: more than sums of areas are off by


@dataclass(frozen=True, slots=True)
class ChosenObjects:
    """The objects that the object tokens of an image stand for, the target first."""

    shapes: ObjectShapes  # n; none if there is no target
    members: list[tuple[int, ...]]  # of each, its objects in the row; none for the whole image


@dataclass(frozen=True, slots=True)
class Framing:
    """Objects and crops of an image's views."""

    chosen: ChosenObjects
    crops: np.ndarray  # int64 (V, 4)
    lost: np.ndarray  # bool (V,): views that do not count as views of the target, whatever they show


def frame_views(
    rng: np.random.Generator,
    row: ImageObjects,
    width: int,
    height: int,
    objects: ObjectsConfig,
    views: ViewsConfig,
) -> Framing:
    """Draw the objects and the crops of an image's views.

    An image without usable objects is one object itself, and so is every image if `objects.use` is false: its
    crops are plain random-resized-crops.

    Raises:
        DataError: A mask of the row is no mask of that image.
    """
    if objects.target == "first-crop":
        every = all_objects(row, width, height, objects)
        if every is not None:
            return first_crop(rng, every, width, height, objects, views)
    chosen = choose_objects(rng, row, width, height, objects)
    crops = draw_crops(rng, width, height, chosen, objects, views)
    return Framing(chosen, crops, np.zeros(len(crops), dtype=bool))


def shown_shares(crops: np.ndarray, chosen: ChosenObjects, objects: ObjectsConfig) -> np.ndarray:
    """How well each crop shows each object, float64 (..., n): by its box; where the area decides (classes,
    `first-crop`) by its area.
    """
    if objects.unit == "classes" or objects.target == "first-crop":
        return area_coverage(crops, chosen.shapes)
    return coverage(crops, chosen.shapes.boxes)


def choose_objects(
    rng: np.random.Generator, row: ImageObjects, width: int, height: int, objects: ObjectsConfig
) -> ChosenObjects:
    """The target, drawn from all objects of the image, and up to `per_image - 1` others.

    Raises:
        DataError: A mask of the row is no mask of that image.
    """
    if objects.unit == "classes":
        every = all_objects(row, width, height, objects)
        if every is None:
            return _whole_image(width, height)
        which = _drawn(rng, total_areas(every.shapes), objects)
        return ChosenObjects(select(every.shapes, which), [every.members[k] for k in which])
    clipped, usable = _usable(row, width, height, objects)
    if not len(usable):
        return _whole_image(width, height)
    # Masks are decoded of the chosen ones alone.
    numbers = [int(usable[k]) for k in _drawn(rng, box_areas(clipped[usable]), objects)]
    shapes = object_shapes(clipped[numbers], [row.objects[k].mask for k in numbers], width, height)
    return ChosenObjects(shapes, [(k,) for k in numbers])


def all_objects(row: ImageObjects, width: int, height: int, objects: ObjectsConfig) -> ChosenObjects | None:
    """Every usable object of the image in the row's order, or every class in that of its first object; None
    without any.

    Raises:
        DataError: A mask of the row is no mask of that image.
    """
    clipped, usable = _usable(row, width, height, objects)
    if not len(usable):
        return None
    shapes = object_shapes(clipped[usable], [row.objects[k].mask for k in usable], width, height)
    if objects.unit == "instances":
        return ChosenObjects(shapes, [(int(k),) for k in usable])
    groups: dict[tuple[str, int], list[int]] = {}
    for place, k in enumerate(usable.tolist()):
        label = row.objects[k].label
        groups.setdefault(("object", k) if label is None else ("label", label), []).append(place)
    members = [tuple(usable[group].tolist()) for group in groups.values()]
    return ChosenObjects(join(shapes, list(groups.values())), members)


def draw_crops(
    rng: np.random.Generator,
    width: int,
    height: int,
    chosen: ChosenObjects,
    objects: ObjectsConfig,
    views: ViewsConfig,
) -> np.ndarray:
    """int64 (V, 4): the crops of the global views, then of the local views, around the target."""
    scale, ratio, box = views.global_scale, views.ratio, chosen.shapes.boxes[0]
    shares = _shares_of_target(chosen, objects)
    if views.object_crops:
        global_crops = object_aware_crops(
            rng, width, height, box, views.global_views, scale=scale, ratio=ratio,
            min_coverage=views.min_coverage, candidates=views.candidates, shares=shares,
        )  # fmt: skip
    else:
        global_crops = propose_crops(rng, width, height, (views.global_views,), scale, ratio)
    return np.concatenate([global_crops, _local_crops(rng, width, height, box, shares, views)])


def first_crop(
    rng: np.random.Generator,
    every: ChosenObjects,
    width: int,
    height: int,
    objects: ObjectsConfig,
    views: ViewsConfig,
) -> Framing:
    """The target that the first global crop shows most of, as the code lineage of arXiv 2506.05409 finds it.

        repeat first_crop_draws times: draw the first crop, until an object covers first_crop_coverage of it
        target = the object with the largest area in that crop
        for every other global view:
            repeat candidates times: draw the crop, until it shows the target (min_coverage; at 0 any of it)
            if none did: draw it once more; it is no view of the target

    If no object ever covers that much, the image has no target, as there: all its views are free crops, drawn
    anew, and it takes part in the patch term alone. (The largest object of the last draw would be smaller
    than what was asked for; the whole image is an object where there is no other, and here there are.)

    Args:
        rng: Source of all randomness. Draws are independent, so all are made at once.
        every: All objects of the image.
        width: Image width in pixels.
        height: Image height in pixels.
        objects: How the target is found.
        views: Crops.
    """
    drawn = propose_crops(
        rng, width, height, (objects.first_crop_draws + 1,), views.global_scale, views.ratio
    )
    others = propose_crops(
        rng, width, height, (views.global_views - 1, views.candidates + 1), views.global_scale, views.ratio
    )
    target, first = first_target(every, drawn[:-1], objects)
    if target is None:
        crops = [drawn[-1:], others[:, -1]]
        crops.append(propose_crops(rng, width, height, (views.local_views,), views.local_scale, views.ratio))
        lost = np.zeros(views.global_views + views.local_views, dtype=bool)
        return Framing(ChosenObjects(select(every.shapes, []), []), np.concatenate(crops), lost)
    rest = rng.permutation(np.delete(np.arange(len(every.members)), target))[: objects.per_image - 1]
    which = [target, *rest.tolist()]
    chosen = ChosenObjects(select(every.shapes, which), [every.members[k] for k in which])
    shares = _shares_of_target(chosen, objects)
    assert shares is not None
    share = shares(others[:, :-1])  # (G - 1, candidates)
    shows = (share > 0) & (share >= views.min_coverage)
    took = np.where(shows.any(1), shows.argmax(1), views.candidates)
    crops = [drawn[first][None], others[np.arange(len(others)), took]]
    crops.append(_local_crops(rng, width, height, chosen.shapes.boxes[0], shares, views))
    lost = np.concatenate([[False], ~shows.any(1), np.zeros(views.local_views, dtype=bool)])
    return Framing(chosen, np.concatenate(crops), lost)


def first_target(every: ChosenObjects, crops: np.ndarray, objects: ObjectsConfig) -> tuple[int | None, int]:
    """The largest object in the first of these crops (n, 4) of which some object covers enough, and which
    crop that is; None and their number, if there is none.
    """
    areas = areas_in(every.shapes, crops)  # (draws, n)
    least = objects.first_crop_coverage * (1 - _ROUNDING) * box_areas(crops)
    enough = np.flatnonzero(((areas > 0) & (areas >= least[:, None])).any(1))
    return (int(areas[enough[0]].argmax()), int(enough[0])) if len(enough) else (None, len(crops))


def _usable(
    row: ImageObjects, width: int, height: int, objects: ObjectsConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of all objects of the row, clipped to the image, and the numbers of those that are used."""
    clipped, keep = clip_boxes(row.boxes, width, height, objects.min_size)
    return clipped, np.flatnonzero(keep) if objects.use else np.array([], dtype=np.int64)


def _whole_image(width: int, height: int) -> ChosenObjects:
    return ChosenObjects(object_shapes(np.array([[0.0, 0.0, width, height]]), [None], width, height), [()])


def _drawn(rng: np.random.Generator, areas: np.ndarray, objects: ObjectsConfig) -> list[int]:
    """Places of the target and of up to `per_image - 1` others among objects of these areas."""
    target = choose_target(rng, areas, objects.sampling)
    others = rng.permutation(np.delete(np.arange(len(areas)), target))[: objects.per_image - 1]
    return [target, *others.tolist()]


def _shares_of_target(
    chosen: ChosenObjects, objects: ObjectsConfig
) -> Callable[[np.ndarray], np.ndarray] | None:
    """How well crops show the target, where that is not a matter of its box."""
    if not chosen.members[0] or (objects.unit == "instances" and objects.target == "index"):
        return None
    target = ChosenObjects(select(chosen.shapes, [0]), chosen.members[:1])
    return lambda crops: shown_shares(crops, target, objects)[..., 0]


def _local_crops(
    rng: np.random.Generator,
    width: int,
    height: int,
    box: np.ndarray,
    shares: Callable[[np.ndarray], np.ndarray] | None,
    views: ViewsConfig,
) -> np.ndarray:
    """int64 (L, 4)."""
    if views.local_crops == "free":
        return propose_crops(rng, width, height, (views.local_views,), views.local_scale, views.ratio)
    tried = views.candidates if views.local_candidates is None else views.local_candidates
    return object_aware_crops(
        rng, width, height, box, views.local_views, scale=views.local_scale, ratio=views.ratio,
        min_coverage=0.0, candidates=tried, shares=shares,
    )  # fmt: skip
