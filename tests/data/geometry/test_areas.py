"""Areas of objects and of their unions against pixels that are painted one after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.data.geometry.areas import area_coverage, areas_in, disjoint, join, select, total_areas
from odis.data.geometry.crops import coverage
from odis.data.geometry.patches import ObjectShapes, object_shapes, objects_on_grid
from odis.objects import rle

WIDTH, HEIGHT = 20, 16
FINE = 4  # corners of boxes lie on quarters of a pixel


@st.composite
def things(draw):
    """Boxes with corners on quarters of a pixel, some of them with a mask of random pixels inside."""
    boxes, masks = [], []
    for _ in range(draw(st.integers(1, 6))):
        x0, x1 = sorted(draw(st.lists(st.integers(0, WIDTH * FINE), min_size=2, max_size=2, unique=True)))
        y0, y1 = sorted(draw(st.lists(st.integers(0, HEIGHT * FINE), min_size=2, max_size=2, unique=True)))
        boxes.append([x0 / FINE, y0 / FINE, x1 / FINE, y1 / FINE])
        mask = None
        if draw(st.booleans()):
            mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
            part = mask[y0 // FINE : -(-y1 // FINE), x0 // FINE : -(-x1 // FINE)]
            part[:] = np.random.default_rng(draw(st.integers(0, 10**6))).random(part.shape) < 0.6
            part[0, 0] = True
        masks.append(mask)
    return np.array(boxes), masks


def painted(box, mask) -> np.ndarray:
    """The object, FINE x FINE points a pixel."""
    canvas = np.zeros((HEIGHT * FINE, WIDTH * FINE), dtype=bool)
    for y in range(HEIGHT * FINE):
        for x in range(WIDTH * FINE):
            inside = box[0] * FINE <= x < box[2] * FINE and box[1] * FINE <= y < box[3] * FINE
            canvas[y, x] = inside if mask is None else mask[y // FINE, x // FINE]
    return canvas


def shapes_of(boxes, masks) -> ObjectShapes:
    return object_shapes(boxes, [None if m is None else rle.encode(m) for m in masks], WIDTH, HEIGHT)


def random_crops(seed: int, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, (WIDTH - 1, HEIGHT - 1), (count, 2))
    return np.concatenate([low, rng.integers(low + 1, (WIDTH + 1, HEIGHT + 1))], axis=1)


@settings(max_examples=25, deadline=None)
@given(things(), st.integers(0, 10**6), st.data())
def test_areas_and_unions_equal_painted_pixels(objects, seed, data):
    boxes, masks = objects
    shapes, crops = shapes_of(boxes, masks), random_crops(seed)
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(boxes), max_size=len(boxes)))
    groups = [[k for k, label in enumerate(labels) if label == wanted] for wanted in sorted(set(labels))]
    canvases = [painted(box, mask) for box, mask in zip(boxes, masks)]
    joined = join(shapes, groups)
    unions = [np.logical_or.reduce([canvases[k] for k in group]) for group in groups]
    for found, canvas in ((shapes, canvases), (joined, unions)):
        inside = [
            [c[y0 * FINE : y1 * FINE, x0 * FINE : x1 * FINE].sum() / FINE**2 for c in canvas]
            for x0, y0, x1, y1 in crops
        ]
        assert areas_in(found, crops) == pytest.approx(np.array(inside), abs=1e-9)
        total = np.array([c.sum() / FINE**2 for c in canvas])
        assert total_areas(found) == pytest.approx(total, abs=1e-9)
        of_crops = np.prod(crops[:, 2:] - crops[:, :2], axis=1)[:, None]
        assert area_coverage(crops, found) == pytest.approx(inside / np.minimum(of_crops, total), abs=1e-9)
        assert areas_in(found, crops[:, None]).shape == (3, 1, len(canvas))
    for k, group in enumerate(groups):
        assert joined.boxes[k].tolist() == [*boxes[group, :2].min(0), *boxes[group, 2:].max(0)]
        assert joined.of_box[k] == all(masks[i] is None for i in group)


@settings(max_examples=50, deadline=None)
@given(things())
def test_rectangles_of_a_union_do_not_overlap(objects):
    rectangles = disjoint(objects[0])
    for i, (ax0, ay0, ax1, ay1) in enumerate(rectangles):
        assert ax0 < ax1
        assert ay0 < ay1
        for bx0, by0, bx1, by1 in rectangles[i + 1 :]:
            assert min(ax1, bx1) <= max(ax0, bx0) or min(ay1, by1) <= max(ay0, by0)


@settings(max_examples=25, deadline=None)
@given(things(), st.integers(0, 10**6))
def test_a_class_covers_the_patches_that_its_objects_cover(objects, seed):
    """At any overlap; a class of boxes is widened like a box."""
    shapes, crops, flips = shapes_of(*objects), random_crops(seed), np.array([False, True, False])
    together = join(shapes, [range(len(shapes.boxes))])
    alone = objects_on_grid(shapes, crops, flips, (5, 4), 0, 0)
    assert (objects_on_grid(together, crops, flips, (5, 4), 0, 0)[:, 0] == alone.any(1)).all()
    only_boxes = shapes_of(objects[0], [None] * len(objects[0]))
    of_boxes = join(only_boxes, [range(len(objects[0]))])
    wide = objects_on_grid(only_boxes, crops, flips, (5, 4), 0, 1).any(1)
    assert (objects_on_grid(of_boxes, crops, flips, (5, 4), 0, 1)[:, 0] == wide).all()


@settings(max_examples=50, deadline=None)
@given(things(), st.integers(0, 10**6))
def test_coverage_of_a_box_is_that_of_crops(objects, seed):
    shapes, crops = shapes_of(objects[0], [None] * len(objects[0])), random_crops(seed)
    assert area_coverage(crops, shapes) == pytest.approx(coverage(crops, objects[0]), abs=1e-9)


def test_select_takes_objects_in_any_order_and_none():
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2:5, 3:9] = mask[7, 7] = True
    shapes = shapes_of(np.array([[0, 0, 4, 4], [3, 2, 9, 8], [1, 1, 2, 2]]), [None, mask, None])
    assert total_areas(select(shapes, [2, 1])).tolist() == [1, 19]
    assert select(shapes, [2, 1]).of_box.tolist() == [True, False]
    assert total_areas(select(shapes, [])).shape == (0,)
    assert areas_in(select(shapes, []), random_crops(0)).shape == (3, 0)
    assert objects_on_grid(select(shapes, []), random_crops(0), np.zeros(3, bool), (2, 2), 0, 0).shape == (
        3, 0, 2, 2,
    )  # fmt: skip


def test_a_union_that_a_crop_shows_whole_is_covered_to_the_last_bit():
    """Sums of areas are rounded; a coverage of 1 is asked for by `min_coverage 1`."""
    rng = np.random.default_rng(0)
    boxes = rng.random((40, 4)) * 5
    boxes[:, 2:] += boxes[:, :2] + 0.1
    together = join(shapes_of(boxes, [None] * 40), [range(40)])
    assert area_coverage(np.array([[0, 0, 20, 16]]), together)[0, 0] == 1
    whole = join(shapes_of(np.array([[0, 0, 9.7, 16], [9.7, 0, 20, 16]]), [None, None]), [[0, 1]])
    assert (area_coverage(random_crops(1, 50), whole) == 1).all()
